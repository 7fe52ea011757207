"""Scores of unlikeness are their papers' formulas, and what is stored gives them again."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

import small
from dermdistill.cli import main
from dermdistill.distill import distill
from dermdistill.errors import DataError
from dermdistill.evaluate.ood import FITTED, FOLDER, SUMMARY, VALUES
from dermdistill.evaluate.ood.scores import (
    BANK,
    IMAGES_PER_PROTOTYPE,
    NEIGHBOUR,
    SCORES,
    fit_prototypes,
    fit_scores,
    prototype_score,
)
from dermdistill.evaluate.ood.strangers import noise_images, read_kinds, skin_patches
from dermdistill.evaluate.opened import open_run
from dermdistill.evaluate.predict import predict_taps
from dermdistill.run import read_json

WIDTH, CLASSES = 6, 3


@pytest.fixture(scope="module")
def cloud() -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of three classes with one covariance, class 1 without an image."""
    rng = np.random.default_rng(1)
    labels = rng.choice([0, 2], 900)
    shape = rng.normal(size=(WIDTH, WIDTH))
    centres = rng.normal(scale=4, size=(CLASSES, WIDTH))
    rows = centres[labels] + rng.normal(size=(900, WIDTH)) @ shape
    return rows.astype(np.float32), labels


def test_scores_are_those_of_plain_loops(cloud):
    rows, labels = cloud
    fitted = fit_scores(rows, labels, seed=0)
    rng = np.random.default_rng(2)
    seen, logits = rng.normal(size=(5, WIDTH)).astype(np.float32), rng.normal(size=(5, CLASSES))
    found = {name: score(fitted, seen, logits) for name, score in SCORES.items()}
    means = [rows[labels == code].astype(np.float64).mean(0) for code in (0, 2)]
    residuals = np.concatenate([rows[labels == code] - mean
                                for code, mean in zip((0, 2), means, strict=True)])  # fmt: skip
    shrunken = LedoitWolf(assume_centered=True).fit(residuals.astype(np.float64))
    for row in range(5):
        total = sum(np.exp(value) for value in logits[row])
        assert found["energy"][row] == pytest.approx(-np.log(total))
        assert found["softmax"][row] == pytest.approx(-np.exp(logits[row].max()) / total)
        away = [seen[row] - mean for mean in means]
        nearest = min(float(each @ shrunken.precision_ @ each) for each in away)
        assert found["mahalanobis"][row] == pytest.approx(nearest, rel=1e-3)
        unit = seen[row] / np.linalg.norm(seen[row])
        distances = sorted(np.linalg.norm(unit - each / np.linalg.norm(each)) for each in rows)
        assert found["knn"][row] == pytest.approx(distances[NEIGHBOUR - 1], abs=1e-5)
        centres = fitted["prototypes"].astype(float) @ fitted["axes"].astype(float)
        nearest = min(1 - float(unit @ centre) for centre in centres)
        assert found["prototypes"][row] == pytest.approx(nearest, abs=1e-6)


def test_prototypes_are_the_clusters_unit_centres(cloud):
    """At full rank the product of the two matrices is the centres themselves."""
    rows, _ = cloud
    fitted = fit_prototypes(rows, seed=0)
    assert fitted["prototypes"].shape == (len(rows) // IMAGES_PER_PROTOTYPE, WIDTH)
    assert np.allclose(fitted["axes"] @ fitted["axes"].T, np.eye(WIDTH), atol=1e-5)
    assert np.allclose(np.linalg.norm(fitted["prototypes"], axis=1), 1, atol=1e-5)
    score = prototype_score(fitted, rows, np.empty(0))
    assert -1e-6 < score.min() < score.mean() < 0.1, "training images are near their own clusters"
    assert score.mean() < prototype_score(fitted, -rows, np.empty(0)).mean()


def test_more_numbers_than_images_still_give_finite_scores():
    rng = np.random.default_rng(3)
    rows, labels = rng.normal(size=(12, 40)).astype(np.float32), np.repeat([0, 1], 6)
    fitted = fit_scores(rows, labels, seed=0)
    for name, score in SCORES.items():
        values = score(fitted, 9 * rows[:3], rng.normal(size=(3, 2)))
        assert np.isfinite(values).all(), name


def test_far_points_are_noticed_and_the_bank_stays_small(cloud):
    rows, labels = cloud
    fitted = fit_scores(np.tile(rows, (4, 1)), np.tile(labels, 4), seed=0)
    assert len(fitted["bank"]) == BANK
    logits = np.zeros((len(rows), CLASSES))
    for name in ("mahalanobis", "knn", "prototypes"):
        near, far = (SCORES[name](fitted, at.astype(np.float32), logits) for at in
                     (rows, rows[::-1] * [-3, 2, -1, 4, 1, -2]))  # fmt: skip
        truth = np.repeat([0, 1], len(rows))
        assert roc_auc_score(truth, np.concatenate([near, far])) > 0.9


def test_noise_covers_the_range_and_comes_in_grains():
    images = noise_images(64, 8, seed=1)
    assert np.array_equal(images, noise_images(64, 8, seed=1))
    rough = np.abs(np.diff(images.astype(float), axis=2)).mean((1, 2, 3))
    assert (np.diff(rough[:4]) < 0).all()
    assert images[0].min() == 0
    assert images[0].max() == 255


def test_patches_of_skin_hold_no_lesion():
    image = np.full((1, 40, 40, 3), 200, np.uint8)
    masks = np.zeros((1, 40, 40), bool)
    image[0, :20, :20], masks[0, :20, :20] = 30, True
    (patch,) = skin_patches(image, masks)
    assert (patch == 200).all()
    (corner,) = skin_patches(image, None)
    assert (corner == 30).all()
    assert len(skin_patches(image, np.ones_like(masks))) == 0


def test_a_folder_of_strangers_needs_pictures(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "notes.txt").write_text("no picture")
    with pytest.raises(DataError, match="no subfolder with pictures"):
        read_kinds(tmp_path, 16, "centre")
    Image.new("L", (30, 20), 90).save(tmp_path / "cats" / "cat.png")
    assert read_kinds(tmp_path, 16, "centre")["cats"].shape == (1, 16, 16, 3)


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A student whose scores were measured through the command line."""
    folder = tmp_path_factory.mktemp("ood")
    (folder / "strangers" / "even").mkdir(parents=True)
    for grey in range(3):
        path = folder / "strangers" / "even" / f"{grey}.png"
        Image.new("RGB", (40, 40), (90 * grey,) * 3).save(path)
    run = distill(small.config(folder / "runs", "supervised"), progress=False)
    assert main(["ood", str(run), "--others", str(folder / "strangers"), "--images", "0"]) == 0
    return run


def test_stored_arrays_give_every_score_again(measured):
    with open(measured / FOLDER / VALUES, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "lesions"]
    opened = open_run(measured, progress=False)
    assert [row["image"] for row in rows] == opened.data.test.ids
    embeddings, logits = predict_taps(opened.network, opened.data.test, opened.fabric)
    fitted = load_file(measured / FOLDER / FITTED)
    for name, score in SCORES.items():
        stored = [float(row[name]) for row in rows]
        found = score(fitted, embeddings.numpy(), logits.double().numpy())
        np.testing.assert_allclose(found, stored, rtol=1e-5, atol=1e-6)


def test_figures_follow_from_the_table(measured):
    with open(measured / FOLDER / VALUES, newline="") as file:
        rows = list(csv.DictReader(file))
    summary = read_json(measured / FOLDER / SUMMARY)
    assert set(summary["scores"]) == set(SCORES)
    assert summary["default"] in SCORES
    for name, score in summary["scores"].items():
        assert set(score["strangers"]) == {"lesions", "noise", "skin", "even"}
        lesions = [float(row[name]) for row in rows if row["kind"] == "lesions"]
        for kind in ("noise", "even"):
            others = [float(row[name]) for row in rows if row["kind"] == kind]
            figures = score["strangers"][kind]
            wins = np.mean([(other > own) + 0.5 * (other == own)
                            for other in others for own in lesions])  # fmt: skip
            assert figures["auroc"] == pytest.approx(wins)
            assert figures["noticed"] == pytest.approx(np.mean(
                [other > score["threshold"] for other in others]))  # fmt: skip
    with open(measured / FOLDER / VALUES) as file:
        assert file.readline() == "image,kind,softmax,energy,mahalanobis,knn,prototypes\n"

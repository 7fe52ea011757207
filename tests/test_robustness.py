"""Corruptions look the same twice and grow with severity; attacks and the defence do their sums."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import small
from dermdistill.cli import main
from dermdistill.distill import distill
from dermdistill.errors import ConfigError
from dermdistill.evaluate.metrics import classification_metrics
from dermdistill.evaluate.predictions import Predictions
from dermdistill.evaluate.robustness import FOLDER, SUMMARY, robustness_run
from dermdistill.evaluate.robustness.attacked import ATTACKS, EPSILONS
from dermdistill.evaluate.robustness.attacks import fgsm, pgd, straight_through
from dermdistill.evaluate.robustness.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from dermdistill.evaluate.robustness.optics import LUMA, _disc
from dermdistill.evaluate.robustness.purify import (
    Purification,
    _divergence,
    _gradient,
    tv_denoised,
)
from dermdistill.evaluate.robustness.summary import corruption_errors, error_intervals
from dermdistill.run import read_json

UNDRAWN = ("jpeg", "low_resolution")  # nothing is drawn at random
LEAST_CHANGE = 0.01  # of the pixels' range, at the highest severity
PX = 96


@pytest.fixture(scope="module")
def lesions() -> tuple[torch.Tensor, list[str]]:
    """Six synthetic photographs, large enough to see what is drawn on them."""
    names = [f"SYNTH_{number:07d}" for number in range(1, 7)]
    pictures = []
    for name in names:
        with Image.open(next(small.images().rglob(f"{name}.jpg"))) as image:
            pictures.append(np.asarray(image.convert("RGB").resize((PX, PX))))
    return torch.from_numpy(np.stack(pictures)), names


def _change(before: torch.Tensor, after: torch.Tensor) -> float:
    return float((before.float() - after.float()).abs().mean() / 255)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_grows_with_severity(lesions, name):
    pixels, ids = lesions
    # A ruler does not grow, it comes closer to the lesion.
    seen = np.s_[:, PX // 4 : -PX // 4, PX // 4 : -PX // 4] if name == "ruler" else np.s_[:]
    changes = [_change(pixels[seen], corrupt(pixels, ids, name, level, 1)[seen])
               for level in SEVERITIES]  # fmt: skip
    assert changes == sorted(changes)
    assert changes[0] < 0.6 * changes[-1]
    assert changes[-1] > LEAST_CHANGE


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_is_drawn_follows_from_seed_and_id_alone(lesions, name):
    pixels, ids = lesions
    together = corrupt(pixels, ids, name, 3, 1)
    backwards = corrupt(pixels.flip(0), ids[::-1], name, 3, 1).flip(0)
    assert torch.equal(together, backwards)
    assert torch.equal(together[2:3], corrupt(pixels[2:3], ids[2:3], name, 3, 1))
    assert together.dtype == torch.uint8
    for seed, names in ((2, ids), (1, [f"other-{who}" for who in ids])):
        assert torch.equal(together, corrupt(pixels, names, name, 3, seed)) == (name in UNDRAWN)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("colour", [0, 255])
def test_black_and_white_pictures_survive(name, colour):
    even = torch.full((1, 24, 24, 3), colour, dtype=torch.uint8)
    for severity in SEVERITIES:
        assert corrupt(even, ["x"], name, severity, 1).shape == even.shape


def test_pixels_are_left_as_they_were(lesions):
    pixels, ids = lesions
    before = pixels.clone()
    for name in CORRUPTIONS:
        corrupt(pixels, ids, name, 5, 1)
    assert torch.equal(pixels, before)


def test_unknown_corruptions_and_severities_are_refused(lesions):
    with pytest.raises(ConfigError, match="did you mean 'hair'"):
        corrupt(*lesions, "hairs", 1, 1)
    with pytest.raises(ConfigError, match="severity is 6"):
        corrupt(*lesions, "hair", 6, 1)


@pytest.mark.parametrize("name", ["hair", "ink", "ruler"])
def test_what_lies_on_skin_darkens_it_and_stays_where_it_is(name):
    skin = torch.tensor([225, 180, 165], dtype=torch.uint8).expand(1, PX, PX, 3).contiguous()
    covered = [corrupt(skin, ["x"], name, level, 1).float() for level in SEVERITIES]
    for picture in covered:
        assert (picture <= skin.float() + 1).all()
    if name != "ruler":  # a ruler moves inwards; hairs and strokes are joined by more
        dark = [(picture < skin.float() - 60).any(-1) for picture in covered]
        for fewer, more in itertools.pairwise(dark):
            assert (fewer & ~more).sum() < 0.1 * fewer.sum() + 5


def test_a_vignette_blacks_the_corners_and_spares_the_middle(lesions):
    pixels, ids = lesions
    seen = corrupt(pixels, ids, "vignette", 4, 1)
    assert seen[:, [0, 0, -1, -1], [0, -1, 0, -1]].max() < 10
    middle = np.s_[:, PX // 2 - 8 : PX // 2 + 8, PX // 2 - 8 : PX // 2 + 8]
    assert _change(pixels[middle], seen[middle]) < 0.01


def test_a_cast_keeps_the_brightness(lesions):
    pixels, ids = lesions
    dim = pixels // 3  # far from white, so that nothing is clipped
    luma = torch.tensor(LUMA, dtype=torch.float32)
    seen = corrupt(dim, ids, "colour_cast", 5, 1).float() @ luma
    torch.testing.assert_close(seen.mean((1, 2)), (dim.float() @ luma).mean((1, 2)), atol=0.5,
                               rtol=0)  # fmt: skip


@pytest.mark.parametrize("radius", [0.4, 1.7, 4.2])
def test_the_blurs_disc_has_a_discs_shares(radius):
    kernel = _disc(radius)
    reach = len(kernel) // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert np.array_equal(kernel, kernel.T)
    assert kernel[reach, reach] == pytest.approx(min(1 / (np.pi * radius**2), 1), rel=0.06)
    second = (kernel * (np.arange(len(kernel)) - reach) ** 2).sum()
    if radius > 1:  # the variance of a disc along one axis, and of a pixel's own width
        assert second == pytest.approx(radius**2 / 4 + 1 / 12, rel=0.1)


def _linear(classes: int = 3):
    """A linear classifier of 4x4 images, whose worst case is known in closed form."""
    weight = torch.randn(classes, 48, generator=torch.Generator().manual_seed(3))
    return lambda images: images.flatten(1) @ weight.T, weight


def test_fgsm_steps_to_the_corner_that_the_closed_form_names():
    logits_of, weight = _linear(2)
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(4))
    target = torch.tensor([0, 1, 1, 0, 1])
    away = (weight[1 - target] - weight[target]).sign().view_as(images)
    expected = (images + 0.1 * away).clamp(0, 1)
    torch.testing.assert_close(fgsm(logits_of, images, target, 0.1), expected)


def test_pgd_finds_the_worst_of_a_linear_classifier_and_stays_in_the_ball():
    logits_of, weight = _linear(2)
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(4))
    target = torch.tensor([0, 1, 1, 0, 1])
    found = pgd(logits_of, images, target, 0.1, 10, torch.Generator().manual_seed(5))
    away = (weight[1 - target] - weight[target]).sign().view_as(images)
    torch.testing.assert_close(found, (images + 0.1 * away).clamp(0, 1))
    again = pgd(logits_of, images, target, 0.1, 1, torch.Generator().manual_seed(5), draws=3)
    assert (again - images).abs().max() <= 0.1 + 1e-6
    assert 0 <= again.min() <= again.max() <= 1
    assert not images.requires_grad


def test_straight_through_has_the_changes_value_and_the_identitys_gradient():
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    seen = straight_through(lambda inner: (inner * 4).round() / 4, images)
    torch.testing.assert_close(seen, (images * 4).round() / 4)
    (gradient,) = torch.autograd.grad((3 * seen).sum(), images)
    assert torch.equal(gradient, torch.full_like(images, 3))


@pytest.mark.parametrize(("weight", "steps"), [(0.1, 1), (0.06, 12), (0.3, 40)])
def test_denoising_is_that_of_scikit_image(weight, steps):
    restoration = pytest.importorskip("skimage.restoration")
    generator = torch.Generator().manual_seed(6)
    images = torch.rand(2, 3, 9, 14, generator=generator, dtype=torch.float64)
    ours = tv_denoised(images, weight, steps)
    for image, found in zip(images.numpy(), ours.numpy(), strict=True):
        # It gives the value from before its last step of the dual.
        theirs = restoration.denoise_tv_chambolle(
            image, weight, eps=0, max_num_iter=steps + 1, channel_axis=0
        )
        np.testing.assert_allclose(found, theirs, atol=1e-9)


def test_divergence_is_minus_the_gradients_transpose():
    generator = torch.Generator().manual_seed(7)
    images = torch.randn(1, 1, 5, 6, generator=generator, dtype=torch.float64)
    field = torch.randn(2, 1, 1, 5, 6, generator=generator, dtype=torch.float64)
    left, right = (_gradient(images) * field).sum(), -(images * _divergence(field)).sum()
    assert left.item() == pytest.approx(right.item(), abs=1e-12)


def test_attacks_get_true_gradients_through_the_denoiser():
    images = torch.rand(1, 1, 4, 5, generator=torch.Generator().manual_seed(8),
                        dtype=torch.float64).requires_grad_()  # fmt: skip
    assert torch.autograd.gradcheck(lambda seen: tv_denoised(seen, 0.1, 5), images)
    even = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(tv_denoised(even, 0.1, 5).sum(), even)
    assert torch.isfinite(gradient).all()


def test_purification_takes_noise_away_and_leaves_an_even_image():
    generator = torch.Generator().manual_seed(9)
    even = torch.full((2, 3, 32, 32), 0.4)
    purify = Purification()
    noisy = (even + 0.05 * torch.randn(even.shape, generator=generator)).clamp(0, 1)
    assert (purify(noisy, generator) - even).std() < 0.4 * (noisy - even).std()
    quiet = Purification(noise_std=0.0)(even, generator)
    torch.testing.assert_close(quiet, even)
    twice = [purify(noisy, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*twice)


def _row(network: str, corruption: str, severity: int, error: float) -> dict:
    return {"network": network, "corruption": corruption, "severity": severity,
            "balanced_accuracy": 1 - error}  # fmt: skip


def test_mean_corruption_error_is_the_papers():
    student = {"clean": [0.2], "hair": [0.25, 0.45], "blur": [0.3, 0.7]}
    teacher = {"clean": [0.1], "hair": [0.2, 0.3], "blur": [0.2, 0.6]}
    rows = [_row(who, name, level, error)
            for who, errors in (("student", student), ("teacher", teacher))
            for name, values in errors.items() for level, error in enumerate(values)]  # fmt: skip
    found = corruption_errors(rows, "student", "teacher")
    hair, blur = (0.25 + 0.45) / (0.2 + 0.3), (0.3 + 0.7) / (0.2 + 0.6)
    assert found["per_corruption"]["hair"]["ratio"] == pytest.approx(hair)
    assert found["mean_corruption_error"] == pytest.approx((hair + blur) / 2)
    added = ((0.05 + 0.25) / (0.1 + 0.2) + (0.1 + 0.5) / (0.1 + 0.5)) / 2
    assert found["relative_mean_corruption_error"] == pytest.approx(added)
    assert found["mean_error"] == pytest.approx((0.35 + 0.5) / 2)
    alone = corruption_errors([row for row in rows if row["network"] == "teacher"],
                              "teacher", "teacher")  # fmt: skip
    assert alone["mean_corruption_error"] is None
    assert alone["reference"] is None
    assert alone["clean_error"] == pytest.approx(0.1)


def test_intervals_of_the_means_are_quantiles_over_common_draws():
    rng, conditions = np.random.default_rng(0), (("clean", 0), ("hair", 1), ("hair", 2), ("fog", 1))
    rows = [_row(who, name, level, 0.3) for who in ("student", "teacher")
            for name, level in conditions]  # fmt: skip
    draws = [rng.uniform(0.5, 0.8, 200) for _ in rows]
    found = error_intervals(rows, draws, "student", "teacher", 0.9)
    error = {(row["network"], row["corruption"], row["severity"]): 1 - values
             for row, values in zip(rows, draws, strict=True)}  # fmt: skip
    ratios = [
        ((error["student", "hair", 1][d] + error["student", "hair", 2][d])
         / (error["teacher", "hair", 1][d] + error["teacher", "hair", 2][d])
         + error["student", "fog", 1][d] / error["teacher", "fog", 1][d]) / 2
        for d in range(200)
    ]  # fmt: skip
    assert found["mean_corruption_error"] == pytest.approx(np.quantile(ratios, [0.05, 0.95]))
    clean = np.quantile(error["student", "clean", 0], [0.05, 0.95])
    assert found["clean_error"] == pytest.approx(clean)
    alone = error_intervals(rows[:4], draws[:4], "student", "teacher", 0.9)
    assert alone["mean_corruption_error"] is None


@pytest.fixture(scope="module")
def tested(tmp_path_factory) -> Path:
    """A student with a teacher, corrupted and attacked through the command line."""
    run = distill(small.config(tmp_path_factory.mktemp("robust"), "kd"), progress=False)
    assert main(["robustness", str(run), "--images", "20", "--attack_images", "10"]) == 0
    return run


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_condition_has_a_row_that_its_predictions_give(tested):
    folder = tested / FOLDER
    rows = _rows(folder / "corruptions.csv")
    assert len(rows) == 2 * (1 + len(CORRUPTIONS) * len(SEVERITIES))
    for row in rows[::7]:
        name = f"{row['network']}-{row['corruption']}-{row['severity']}.csv"
        predictions = Predictions.load(folder / "predictions" / name, folder / "truth.csv")
        assert len(predictions) == int(row["images"]) == 20
        figures = classification_metrics(predictions)
        assert float(row["balanced_accuracy"]) == pytest.approx(figures["balanced_accuracy"])
        assert float(row["low"]) <= figures["balanced_accuracy"] <= float(row["high"])
    summary = read_json(folder / SUMMARY)
    ends = summary["corruptions"]["intervals"]
    assert ends["mean_error"][0] < summary["corruptions"]["mean_error"] < ends["mean_error"][1]
    assert summary["corruptions"]["reference"] == "teacher"
    assert set(summary["corruptions"]["per_corruption"]) == set(CORRUPTIONS)
    for picture in ("corruptions.png", "examples.png"):
        with Image.open(folder / picture) as image:
            assert min(image.size) > 300


def test_attacks_are_worse_than_none_and_grow(tested):
    rows = _rows(tested / FOLDER / "attacks.csv")
    assert len(rows) == 2 + len(ATTACKS) * len(EPSILONS)
    losses = {}
    for row in rows:
        name = f"attack-{row['defence']}-{row['attack']}-{row['epsilon_255']}.csv"
        found = Predictions.load(tested / FOLDER / "predictions" / name,
                                 tested / FOLDER / "attacks-truth.csv")  # fmt: skip
        assert float(row["accuracy"]) == pytest.approx((found.predicted == found.labels).mean())
        losses[row["defence"], row["attack"], int(row["epsilon_255"])] = float(
            F.nll_loss(torch.from_numpy(found.probabilities).log(), torch.from_numpy(found.labels))
        )
    weak, strong = EPSILONS[0], EPSILONS[-1]
    for attack, met in ATTACKS:
        assert losses[met, attack, strong] > losses[met, "clean", 0]
    for attack, met in (("fgsm", "none"), ("pgd", "none"), ("through", "purified")):
        assert losses[met, attack, strong] > losses[met, attack, weak]
    # A defence must be attacked by who knows it: that is at least as strong as who does not.
    assert losses["purified", "through", strong] > losses["purified", "plain", strong]


def test_a_run_without_a_teacher_has_no_ratio(tested, capsys):
    teacher = (tested / read_json(tested / "provenance.json")["teacher_run"]).resolve()
    summary = robustness_run(teacher, 8, 0, corruptions=("hair",), progress=False)
    assert summary == read_json(teacher / FOLDER / SUMMARY)
    assert summary["corruptions"]["mean_corruption_error"] is None
    assert "attacks" not in summary
    assert main(["robustness", str(teacher), "--images", "-1"]) == 2
    assert "images is -1" in capsys.readouterr().err

"""The synthetic set: same bytes from one seed, ISIC 2019's layout, learnable, not trivial."""

import hashlib
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dermdistill.data.phantom import plan, synthesise
from dermdistill.data.phantom_lesion import STRUCTURES
from dermdistill.data.phantom_looks import CLASSES, LOOKS, MIMICS
from dermdistill.data.phantom_view import _placed
from dermdistill.data.readers import read_table
from dermdistill.data.splits import make_split
from dermdistill.errors import ConfigError, DataError

IMAGES = 320


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return synthesise(tmp_path_factory.mktemp("synth") / "data", IMAGES, workers=2)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


def test_layout_is_that_of_isic_2019(data):
    truth = pandas.read_csv(data / "ISIC_2019_Training_GroundTruth.csv")
    assert ",".join(truth.columns) == "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
    assert (truth.iloc[:, 1:].sum(axis=1) == 1).all()
    assert truth["UNK"].sum() == 0
    metadata = pandas.read_csv(data / "ISIC_2019_Training_Metadata.csv")
    assert list(metadata.columns) == ["image", "age_approx", "anatom_site_general", "lesion_id",
                                      "sex"]  # fmt: skip
    assert list(metadata["image"]) == list(truth["image"])
    images = data / "ISIC_2019_Training_Input"
    assert {path.stem for path in images.iterdir()} == set(truth["image"])
    with Image.open(images / f"{truth['image'][0]}.jpg") as image:
        assert (image.size, image.mode, image.format) == ((128, 96), "RGB", "JPEG")


def test_table_and_split_read_it(data):
    table = read_table(data)
    assert len(table) == IMAGES
    assert table.classes == CLASSES
    missing = table.frame[["age", "sex", "site"]].isna().mean()
    assert missing.between(0.001, 0.25).all()
    assert 0.08 < missing["site"] < 0.25
    per_lesion = table.frame.groupby("lesion")
    assert (per_lesion["label"].nunique() == 1).all()
    assert per_lesion.size().max() >= 3
    split = make_split(table, "lesion")
    parts = split.frame.merge(table.frame, on="id").groupby("part")["label"].nunique()
    assert len(parts) == 6
    assert (parts == len(CLASSES)).all()


def test_same_seed_same_bytes_whatever_the_workers(tmp_path):
    made = [contents(synthesise(tmp_path / f"{workers}", 24, 64, seed=7, workers=workers))
            for workers in (1, 2)]  # fmt: skip
    assert len(made[0]) == 24 + 3
    assert made[0] == made[1]
    other = contents(synthesise(tmp_path / "other", 24, 64, seed=8, workers=1))
    assert not set(made[0].values()) & {other[name] for name in other if name.endswith("jpg")}


def test_every_image_differs(data):
    assert len(set(contents(data / "ISIC_2019_Training_Input").values())) == IMAGES


@pytest.mark.parametrize("images", [16, 100, 240, 1000, 5000])
@pytest.mark.parametrize("seed", [0, 2021])
def test_plan_has_all_classes_in_the_real_order(images, seed):
    lesions = plan(images, seed)
    assert sorted(name for each in lesions for name in each.images) == [
        f"SYNTH_{number:07d}" for number in range(1, images + 1)]  # fmt: skip
    counts = pandas.Series([each.label for each in lesions]).value_counts()
    assert set(counts.index) == set(CLASSES)
    if images >= 240:
        assert counts.min() >= 10
        assert counts.idxmax() == "NV"
    if images == 5000:
        shares = counts / counts.sum()
        assert all(abs(shares[label] - LOOKS[label].share) < 0.02 for label in CLASSES)
    # A lesion whose id is missing counts as its own: it must not have a second image.
    assert all(len(each.images) == 1 for each in lesions if not each.name)
    assert any(not each.name for each in plan(400, seed))


def test_looks_name_structures_that_exist():
    assert set(MIMICS) == set(CLASSES)
    assert sum(look.share for look in LOOKS.values()) == pytest.approx(1, abs=0.01)
    for label, look in LOOKS.items():
        assert set(look.structures) <= set(STRUCTURES)
        assert label not in MIMICS[label]
    assert set(STRUCTURES) == {name for look in LOOKS.values() for name in look.structures}


def test_a_turned_view_never_reaches_past_the_painted_skin():
    skin, rng = Image.new("RGB", (202, 202), "white"), np.random.default_rng(0)
    assert min(_placed(rng, skin, (128, 96)).min() for _ in range(500)) > 0.9


def test_own_result_is_kept_and_nothing_else_is_touched(tmp_path):
    folder = synthesise(tmp_path / "data", 16, 32, workers=1)
    before = contents(folder)
    assert synthesise(folder, 16, 32, workers=1) == folder
    with pytest.raises(DataError, match="choose another folder"):
        synthesise(folder, 17, 32, workers=1)
    assert contents(folder) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(DataError, match="holds other files"):
        synthesise(tmp_path / "mine", 16, 32, workers=1)
    with pytest.raises(DataError, match="cannot write"):
        synthesise(tmp_path / "mine" / "notes.txt" / "data", 16, 32, workers=1)


@pytest.mark.parametrize("wrong", [{"images": 3}, {"px": 8}, {"px": 9999}, {"seed": -1}])
def test_wrong_settings(tmp_path, wrong):
    with pytest.raises(ConfigError, match="allowed are 16 or more"):
        synthesise(tmp_path / "data", **wrong)
    assert list(tmp_path.iterdir()) == []


def colours(path: str) -> np.ndarray:
    """What the middle and the whole of an image look like, in few numbers."""
    with Image.open(path) as image:
        small = np.asarray(image.resize((8, 6)), float).ravel()
        pixels = np.asarray(image, float)
    rows, cols = pixels.shape[0] // 4, pixels.shape[1] // 4
    middle = pixels[rows:-rows, cols:-cols].reshape(-1, 3)
    edges = np.abs(np.diff(pixels, axis=0)).mean((0, 1))
    return np.concatenate([middle.mean(0), middle.std(0), edges, small,
                           *np.percentile(middle, [5, 50, 95], axis=0)])  # fmt: skip


def test_classes_are_learnable_and_overlap(data):
    frame = read_table(data).frame
    features = np.array([colours(path) for path in frame["path"]])
    truth = frame["label"].to_numpy(str)
    predicted = np.empty_like(truth)
    for train, test in GroupKFold(4).split(features, truth, frame["lesion"]):
        model = make_pipeline(StandardScaler(), LogisticRegression(
            C=0.1, class_weight="balanced", max_iter=2000))  # fmt: skip
        predicted[test] = model.fit(features[train], truth[train]).predict(features[test])
    score = balanced_accuracy_score(truth, predicted)
    assert 0.25 < score < 0.98  # chance is 0.125; a small convolutional network reaches 0.64

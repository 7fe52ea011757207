"""Predictions survive their files digit by digit, and every bad row is named."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermdistill.errors import DataError
from dermdistill.evaluate.predictions import Predictions

CLASSES = ("MEL", "NV", "BCC")


def example(**changes) -> Predictions:
    parts = {
        "ids": ["a", "b", "c"],
        "classes": CLASSES,
        "probabilities": np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]),
        "labels": np.array([0, -1, 2]),
    }
    return Predictions(**parts | changes)


def write_lines(path, *lines: str):
    path.write_text("\n".join(lines) + "\n")
    return path


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(0, 30),
    classes=st.integers(1, 9),
    narrow=st.booleans(),
)
def test_files_give_back_every_digit(tmp_path_factory, seed, images, classes, narrow):
    rng = np.random.default_rng(seed)
    names = tuple(f'class "{code}", <b>' for code in range(classes))
    drawn = rng.dirichlet(np.full(classes, 0.05), images).reshape(images, classes)
    drawn = drawn.astype(np.float32) if narrow else drawn
    ids = [f"ISIC_{row:07d}, ü" for row in range(images)]
    made = Predictions(ids, names, drawn, rng.integers(-1, classes, images))
    folder = tmp_path_factory.mktemp("predictions")
    made.save(folder / "p.csv")
    made.save_truth(folder / "t.csv")
    read = Predictions.load(folder / "p.csv", folder / "t.csv")
    assert read.ids == made.ids
    assert read.classes == made.classes
    np.testing.assert_array_equal(read.probabilities, made.probabilities)
    np.testing.assert_array_equal(read.labels, made.labels)
    if narrow:
        np.testing.assert_array_equal(read.probabilities.astype(np.float32), drawn)


def test_files_have_isic_form(tmp_path):
    example().save(tmp_path / "p.csv")
    example().save_truth(tmp_path / "t.csv")
    with open(tmp_path / "p.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "MEL", "NV", "BCC"]
    assert [row[0] for row in rows[1:]] == ["a", "b", "c"]
    with open(tmp_path / "t.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "MEL", "NV", "BCC", "UNK"]
    assert [[float(cell) for cell in row[1:]] for row in rows[1:]] == [
        [1, 0, 0, 0],
        [0, 0, 0, 1],
        [0, 0, 1, 0],
    ]


def test_truth_is_joined_by_id_and_by_column_name(tmp_path):
    example().save(tmp_path / "p.csv")
    truth = write_lines(tmp_path / "t.csv", "image,BCC,MEL,NV", "z,1,0,0", "c,0,0,1", "b,1,0,0",
                        "a,0,0,0")  # fmt: skip
    read = Predictions.load(tmp_path / "p.csv", truth)
    np.testing.assert_array_equal(read.labels, [-1, 2, 1])


def test_unk_may_be_a_class_of_its_own(tmp_path):
    made = Predictions(["a", "b"], ("MEL", "UNK"), np.array([[0.5, 0.5], [1, 0]]), np.array([1, 0]))
    made.save(tmp_path / "p.csv")
    made.save_truth(tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines()[0] == "image,MEL,UNK"
    read = Predictions.load(tmp_path / "p.csv", tmp_path / "t.csv")
    np.testing.assert_array_equal(read.labels, [1, 0])


def test_without_a_truth_file_no_label_is_known(tmp_path):
    example().save(tmp_path / "p.csv")
    np.testing.assert_array_equal(Predictions.load(tmp_path / "p.csv").labels, [-1, -1, -1])


def test_the_first_of_equal_probabilities_is_predicted():
    tied = example(probabilities=np.array([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [0, 0.5, 0.5]]))
    np.testing.assert_array_equal(tied.predicted, [0, 1, 1])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([np.nan, 0.5, 0.5], r"'b' holds a value that is no finite number"),
        ([np.inf, 0.5, 0.5], r"'b' holds a value that is no finite number"),
        ([-0.1, 0.6, 0.5], r"'b' holds a probability outside \[0, 1\]"),
        ([1.2, -0.1, -0.1], r"'b' holds a probability outside \[0, 1\]"),
        ([0.5, 0.3, 0.1], r"'b' does not sum to 1 within 0.0001"),
        ([0.5, 0.3, 0.20011], r"'b' does not sum to 1"),
    ],
)
def test_bad_probabilities_name_their_row(row, message):
    values = example().probabilities.copy()
    values[1] = row
    with pytest.raises(DataError, match=message):
        example(probabilities=values)


def test_rounded_rows_pass():
    values = example().probabilities.copy()
    values[1] = [0.50005, 0.3, 0.2]
    assert len(example(probabilities=values)) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ["a", "b", "a"]}, "image id 'a' stands there twice"),
        ({"classes": ("MEL", "NV", "MEL")}, "class 'MEL' stands there twice"),
        ({"ids": ["a", "b"]}, r"probabilities have shape \(3, 3\)"),
        ({"labels": np.array([0, 1])}, r"labels have shape \(2,\)"),
        ({"labels": np.array([0, 3, 1])}, "'b' has label 3; allowed: 0 to 2"),
        ({"labels": np.array([0, -2, 1])}, "'b' has label -2"),
    ],
)
def test_bad_parts_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        example(**changes)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["id,MEL,NV", "a,1,0"], "no header 'image'"),
        ([], "no header 'image'"),
        (["image,MEL,NV", "a,1"], "'a' has 1 values, the header names 2"),
        (["image,MEL,NV", "a,1,0", "b,none,0"], "'b' holds a value that is no finite number"),
        (["image,MEL,NV", "a,1,0", "a,1,0"], "'a' stands there twice"),
    ],
)
def test_bad_prediction_files_are_refused(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        Predictions.load(write_lines(tmp_path / "p.csv", *lines))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,MEL,NV", "a,1,0"], "both must name the same classes"),
        (["image,MEL,NV,BCC", "a,1,0,0", "c,0,0,1"], "no row for 1 of 3 predicted images.*'b'"),
        (["image,MEL,NV,BCC", "a,1,1,0", "b,0,0,1", "c,0,0,1"], "'a' is not one-hot"),
        (["image,MEL,NV,BCC", "a,1,0,0", "b,0,0.5,0.5", "c,0,0,1"], "'b' is not one-hot"),
        (["image,MEL,NV,BCC", "a,1,0,0", "a,1,0,0"], "names 'a' twice"),
    ],
)
def test_bad_truth_files_are_refused(tmp_path, lines, message):
    example().save(tmp_path / "p.csv")
    with pytest.raises(DataError, match=message):
        Predictions.load(tmp_path / "p.csv", write_lines(tmp_path / "t.csv", *lines))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv does not exist"):
        Predictions.load(tmp_path / "nowhere.csv")

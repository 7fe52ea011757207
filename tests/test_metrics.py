"""Every figure against plain loops over its definition, and against scikit-learn."""

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from dermdistill.evaluate.metrics import classification_metrics
from dermdistill.evaluate.predictions import Predictions

CASES = 200


def random_predictions(seed: int) -> Predictions:
    """Few images, some classes absent, some labels unknown, many equal probabilities."""
    rng = np.random.default_rng(seed)
    images, classes = int(rng.integers(1, 26)), int(rng.integers(2, 7))
    weights = (
        rng.integers(0, 4, (images, classes)) + np.eye(classes)[rng.integers(0, classes, images)]
    )
    present = rng.choice(classes, int(rng.integers(1, classes + 1)), replace=False)
    labels = rng.choice(present, images)
    labels[rng.random(images) < 0.15] = -1
    return Predictions(
        [f"image {row}" for row in range(images)],
        tuple(f"class {code}" for code in range(classes)),
        weights / weights.sum(axis=1, keepdims=True),
        labels,
    )


def pair_area(positives: list[float], negatives: list[float]) -> float | None:
    """AUC by its definition: the share of pairs in order, a tie worth one half."""
    if not positives or not negatives:
        return None
    won = sum((a > b) + 0.5 * (a == b) for a in positives for b in negatives)
    return won / (len(positives) * len(negatives))


def plain_metrics(predictions: Predictions) -> dict:
    """The same figures by loops over the definitions."""
    rows = []
    for label, values in zip(
        predictions.labels.tolist(), predictions.probabilities.tolist(), strict=True
    ):
        if label >= 0:
            best = max(range(len(values)), key=lambda code, values=values: (values[code], -code))
            rows.append((label, best, values))
    codes = range(len(predictions.classes))
    table = [[sum(t == a and p == b for t, p, _ in rows) for b in codes] for a in codes]
    per_class = {}
    for code, name in enumerate(predictions.classes):
        mine = [(p, v[code]) for t, p, v in rows if t == code]
        others = [(p, v[code]) for t, p, v in rows if t != code]
        per_class[name] = {
            "sensitivity": sum(p == code for p, _ in mine) / len(mine) if mine else None,
            "specificity": sum(p != code for p, _ in others) / len(others) if others else None,
            "auc": pair_area([s for _, s in mine], [s for _, s in others]),
            "support": len(mine),
        }

    def mean(key: str) -> float | None:
        values = [row[key] for row in per_class.values() if row[key] is not None]
        return sum(values) / len(values) if values else None

    return {
        "images": len(rows),
        "unlabelled": len(predictions) - len(rows),
        "accuracy": sum(t == p for t, p, _ in rows) / len(rows) if rows else None,
        "balanced_accuracy": mean("sensitivity"),
        "macro_auc": mean("auc"),
        "per_class": per_class,
        "confusion_matrix": table,
        "absent": [name for name, row in per_class.items() if row["support"] == 0],
    }


def assert_same(got, expected) -> None:
    """Equal keys in order, equal counts and names, floats to 1e-12."""
    assert type(got) is type(expected), (got, expected)
    if isinstance(got, dict):
        assert list(got) == list(expected)
        for key in got:
            assert_same(got[key], expected[key])
    elif isinstance(got, float):
        assert got == pytest.approx(expected, abs=1e-12)
    else:
        assert got == expected


def test_figures_equal_loops_over_their_definitions():
    absent = tied = 0
    for seed in range(CASES):
        predictions = random_predictions(seed)
        got = classification_metrics(predictions)
        assert_same(got, plain_metrics(predictions))
        absent += bool(got["absent"])
        tied += len(np.unique(predictions.probabilities)) < predictions.probabilities.size
    assert min(absent, tied) > CASES / 3  # the hard cases did come up


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_figures_equal_scikit_learn():
    areas = 0
    for seed in range(CASES):
        predictions = random_predictions(1000 + seed)
        known = predictions.labels >= 0
        truth, guess = predictions.labels[known], predictions.predicted[known]
        got = classification_metrics(predictions)
        if not len(truth):
            continue
        assert got["accuracy"] == pytest.approx(accuracy_score(truth, guess))
        assert got["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, guess))
        if len(predictions.classes) > 2 and not got["absent"]:
            areas += 1
            expected = roc_auc_score(truth, predictions.probabilities[known], multi_class="ovr")
            assert got["macro_auc"] == pytest.approx(expected)
    assert areas > 10


def test_the_result_is_plain_json_without_nan():
    for seed in range(40):
        got = classification_metrics(random_predictions(seed))
        assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_a_perfect_and_a_useless_classifier():
    labels = np.array([0, 0, 0, 1, 2, 2])
    names = [str(row) for row in range(6)]
    perfect = classification_metrics(Predictions(names, ("A", "B", "C"), np.eye(3)[labels], labels))
    assert [perfect[key] for key in ("accuracy", "balanced_accuracy", "macro_auc")] == [1, 1, 1]
    same = np.tile([0.5, 0.3, 0.2], (6, 1))
    useless = classification_metrics(Predictions(names, ("A", "B", "C"), same, labels))
    assert useless["accuracy"] == 0.5
    assert useless["balanced_accuracy"] == pytest.approx(1 / 3)
    assert useless["macro_auc"] == 0.5


def test_without_a_labelled_image_every_figure_is_none():
    values = np.array([[0.5, 0.5], [1, 0]])
    got = classification_metrics(Predictions(["a", "b"], ("A", "B"), values, np.array([-1, -1])))
    assert (got["images"], got["unlabelled"], got["absent"]) == (0, 2, ["A", "B"])
    assert got["confusion_matrix"] == [[0, 0], [0, 0]]
    assert got["accuracy"] is got["balanced_accuracy"] is got["macro_auc"] is None
    nothing = {"sensitivity": None, "specificity": None, "auc": None, "support": 0}
    assert got["per_class"] == {"A": nothing, "B": nothing}


def test_order_of_images_does_not_matter():
    predictions = random_predictions(77)
    order = np.random.default_rng(1).permutation(len(predictions))
    moved = Predictions([predictions.ids[row] for row in order], predictions.classes,
                        predictions.probabilities[order], predictions.labels[order])  # fmt: skip
    assert_same(classification_metrics(moved), classification_metrics(predictions))


def test_a_rare_class_weighs_as_much_as_a_common_one():
    labels = np.array([0] * 98 + [1, 1])
    always_common = np.tile([0.9, 0.1], (100, 1))
    got = classification_metrics(
        Predictions([str(row) for row in range(100)], ("NV", "MEL"), always_common, labels)
    )
    assert got["accuracy"] == 0.98
    assert got["balanced_accuracy"] == 0.5

"""Every figure against plain loops over its definition, and against scikit-learn."""

import json

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as skm
from isic_challenge_scoring import ClassificationMetric, ClassificationScore

from dermdistill.config import EvaluationConfig
from dermdistill.evaluate.metrics import classification_metrics
from dermdistill.evaluate.predictions import Predictions
from dermdistill.evaluate.tally import AVERAGED

CASES = 60


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
    """The figures that decisions and pairs give, by loops over the definitions."""
    rows = labelled(predictions)
    codes = range(len(predictions.classes))
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
        "confusion_matrix": [
            [sum(t == a and p == b for t, p, _ in rows) for b in codes] for a in codes
        ],
        "absent": [name for name, row in per_class.items() if row["support"] == 0],
    }


def labelled(predictions: Predictions) -> list[tuple[int, int, list[float]]]:
    """Truth, first most probable class and probabilities of every image with a label."""
    rows = []
    for label, values in zip(
        predictions.labels.tolist(), predictions.probabilities.tolist(), strict=True
    ):
        if label >= 0:
            best = max(range(len(values)), key=lambda code, values=values: (values[code], -code))
            rows.append((label, best, values))
    return rows


def plain_operating_points(positive: list[bool], scores: list[float], level: float) -> tuple:
    """Best specificity at a sensitivity, and the reverse, over every threshold there is."""
    positives, negatives = sum(positive), len(positive) - sum(positive)
    if not positives or not negatives:
        return None, None
    points = []
    for threshold in [*set(scores), 2.0]:
        pairs = [(s >= threshold, p) for s, p in zip(scores, positive, strict=True)]
        hits, alarms = sum(a and p for a, p in pairs), sum(a and not p for a, p in pairs)
        points.append((hits / positives, (negatives - alarms) / negatives))
    slack = level - 1e-9
    return (
        max(specificity for sensitivity, specificity in points if sensitivity >= slack),
        max(sensitivity for sensitivity, specificity in points if specificity >= slack),
    )


def assert_holds(got, expected) -> None:
    """Every figure of `expected` stands in `got`: counts and names equal, floats to 1e-12."""
    if isinstance(expected, dict):
        for key in expected:
            assert_holds(got[key], expected[key])
    elif isinstance(expected, float):
        assert got == pytest.approx(expected, abs=1e-12)
    else:
        assert got == expected


def test_figures_equal_loops_over_their_definitions():
    absent = tied = 0
    for seed in range(CASES):
        predictions = random_predictions(seed)
        got = classification_metrics(predictions)
        assert_holds(got, plain_metrics(predictions))
        absent += bool(got["absent"])
        tied += len(np.unique(predictions.probabilities)) < predictions.probabilities.size
    assert min(absent, tied) > CASES / 3  # the hard cases did come up


def test_operating_points_equal_a_search_over_all_thresholds():
    settings = EvaluationConfig(
        malignant=["class 0", "class 2"],
        operating_class="class 1",
        operating_levels=[0.5, 0.9, 1.0],
    )
    given = 0
    for seed in range(CASES):
        predictions = random_predictions(5000 + seed)
        got, rows = classification_metrics(predictions, settings), labelled(predictions)
        grouped = [code for code in (0, 2) if code < len(predictions.classes)]
        tasks = {
            "operating_points": ([t == 1 for t, _, _ in rows], [v[1] for _, _, v in rows]),
            "malignant": ([t in grouped for t, _, _ in rows],
                          [float(np.sum(np.array(v)[grouped])) for _, _, v in rows]),
        }  # fmt: skip
        for name, (positive, scores) in tasks.items():
            for level in settings.operating_levels:
                specificity, sensitivity = plain_operating_points(positive, scores, level)
                found = got[name]
                assert found["specificity_at_sensitivity"][f"{level:g}"] == specificity
                assert found["sensitivity_at_specificity"][f"{level:g}"] == sensitivity
                given += specificity is not None
    assert given > CASES


def scikit_figures(truth, guess, values, classes: int) -> dict[str, float]:
    """The same figures by scikit-learn; NaN where it calls them undefined."""
    codes = list(range(classes))
    found = {
        "accuracy": skm.accuracy_score(truth, guess),
        "balanced_accuracy": skm.balanced_accuracy_score(truth, guess),
        "kappa": skm.cohen_kappa_score(truth, guess, labels=codes),
        "matthews": skm.matthews_corrcoef(truth, guess),
        # Its ties go to the last class, ours to the first: so it sees the classes reversed.
        "top2_accuracy": skm.top_k_accuracy_score(
            classes - 1 - truth, values[:, ::-1], k=2, labels=codes
        ) if classes > 2 else 1.0,
    }  # fmt: skip
    for average in ("macro", "weighted"):
        figures = skm.precision_recall_fscore_support(
            truth, guess, labels=codes, average=average, zero_division=np.nan
        )
        found |= {(average, name): value for name, value in
                  zip(("precision", "sensitivity", "f1"), figures[:3], strict=True)}  # fmt: skip
    figures = skm.precision_recall_fscore_support(
        truth, guess, labels=codes, average=None, zero_division=np.nan
    )
    for code in codes:
        mine = truth == code
        row = dict(
            zip(("precision", "sensitivity", "f1"), (f[code] for f in figures), strict=False)
        )
        row["specificity"] = skm.recall_score(~mine, guess != code, zero_division=np.nan)
        both = 0 < mine.sum() < len(mine)
        row["auc"] = skm.roc_auc_score(mine, values[:, code]) if both else np.nan
        row["pr_auc"] = skm.average_precision_score(mine, values[:, code]) if mine.any() else np.nan
        found |= {("per_class", f"class {code}", name): value for name, value in row.items()}
    for name in ("specificity", "auc", "pr_auc"):
        row = np.array([found["per_class", f"class {code}", name] for code in codes])
        there, support = ~np.isnan(row), np.bincount(truth, minlength=classes)
        if there.any():
            found["macro", name] = row[there].mean()
            if support[there].any():
                found["weighted", name] = np.average(row[there], weights=support[there])
    return found


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("cases", [CASES, pytest.param(1000, marks=pytest.mark.slow)])
def test_figures_equal_scikit_learn(cases):
    areas = single = 0
    for seed in range(cases):
        predictions = random_predictions(1000 + seed)
        known = predictions.labels >= 0
        truth, guess = predictions.labels[known], predictions.predicted[known]
        if not len(truth):
            continue
        classes = len(predictions.classes)
        got = classification_metrics(predictions)
        expected = scikit_figures(truth, guess, predictions.probabilities[known], classes)
        for key, value in expected.items():
            mine = got
            for name in (key,) if isinstance(key, str) else key:
                mine = mine[name]
            if mine is None:  # undefined here is undefined, or called 0, there
                called_0 = value == 0 and (key == "matthews" or key[0] == "weighted")
                assert np.isnan(value) or called_0, (seed, key)
            else:
                assert mine == pytest.approx(value, abs=1e-12), (seed, key)
        areas += not got["absent"]
        single += len(set(truth.tolist())) == 1
    assert min(areas, single) > cases / 20


def test_malignant_is_a_task_of_its_own():
    settings = EvaluationConfig(malignant=["class 1", "class 3", "not in the data"])
    for seed in range(CASES):
        predictions = random_predictions(9000 + seed)
        known = predictions.labels >= 0
        codes = [code for code in (1, 3) if code < len(predictions.classes)]
        truth = np.isin(predictions.labels[known], codes)
        guess = np.isin(predictions.predicted[known], codes)
        got = classification_metrics(predictions, settings)["malignant"]
        assert got["classes"] == [f"class {code}" for code in codes]
        assert got["support"] == truth.sum()
        if not 0 < truth.sum() < len(truth):
            continue
        score = predictions.probabilities[known][:, codes].sum(axis=1)
        assert got["auc"] == pytest.approx(skm.roc_auc_score(truth, score))
        assert got["pr_auc"] == pytest.approx(skm.average_precision_score(truth, score))
        assert got["sensitivity"] == pytest.approx(skm.recall_score(truth, guess))
        assert got["specificity"] == pytest.approx(skm.recall_score(~truth, ~guess))
        assert got["f1"] == pytest.approx(skm.f1_score(truth, guess))
    nothing = classification_metrics(predictions, EvaluationConfig(malignant=["elsewhere"]))
    assert nothing["malignant"] is nothing["operating_points"] is None


def test_the_official_scorer_agrees(tmp_path, monkeypatch):
    """ISIC's own code reads our files; it needs a name that pandas 3 dropped for `map`."""
    if not hasattr(pd.DataFrame, "applymap"):
        monkeypatch.setattr(pd.DataFrame, "applymap", pd.DataFrame.map, raising=False)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        labels = np.concatenate([np.arange(8), rng.choice(8, 300, p=[0.3, 0.4] + [0.05] * 6)])
        logits = rng.normal(0, 1, (len(labels), 8)) + 1.5 * np.eye(8)[labels]
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        made = Predictions([f"ISIC_{row:07d}" for row in range(len(labels))],
                           ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"),
                           probabilities, labels)  # fmt: skip
        made.save(tmp_path / "predictions.csv")
        made.save_truth(tmp_path / "truth.csv")
        truth = pd.read_csv(tmp_path / "truth.csv").drop(columns="UNK")  # no image is of it
        truth.to_csv(tmp_path / "truth.csv", index=False)
        official = ClassificationScore.from_file(
            tmp_path / "truth.csv", tmp_path / "predictions.csv",
            ClassificationMetric.BALANCED_ACCURACY,
        )  # fmt: skip
        ours = classification_metrics(Predictions.load(tmp_path / "predictions.csv",
                                                       tmp_path / "truth.csv"))  # fmt: skip
        assert ours["balanced_accuracy"] == pytest.approx(official.overall, abs=1e-9)
        assert ours["macro_auc"] == pytest.approx(official.macro_average["auc"], abs=1e-9)
        assert ours["macro"]["pr_auc"] == pytest.approx(official.macro_average["ap"], abs=1e-9)
        for name, row in ours["per_class"].items():
            assert row["auc"] == pytest.approx(official.per_category.at[name, "auc"], abs=1e-9)
            assert row["pr_auc"] == pytest.approx(official.per_category.at[name, "ap"], abs=1e-9)
        # It decides a class by probability above one half; so do ours, as a task of two classes.
        for code, name in enumerate(made.classes):
            pair = np.column_stack([probabilities[:, code], 1 - probabilities[:, code]])
            binary = classification_metrics(
                Predictions(made.ids, ("it", "rest"), pair, (labels != code).astype(int))
            )
            for mine, theirs in (("sensitivity", "sensitivity"), ("specificity", "specificity"),
                                 ("f1", "dice")):  # fmt: skip
                assert binary["per_class"]["it"][mine] == pytest.approx(
                    official.per_category.at[name, theirs], abs=1e-9
                )
            assert binary["accuracy"] == pytest.approx(
                official.per_category.at[name, "accuracy"], abs=1e-9
            )


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
    nothing = dict.fromkeys(AVERAGED) | {"support": 0}
    assert got["per_class"] == {"A": nothing, "B": nothing}
    assert got["macro"] == got["weighted"] == dict.fromkeys(AVERAGED)


def test_order_of_images_does_not_matter():
    predictions = random_predictions(77)
    order = np.random.default_rng(1).permutation(len(predictions))
    moved = Predictions([predictions.ids[row] for row in order], predictions.classes,
                        predictions.probabilities[order], predictions.labels[order])  # fmt: skip
    assert_holds(classification_metrics(moved), classification_metrics(predictions))


def test_a_rare_class_weighs_as_much_as_a_common_one():
    labels = np.array([0] * 98 + [1, 1])
    always_common = np.tile([0.9, 0.1], (100, 1))
    got = classification_metrics(
        Predictions([str(row) for row in range(100)], ("NV", "MEL"), always_common, labels)
    )
    assert got["accuracy"] == 0.98
    assert got["balanced_accuracy"] == 0.5

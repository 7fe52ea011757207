"""How good predictions are: accuracies, areas under the curve, the confusion matrix."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, roc_auc_score

from dermdistill.evaluate.predictions import UNKNOWN, Predictions


def classification_metrics(predictions: Predictions) -> dict[str, Any]:
    """Every point estimate of a classifier on one set of images, as plain JSON values.

    A rare class is worth as much as a common one in `balanced_accuracy` and `macro_auc`, which
    is why they, not `accuracy`, are what runs are compared by. A figure that the images cannot
    give (a class without a true sample) is None, never NaN or 0, and stays out of the means.

    Args:
        predictions: probabilities and labels; images with label -1 are left out and counted.

    Returns:
        images: how many were scored; unlabelled: how many were left out.
        accuracy, balanced_accuracy (mean sensitivity over classes with a true sample),
            macro_auc (mean one-versus-rest area over classes with both outcomes): in [0, 1].
        per_class: class name -> sensitivity, specificity, auc in [0, 1], support (images).
        confusion_matrix: counts [truth][prediction] in the order of `per_class`.
        absent: names of the classes without a true sample.
    """
    known = predictions.labels != UNKNOWN
    truth, predicted = predictions.labels[known], predictions.predicted[known]
    probabilities = predictions.probabilities[known]
    counts = _confusion(truth, predicted, len(predictions.classes))
    per_class = {
        name: _one_versus_rest(counts, code, truth == code, probabilities[:, code])
        for code, name in enumerate(predictions.classes)
    }
    return {
        "images": int(known.sum()),
        "unlabelled": int((~known).sum()),
        "accuracy": _ratio(int(np.trace(counts)), int(counts.sum())),
        "balanced_accuracy": _mean(figures["sensitivity"] for figures in per_class.values()),
        "macro_auc": _mean(figures["auc"] for figures in per_class.values()),
        "per_class": per_class,
        "confusion_matrix": counts.tolist(),
        "absent": [name for name, figures in per_class.items() if not figures["support"]],
    }


def _confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    if not len(truth):  # scikit-learn refuses an empty truth
        return np.zeros((classes, classes), np.int64)
    return confusion_matrix(truth, predicted, labels=np.arange(classes))


def _one_versus_rest(
    counts: np.ndarray, code: int, positive: np.ndarray, score: np.ndarray
) -> dict[str, Any]:
    support = int(positive.sum())
    hits = int(counts[code, code])
    negatives = len(positive) - support
    false_alarms = int(counts[:, code].sum()) - hits
    both = support > 0 and negatives > 0
    return {
        "sensitivity": _ratio(hits, support),
        "specificity": _ratio(negatives - false_alarms, negatives),
        "auc": float(roc_auc_score(positive, score)) if both else None,
        "support": support,
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None

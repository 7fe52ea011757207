"""How good predictions are: accuracies, areas under the curve, the confusion matrix."""

import math
from typing import Any

import numpy as np

from dermdistill.config import EvaluationConfig
from dermdistill.evaluate.predictions import UNKNOWN, Predictions
from dermdistill.evaluate.tally import Key, Tally


def classification_metrics(
    predictions: Predictions, settings: EvaluationConfig | None = None
) -> dict[str, Any]:
    """Every point estimate of a classifier on one set of images, as plain JSON values.

    A rare class is worth as much as a common one in `balanced_accuracy` and `macro_auc`, which
    is why they, not `accuracy`, are what runs are compared by. A figure that the images cannot
    give (a class without a true sample) is None, never NaN or 0, and stays out of the means.

    Args:
        predictions: probabilities and labels; images with label -1 are left out and counted.
        settings: which classes are malignant, which operating points are asked; None: defaults.

    Returns:
        images: how many were scored; unlabelled: how many were left out.
        accuracy, balanced_accuracy (mean sensitivity over classes with a true sample),
            macro_auc (mean one-versus-rest area over classes with both outcomes),
            top2_accuracy: in [0, 1]; kappa (Cohen), matthews: in [-1, 1], 0 is chance.
        macro, weighted: the six figures of a class averaged plainly, and by support.
        per_class: class name -> sensitivity, specificity, precision, f1, auc (ROC), pr_auc
            (average precision) in [0, 1], support (images).
        operating_points: class, and its specificity_at_sensitivity and sensitivity_at_specificity
            by level: the best that any threshold gives on these images. None where the class is
            not among these.
        malignant: the task "any of `classes`": a decision is malignant where the named class is,
            the score is the sum of the classes' probabilities. None where there is none of them.
        confusion_matrix: counts [truth][prediction] in the order of `per_class`.
        absent: names of the classes without a true sample.
    """
    settings = settings or EvaluationConfig()
    images = len(predictions)
    tally = Tally(predictions, np.arange(images), settings)
    found = nested({key: value[0] for key, value in tally.figures(np.ones((images, 1))).items()})
    counts, known = tally.confusion(), int((predictions.labels != UNKNOWN).sum())
    support = dict(zip(predictions.classes, counts.sum(axis=1).tolist(), strict=True))
    for name, figures in found["per_class"].items():
        figures["support"] = support[name]
    points, malignant = found.get("operating_points"), found.get("malignant")
    if malignant:
        malignant |= {"support": sum(support[name] for name in tally.malignant)}
    return found | {
        "images": known,
        "unlabelled": images - known,
        "operating_points": points and {"class": settings.operating_class} | points,
        "malignant": malignant and {"classes": tally.malignant} | malignant,
        "confusion_matrix": counts.tolist(),
        "absent": [name for name, number in support.items() if not number],
    }


def nested(figures: dict[Key, float]) -> dict[str, Any]:
    """Figures by key as nested dicts of plain floats; NaN becomes None."""
    tree: dict[str, Any] = {}
    for key, value in figures.items():
        branch = tree
        for name in key[:-1]:
            branch = branch.setdefault(name, {})
        branch[key[-1]] = None if math.isnan(value) else float(value)
    return tree

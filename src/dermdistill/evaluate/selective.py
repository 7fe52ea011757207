"""Leaving images unanswered, or answering them with a larger network, where confidence is low."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dermdistill.errors import DataError
from dermdistill.evaluate.metrics import classification_metrics
from dermdistill.evaluate.predictions import UNKNOWN, Predictions

ROUNDING = 1e-9  # of a share
SHARES = tuple(step / 20 for step in range(21))  # of the images that a cascade sends on


class RiskCoverage(NamedTuple):
    """Share of wrong answers among the surest images, for every share that is answered."""

    coverage: Float[np.ndarray, " images"]  # share answered, ascending, ends at 1
    risk: Float[np.ndarray, " images"]  # share of wrong answers among these

    @property
    def area(self) -> float:
        """Area under the curve (AURC) in [0, 1]: the mean risk; less is better."""
        return float(self.risk.mean())


def risk_coverage(predictions: Predictions) -> RiskCoverage:
    """Answer the surest images first, by their largest probability.

    Equally sure images are taken in no order: their errors are spread evenly among them.

    Raises:
        DataError: no image has a label.

    Source: El-Yaniv and Wiener, JMLR 11 (2010); area: Geifman, Uziel and El-Yaniv, ICLR 2019.
    """
    known = predictions.labels != UNKNOWN
    if not known.any():
        raise DataError("no image has a label; a risk needs labelled images")
    confidence = predictions.probabilities[known].max(axis=1)
    wrong = (predictions.predicted != predictions.labels)[known]
    _, group = np.unique(-confidence, return_inverse=True)
    rate = np.bincount(group, wrong) / np.bincount(group)
    answered = np.arange(1, len(group) + 1)
    errors = np.cumsum(rate[np.sort(group)])
    return RiskCoverage(answered / len(group), errors / answered)


def least_confidence(predictions: Predictions, accuracy: float) -> tuple[float, float]:
    """The least confidence at which to answer, so that a share of the answers is right.

    Of all confidences that keep the share on these images, the least; so it holds on others on
    average alone, and worse where it was found on few.

    Args:
        predictions: labelled images that the network was not trained on.
        accuracy: the share of right answers among the answered, in (0, 1).

    Returns:
        The confidence, and the share of these images that is answered at it; 1 and 0 where no
        confidence keeps the share: then nothing is answered.

    Raises:
        DataError: no image has a label.
    """
    curve = risk_coverage(predictions)
    known = predictions.labels != UNKNOWN
    confidence = -np.sort(-predictions.probabilities[known].max(axis=1))
    last = np.append(confidence[1:] != confidence[:-1], True)  # equally sure ones go together
    kept = np.flatnonzero(last & (curve.risk <= 1 - accuracy + ROUNDING))
    if not len(kept):
        return 1.0, 0.0
    return float(confidence[kept[-1]]), float(curve.coverage[kept[-1]])


class CascadePoint(NamedTuple):
    """A cascade that sends one share of its images on."""

    share: float  # of the images that the teacher answers, in [0, 1]
    accuracy: float | None
    balanced_accuracy: float | None


def cascade(
    student: Predictions, teacher: Predictions, shares: tuple[float, ...] = SHARES
) -> list[CascadePoint]:
    """The student answers where it is sure, the teacher where it is not.

    Args:
        student, teacher: predictions of the same images.
        shares: of the images, least sure first, that are sent on.

    Raises:
        DataError: the two do not name the same images in the same order.
    """
    if student.ids != teacher.ids or student.classes != teacher.classes:
        raise DataError("student and teacher of a cascade must answer the same images and classes")
    order = np.argsort(student.probabilities.max(axis=1), kind="stable")
    points = []
    for share in shares:
        probabilities = student.probabilities.copy()
        sent = order[: round(share * len(order))]
        probabilities[sent] = teacher.probabilities[sent]
        mixed = Predictions(student.ids, student.classes, probabilities, student.labels)
        figures = classification_metrics(mixed)
        points.append(CascadePoint(share, figures["accuracy"], figures["balanced_accuracy"]))
    return points

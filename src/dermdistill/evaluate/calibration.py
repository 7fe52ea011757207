"""Whether probabilities mean what they say, and two ways to mend them on the validation part."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from dermdistill.errors import DataError
from dermdistill.evaluate.predictions import UNKNOWN, Predictions

BINS = 15
SMALLEST = np.finfo(np.float64).tiny  # a probability of 0 for the truth costs 708 nats
VECTOR_RIDGE = 1e-4  # keeps the scale and shift of a class without a validation image finite
MOST_LOG_SCALE = 5.0  # of a temperature: 0.007 to 148


class Reliability(NamedTuple):
    """Confidence and accuracy bin by bin; empty bins are left out."""

    confidence: Float[np.ndarray, " bins"]  # mean of the bin
    accuracy: Float[np.ndarray, " bins"]
    images: np.ndarray  # count in the bin

    @property
    def error(self) -> float | None:
        """Expected calibration error in [0, 1]: mean gap between confidence and accuracy."""
        if not self.images.sum():
            return None
        return float(np.average(np.abs(self.accuracy - self.confidence), weights=self.images))


def reliability(
    confidence: Float[np.ndarray, " images"],
    right: Bool[np.ndarray, " images"],
    bins: int = BINS,
    equal_mass: bool = False,
) -> Reliability:
    """Bin images by confidence: bins of equal width on [0, 1], or of equal count.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, equations 2 and 3;
        equal mass: Nguyen and O'Connor, EMNLP 2015.
    """
    if equal_mass:
        place = np.empty(len(confidence), np.int64)
        place[np.argsort(confidence, kind="stable")] = (
            np.arange(len(confidence)) * bins // max(1, len(confidence))
        )
    else:
        place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    images = np.bincount(place, minlength=bins)
    there = images > 0
    means = [np.bincount(place, values, bins)[there] / images[there]
             for values in (confidence, right.astype(np.float64))]  # fmt: skip
    return Reliability(means[0], means[1], images[there])


def calibration_metrics(predictions: Predictions) -> dict[str, Any]:
    """How far probabilities are from frequencies; None everywhere without a labelled image.

    Returns:
        ece, ece_mass: expected calibration error of the most probable class in [0, 1], with bins
            of equal width and of equal count.
        brier: mean squared error of the whole row, in [0, 2]; nll: mean negative log-likelihood of
            the truth in nats, at least 0.
    """
    known = predictions.labels != UNKNOWN
    if not known.any():
        return dict.fromkeys(("ece", "ece_mass", "brier", "nll"))
    probabilities, labels = predictions.probabilities[known], predictions.labels[known]
    confidence, right = probabilities.max(axis=1), predictions.predicted[known] == labels
    truth = np.eye(probabilities.shape[1])[labels]
    of_truth = probabilities[np.arange(len(labels)), labels]
    return {
        "ece": reliability(confidence, right).error,
        "ece_mass": reliability(confidence, right, equal_mass=True).error,
        "brier": float(((probabilities - truth) ** 2).sum(axis=1).mean()),
        "nll": float(-np.log(np.maximum(of_truth, SMALLEST)).mean()),
    }


@dataclass(frozen=True, eq=False)
class Scaling:
    """Probabilities made anew from logits times a scale plus a shift, class by class.

    Softmax forgets a constant only, so the log of a probability is as good as the logit.

    Args:
        scale: [classes], above 0 for a temperature (its inverse, all equal).
        shift: [classes].
    """

    scale: np.ndarray
    shift: np.ndarray

    def apply(self, predictions: Predictions) -> Predictions:
        """The same images with scaled probabilities."""
        logits = _logits(predictions) * self.scale + self.shift
        return Predictions(
            predictions.ids, predictions.classes, softmax(logits, axis=1), predictions.labels
        )


def fit_temperature(validation: Predictions) -> Scaling:
    """The one scale that lowers the validation part's negative log-likelihood most.

    It changes no decision and no ranking of classes.

    Raises:
        DataError: no image has a label.
    """
    logits, labels = _labelled(validation)
    classes = logits.shape[1]

    def loss(log_scale: np.ndarray) -> float:
        return _nll(logits * np.exp(log_scale[0]), labels)

    found = minimize(loss, [0.0], method="L-BFGS-B", bounds=[(-MOST_LOG_SCALE, MOST_LOG_SCALE)])
    return Scaling(np.full(classes, np.exp(found.x[0])), np.zeros(classes))


def fit_vector(validation: Predictions) -> Scaling:
    """A scale and a shift for each class that lower the same figure; decisions may change.

    Raises:
        DataError: no image has a label.
    """
    logits, labels = _labelled(validation)
    classes, truth = logits.shape[1], np.eye(logits.shape[1])[labels]

    def loss(both: np.ndarray) -> tuple[float, np.ndarray]:
        scale, shift = both[:classes], both[classes:]
        scaled = logits * scale + shift
        excess = (softmax(scaled, axis=1) - truth) / len(labels)
        away = np.concatenate([scale - 1, shift])
        gradient = np.concatenate([(excess * logits).sum(axis=0), excess.sum(axis=0)])
        value = _nll(scaled, labels) + VECTOR_RIDGE * (away**2).sum()
        return value, gradient + 2 * VECTOR_RIDGE * away

    start = np.concatenate([np.ones(classes), np.zeros(classes)])
    found = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return Scaling(found[:classes], found[classes:])


def _logits(predictions: Predictions) -> np.ndarray:
    return np.log(np.maximum(predictions.probabilities, SMALLEST))


def _labelled(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    known = predictions.labels != UNKNOWN
    if not known.any():
        raise DataError("no validation image has a label; scaling is fitted on labelled images")
    return _logits(predictions)[known], predictions.labels[known]


def _nll(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())

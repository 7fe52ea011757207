"""Sets of classes that hold the truth as often as promised, whatever the network is worth.

The promise needs no model of the network, only that the images it was calibrated on and those it
is used on are exchangeable: of other lesions, but from the same place. A class is in the set
unless fewer than the allowed share of calibration images fit it worse.
"""

import math
from typing import NamedTuple

import numpy as np
from crepes import ConformalClassifier
from jaxtyping import Bool, Int64
from scipy.stats import betabinom

from dermdistill.errors import DataError
from dermdistill.evaluate.predictions import UNKNOWN, Predictions

TOLERANCE = 1e-9  # of the product of a level and a count, which should be whole


def conformal_sets(
    calibration: Predictions,
    predictions: Predictions,
    coverage: float = 0.9,
    per_class: bool = False,
) -> Bool[np.ndarray, "images classes"]:
    """Which classes are in each image's set. A set may be empty: the image is like none.

    Args:
        calibration: images that neither trained the network nor are judged here.
        predictions: the images that get sets; labels are not looked at.
        coverage: the promised share of sets that hold the truth, in (0, 1).
        per_class: keep the promise for each class by itself: larger sets, and no rare class pays
            for a common one. A class without a calibration image is in every set.

    Raises:
        DataError: the two name different classes, or no calibration image has a label.

    Source: Vovk, Gammerman and Shafer, "Algorithmic learning in a random world" (2005), 4.1 and
        4.5, with nonconformity 1 - probability; p-values by the library crepes.
    """
    if calibration.classes != predictions.classes:
        raise DataError(
            f"calibration names the classes {', '.join(calibration.classes)}, the predictions "
            f"{', '.join(predictions.classes)}; both must come from one network"
        )
    strange, labels = _strangeness(calibration)
    asked = 1 - predictions.probabilities
    if not per_class:
        return _sets(strange, asked, coverage)
    columns = [_sets(strange[labels == code], asked[:, [code]], coverage)
               for code in range(len(predictions.classes))]  # fmt: skip
    return np.concatenate(columns, axis=1)


def conformal_quantile(calibration: Predictions, coverage: float) -> float:
    """The largest 1 - p of a class that is in a set: the sets of `conformal_sets` as one number.

    Args:
        calibration: as `conformal_sets`.
        coverage: the promised share of sets that hold the truth, in (0, 1).

    Returns:
        In [0, 1]; 1, so that every set holds every class, where the calibration images are too few.

    Raises:
        DataError: no calibration image has a label.

    Source: Sadinle, Lei and Wasserman, "Least ambiguous set-valued classifiers with bounded error
        levels", JASA 114 (2019).
    """
    strange = np.sort(_strangeness(calibration)[0])
    place = math.ceil((len(strange) + 1) * coverage - TOLERANCE)
    return float(strange[place - 1]) if place <= len(strange) else 1.0


def _strangeness(calibration: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """1 - p(truth) of the calibration images that have one, and that truth."""
    known = calibration.labels != UNKNOWN
    if not known.any():
        raise DataError("no calibration image has a label; give the validation part with its truth")
    labels = calibration.labels[known]
    return 1 - calibration.probabilities[known, :][np.arange(len(labels)), labels], labels


def _sets(strange: np.ndarray, asked: np.ndarray, coverage: float) -> np.ndarray:
    if not len(strange):
        return np.ones(asked.shape, bool)
    fitted = ConformalClassifier().fit(strange)
    return fitted.predict_set(asked, confidence=coverage, smoothing=False).astype(bool)


class Coverage(NamedTuple):
    """How many sets hold the truth, and how many must and may if the promise is kept."""

    name: str
    calibrated: int  # images
    tested: int  # images
    covered: int
    least: int
    most: int

    @property
    def kept(self) -> bool:
        """Whether the count lies within its bounds."""
        return self.least <= self.covered <= self.most


def coverage_bounds(
    calibrated: int, tested: int, coverage: float, chance: float = 0.01
) -> tuple[int, int]:
    """Bounds of the covered images that a kept promise leaves with chance at most `chance`.

    The count is beta-binomial, since the threshold is itself drawn with the calibration images.
    It holds for images that are independent: one image a lesion.

    Source: Angelopoulos and Bates, "A gentle introduction to conformal prediction" (2021), 3.2.
    """
    allowed = math.ceil((1 - coverage) * (calibrated + 1) - TOLERANCE) - 1
    if allowed < 1:  # too few calibration images to leave any class out
        return tested, tested
    law = betabinom(tested, calibrated + 1 - allowed, allowed)
    return int(law.ppf(chance / 2)), int(law.ppf(1 - chance / 2))


def coverage_by_class(
    sets: Bool[np.ndarray, "images classes"],
    predictions: Predictions,
    calibration: Predictions,
    coverage: float,
    per_class: bool,
    chance: float = 0.01,
) -> list[Coverage]:
    """The promise against what happened: overall, or for each class where it was promised."""
    parts = enumerate(predictions.classes) if per_class else [(None, "overall")]
    rows = []
    for code, name in parts:
        calibrated, tested, covered = _counts(calibration.labels, predictions.labels, sets, code)
        bounds = coverage_bounds(calibrated, tested, coverage, chance)
        rows.append(Coverage(name, calibrated, tested, covered, *bounds))
    return rows


def _counts(
    calibrated: Int64[np.ndarray, " calibration"],
    tested: Int64[np.ndarray, " images"],
    sets: np.ndarray,
    code: int | None,
) -> tuple[int, int, int]:
    mine = (tested != UNKNOWN) if code is None else (tested == code)
    theirs = (calibrated != UNKNOWN) if code is None else (calibrated == code)
    covered = sets[mine, tested[mine]]
    return int(theirs.sum()), int(mine.sum()), int(covered.sum())


def first_of_each(units: Int64[np.ndarray, " images"]) -> Int64[np.ndarray, " units"]:
    """Rows of the first image of every lesion: independent images."""
    return np.sort(np.unique(units, return_index=True)[1])

"""How sure a figure is: a bootstrap that draws lesions, not images, for every figure at once.

Images of one lesion are no independent evidence. Drawing images pretends that they are and gives
intervals that are too short (`benchmarks/coverage.py`); drawing whole lesions, with all their
images, does not.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import norm

from dermdistill.config import EvaluationConfig
from dermdistill.errors import DataError
from dermdistill.evaluate.predictions import Predictions
from dermdistill.evaluate.tally import Key, Tally
from dermdistill.run import digest_of

Method = Literal["bca", "percentile"]
CHUNK = 64  # draws weighed at once: their counts stay in a few hundred megabytes
JACKKNIFE_GROUPS = 500  # deletions that estimate the acceleration; every lesion where there are few
# Share of the draws that must give a figure, or it has no interval: a class of one or two lesions
# is missing from 37 or 14 % of the draws, and the others cannot say what a third one would do.
LEAST_SHARE = 0.95


class Interval(NamedTuple):
    """Where a figure lies: its ends, of a level that the settings say."""

    low: float
    high: float


class Difference(NamedTuple):
    """One classifier's figure less another's, on the same images."""

    value: float
    interval: Interval | None
    p_value: float | None  # two-sided, of no difference; no smaller than 2 / (draws + 1)


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Every figure on all images, on every draw of lesions, and without some lesions.

    Args:
        point: figures on all images; NaN where these cannot give one.
        draws: the same on every draw, float64 [draws].
        deleted: the same without one group of lesions each, float64 [groups].
        level: the share of intervals that should hold the truth.
        design: digest of images, lesions, seed and draws; equal designs drew the same lesions.
        seed: of the draws; two sets of images that are compared need two.
    """

    point: dict[Key, float]
    draws: dict[Key, np.ndarray]
    deleted: dict[Key, np.ndarray]
    level: float
    design: str
    seed: int = 0

    def interval(self, key: Key, method: Method = "bca") -> Interval | None:
        """The interval of one figure; None where too few draws give it.

        Source: Efron, "Better bootstrap confidence intervals", JASA 82 (1987), for "bca".
        """
        return _interval(self.point[key], self.draws[key], self.deleted[key], self.level, method)

    def minus(self, other: "Bootstrap", key: Key, method: Method = "bca") -> Difference | None:
        """This classifier's figure less the other's, lesion by lesion; None where there is none.

        Raises:
            DataError: the two did not draw the same lesions of the same images.
        """
        if self.design != other.design:
            raise DataError(
                "two classifiers are compared on different images or different draws; bootstrap "
                "both on the same images, lesions, seed and draws"
            )
        value = self.point[key] - other.point[key]
        if math.isnan(value):
            return None
        draws = self.draws[key] - other.draws[key]
        deleted = self.deleted[key] - other.deleted[key]
        interval = _interval(value, draws, deleted, self.level, method)
        return Difference(value, interval, None if interval is None else _p_value(draws))

    def minus_unpaired(
        self, other: "Bootstrap", key: Key, method: Method = "bca"
    ) -> Difference | None:
        """This figure less the other's, where the two are of other lesions; None without one.

        Raises:
            DataError: both were drawn from one seed, so their draws are not independent.

        Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), 8.3 and 14.3: two
            samples, each drawn by itself; the acceleration from leaving out of either.
        """
        if self.seed == other.seed:
            raise DataError(f"two sets of images were drawn from one seed, {self.seed}; take two")
        value = self.point[key] - other.point[key]
        if math.isnan(value):
            return None
        draws = self.draws[key] - other.draws[key]
        mine, theirs = (each[np.isfinite(each)] for each in (self.deleted[key], other.deleted[key]))
        deleted = np.concatenate([mine - mine.mean(), theirs.mean() - theirs])
        interval = _interval(value, draws, deleted, self.level, method)
        return Difference(value, interval, None if interval is None else _p_value(draws))


def bootstrap(
    predictions: Predictions,
    units: np.ndarray,
    settings: EvaluationConfig | None = None,
    seed: int = 0,
) -> Bootstrap:
    """Draw lesions with replacement, many times, and give every figure on every draw.

    Two classifiers on the same images and lesions with the same seed see the same draws, so
    `minus` compares them in pairs.

    Args:
        predictions: of one classifier.
        units: code of the lesion or patient of each image, int64 [images], from 0.
        settings: how many draws, what level, which figures; None: defaults.
        seed: another seed, other draws.

    Raises:
        DataError: `units` does not name one unit an image.
    """
    settings = settings or EvaluationConfig()
    if units.shape != (len(predictions),):
        raise DataError(
            f"units have shape {units.shape}; {len(predictions)} images need one unit each"
        )
    tally = Tally(predictions, units, settings)
    rng = np.random.default_rng(seed)
    point = tally.figures(np.ones((tally.units, 1)))
    draws = _collected(tally, _drawn(rng, tally.units, settings.draws))
    deleted = _collected(tally, _deletions(rng, tally.units))
    images = [predictions.ids, predictions.classes, predictions.labels.tolist(), units.tolist()]
    return Bootstrap(
        {key: float(value[0]) for key, value in point.items()}, draws, deleted, settings.level,
        digest_of([images, seed, settings.draws]), seed,
    )  # fmt: skip


def mean_of(made: Sequence[Bootstrap]) -> Bootstrap:
    """The mean of several classifiers' figures on the same draws: of one method over its seeds.

    Raises:
        DataError: they did not draw the same lesions of the same images.
    """
    first = made[0]
    if any(one.design != first.design for one in made):
        raise DataError("a mean over runs needs the same images, lesions, seed and draws in each")
    return Bootstrap(
        {key: float(np.mean([one.point[key] for one in made])) for key in first.point},
        {key: np.mean([one.draws[key] for one in made], axis=0) for key in first.point},
        {key: np.mean([one.deleted[key] for one in made], axis=0) for key in first.point},
        first.level, first.design, first.seed,
    )  # fmt: skip


def _collected(tally: Tally, chunks: Iterator[np.ndarray]) -> dict[Key, np.ndarray]:
    found = [tally.figures(weights) for weights in chunks]
    return {key: np.concatenate([figures[key] for figures in found]) for key in found[0]}


def _drawn(rng: np.random.Generator, units: int, draws: int) -> Iterator[np.ndarray]:
    """How often each unit was drawn, float64 [units, at most CHUNK], until all draws are made."""
    for first in range(0, draws, CHUNK):
        counts = [
            np.bincount(rng.integers(0, units, units), minlength=units)
            for _ in range(min(CHUNK, draws - first))
        ]
        yield np.stack(counts, axis=1).astype(np.float64)


def _deletions(rng: np.random.Generator, units: int) -> Iterator[np.ndarray]:
    """Weights that leave out one group of units each, float64 [units, at most CHUNK]."""
    group = rng.permutation(units) % min(units, JACKKNIFE_GROUPS)
    for first in range(0, group.max() + 1, CHUNK):
        left_out = np.arange(first, min(first + CHUNK, group.max() + 1))
        yield (group[:, None] != left_out).astype(np.float64)


def _interval(
    point: float, draws: np.ndarray, deleted: np.ndarray, level: float, method: Method
) -> Interval | None:
    given = draws[np.isfinite(draws)]
    if math.isnan(point) or len(given) < LEAST_SHARE * len(draws):
        return None
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        tails = _corrected(tails, point, given, deleted[np.isfinite(deleted)])
    return Interval(*np.quantile(given, tails).tolist())


def _corrected(
    tails: np.ndarray, point: float, draws: np.ndarray, deleted: np.ndarray
) -> np.ndarray:
    """The tails moved for bias and for a spread that changes with the figure (Efron 1987, 6.8)."""
    below = (np.sum(draws < point) + np.sum(draws == point) / 2) / len(draws)
    if not 0 < below < 1 or not len(deleted):
        return tails  # the figure lies outside all draws: there is no finite correction
    bias, influence = norm.ppf(below), deleted.mean() - deleted
    spread = (influence**2).sum() ** 1.5
    acceleration = (influence**3).sum() / (6 * spread) if spread > 0 else 0.0
    shifted = bias + norm.ppf(tails)
    return norm.cdf(bias + shifted / (1 - acceleration * shifted))


def _p_value(differences: np.ndarray) -> float:
    given = differences[np.isfinite(differences)]
    tail = min(np.sum(given <= 0), np.sum(given >= 0)) + 1
    return float(min(1.0, 2 * tail / (len(given) + 1)))

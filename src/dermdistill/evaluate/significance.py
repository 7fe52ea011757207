"""Tests of two classifiers on the same images, and the correction for asking many questions."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import binomtest, norm, rankdata

from dermdistill.evaluate.intervals import Interval


class Areas(NamedTuple):
    """Areas under the ROC curve and how they vary together."""

    values: Float[np.ndarray, " models"]
    covariance: Float[np.ndarray, "models models"]

    def interval(self, model: int, level: float = 0.95) -> Interval:
        """The normal interval of one area, cut to [0, 1]."""
        value, reach = self.values[model], norm.ppf((1 + level) / 2)
        half = reach * math.sqrt(self.covariance[model, model])
        return Interval(max(0.0, float(value - half)), min(1.0, float(value + half)))

    def p_value(self, one: int, other: int) -> float:
        """Two-sided p-value of two areas being equal."""
        contrast = np.zeros(len(self.values))
        contrast[one], contrast[other] = 1, -1
        difference, variance = contrast @ self.values, contrast @ self.covariance @ contrast
        if variance <= 0:  # two orders that agree wherever it counts
            return 1.0 if difference == 0 else 0.0
        return float(2 * norm.sf(abs(difference) / math.sqrt(variance)))


def delong(
    positive: Bool[np.ndarray, " images"],
    scores: Float[np.ndarray, "models images"],
    units: np.ndarray | None = None,
) -> Areas | None:
    """Areas under the ROC curve of several scores, with their covariance; no draw is made.

    With `units` the covariance allows for images of one lesion resembling each other; without, or
    with a unit an image, it is DeLong's.

    Args:
        positive: the truth of each image.
        scores: one row a model.
        units: code of the lesion of each image, int64 [images].

    Returns:
        None where fewer than two units hold a positive, or a negative.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); midranks by Sun and Xu, IEEE
        SPL 21 (2014); clusters by Obuchowski, Biometrics 53 (1997), equations 3 to 6.
    """
    units = np.arange(len(positive)) if units is None else np.unique(units, return_inverse=True)[1]
    sides = (units[positive], units[~positive])
    if min(len(set(side.tolist())) for side in sides) < 2:
        return None
    hits, passes = _components(positive, scores)
    values = hits.mean(axis=1)
    clusters = int(units.max()) + 1
    sums = [
        np.stack([np.bincount(side, row, clusters) for row in parts - values[:, None]])
        for side, parts in zip(sides, (hits, passes), strict=True)
    ]
    m, n = hits.shape[1], passes.shape[1]
    within = sum(
        _scale(len(set(side.tolist()))) * part @ part.T / size**2
        for side, part, size in zip(sides, sums, (m, n), strict=True)
    )
    across = _scale(clusters) * sums[0] @ sums[1].T / (m * n)
    return Areas(values, within + across + across.T)


def _scale(clusters: int) -> float:
    return clusters / (clusters - 1)


def _components(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of negatives that each positive beats, and of positives that beat each negative."""
    over_all = rankdata(scores, axis=1)
    high, low = scores[:, positive], scores[:, ~positive]
    hits = (over_all[:, positive] - rankdata(high, axis=1)) / low.shape[1]
    passes = 1 - (over_all[:, ~positive] - rankdata(low, axis=1)) / high.shape[1]
    return hits, passes


class McNemar(NamedTuple):
    """Images that only one of two classifiers names rightly, and the exact p-value of a draw."""

    only_one: int
    only_other: int
    p_value: float


def mcnemar(
    one_right: Bool[np.ndarray, " images"], other_right: Bool[np.ndarray, " images"]
) -> McNemar:
    """McNemar's exact test of equal accuracy. It takes images for independent: where lesions have
    several images, the paired bootstrap of lesions is the one to believe.

    Source: McNemar, Psychometrika 12 (1947), in its exact binomial form.
    """
    only_one = int(np.sum(one_right & ~other_right))
    only_other = int(np.sum(other_right & ~one_right))
    discordant = only_one + only_other
    p_value = float(binomtest(only_one, discordant).pvalue) if discordant else 1.0
    return McNemar(only_one, only_other, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of a family of tests, corrected so that one false alarm in it stays as unlikely.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * float(p_values[place])))
        adjusted[place] = largest
    return adjusted

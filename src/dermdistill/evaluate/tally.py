"""Every figure of a classifier at once, under many weightings of its images.

A point estimate weighs every image once; a bootstrap draw weighs a lesion's images by how often
the lesion was drawn. Both are one product of a sparse matrix, built once, with the weights, so
thousands of draws cost little more than their own counts and no draw sorts anything again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from scipy.sparse import csr_array

from dermdistill.config import EvaluationConfig
from dermdistill.evaluate.predictions import UNKNOWN, Predictions

Key = tuple[str, ...]
"""Where a figure stands in the nested metrics: ("per_class", "MEL", "auc")."""

AVERAGED = ("sensitivity", "specificity", "precision", "f1", "auc", "pr_auc")
TOP = 2  # classes that may be named in `top2_accuracy`
TOLERANCE = 1e-12  # of a share that should reach a level: 19 of 20 reaches 0.95


class Ranking(NamedTuple):
    """One question with two answers, sorted once: who is positive, in order of the score.

    Rows of `bins`: negatives below, tied with, between and above the G distinct scores of
    positives (2 G + 1 rows, ascending), then the positives of each score (G rows).
    """

    bins: csr_array  # [3 G + 1, units], counts of images
    scores: int  # G


class Tally:
    """Figures of one classifier on images that belong to units (lesions), for any weights.

    Args:
        predictions: probabilities and labels; unlabelled images are left out.
        units: index of the unit that each image belongs to, int64 [images], from 0.
        settings: which classes are malignant, which operating points are asked.
    """

    def __init__(
        self, predictions: Predictions, units: np.ndarray, settings: EvaluationConfig
    ) -> None:
        known = predictions.labels != UNKNOWN
        self.classes, self.settings = predictions.classes, settings
        self.units = int(units.max()) + 1 if len(units) else 0
        self._unit, labels = units[known], predictions.labels[known]
        probabilities, predicted = predictions.probabilities[known], predictions.predicted[known]
        self._cells = self._counts(labels * len(self.classes) + predicted, len(self.classes) ** 2)
        self._top = self._counts((~_among_top(probabilities, labels)).astype(np.int64), TOP)
        self._rankings = [
            self._ranking(labels == code, probabilities[:, code])
            for code in range(len(self.classes))
        ]
        self.malignant = [n for n in self.classes if n in settings.malignant]
        self._grouped = np.isin(self.classes, self.malignant)
        self._malignant = self._ranking(
            self._grouped[labels], probabilities[:, self._grouped].sum(axis=1)
        )

    def figures(self, weights: Float[np.ndarray, "units draws"]) -> dict[Key, np.ndarray]:
        """Every figure under every column of weights: key -> float64 [draws].

        NaN where the weighted images cannot give a figure: a class without a true image has no
        sensitivity and no area, a class that is never named has no precision.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._figures(weights)

    def _figures(self, weights: np.ndarray) -> dict[Key, np.ndarray]:
        count, settings = len(self.classes), self.settings
        cells = (self._cells @ weights).reshape(count, count, -1)
        support, named, hits = cells.sum(1), cells.sum(0), np.einsum("iid->id", cells)
        top = self._top @ weights
        curves = [_Curve(ranking, weights) for ranking in self._rankings]
        per_class = _decisions(hits, support, named, support.sum(0))
        per_class["auc"] = np.stack([curve.auc() for curve in curves])
        per_class["pr_auc"] = np.stack([curve.pr_auc() for curve in curves])
        found: dict[Key, np.ndarray] = {
            ("accuracy",): hits.sum(0) / support.sum(0),
            ("balanced_accuracy",): _mean(per_class["sensitivity"]),
            ("macro_auc",): _mean(per_class["auc"]),
            ("kappa",): _kappa(hits, support, named),
            ("matthews",): _matthews(hits, support, named),
            ("top2_accuracy",): top[0] / top.sum(0),
        }
        for name in AVERAGED:
            found["macro", name] = _mean(per_class[name])
            found["weighted", name] = _mean(per_class[name], support)
        for code, label in enumerate(self.classes):
            found |= {("per_class", label, name): per_class[name][code] for name in AVERAGED}
        if settings.operating_class in self.classes:
            curve = curves[self.classes.index(settings.operating_class)]
            found |= curve.operating_points("operating_points", settings.operating_levels)
        if self.malignant:
            found |= self._malignant_figures(cells, _Curve(self._malignant, weights))
        return found

    def _malignant_figures(self, cells: np.ndarray, curve: "_Curve") -> dict[Key, np.ndarray]:
        rows = cells[self._grouped]
        hits, support = rows[:, self._grouped].sum((0, 1)), rows.sum((0, 1))
        named = cells[:, self._grouped].sum((0, 1))
        found = _decisions(hits, support, named, cells.sum((0, 1)))
        found |= {"auc": curve.auc(), "pr_auc": curve.pr_auc()}
        return {("malignant", name): values for name, values in found.items()} | (
            curve.operating_points("malignant", self.settings.operating_levels)
        )

    def confusion(self) -> Int64[np.ndarray, "classes classes"]:
        """Counts of images [truth][prediction]."""
        count = len(self.classes)
        return self._cells.sum(axis=1).astype(np.int64).reshape(count, count)

    def _counts(self, rows: np.ndarray, height: int) -> csr_array:
        ones = np.ones(len(rows))
        return csr_array((ones, (rows, self._unit)), shape=(height, self.units))

    def _ranking(self, positive: np.ndarray, score: np.ndarray) -> Ranking:
        values, group = np.unique(score[positive], return_inverse=True)
        below = np.searchsorted(values, score)
        tied = np.isin(score, values)
        rows = 2 * below + tied
        rows[positive] = 2 * len(values) + 1 + group
        return Ranking(self._counts(rows, 3 * len(values) + 1), len(values))


class _Curve:
    """Both error counts at every threshold that a positive's score sets, [scores draws]."""

    def __init__(self, ranking: Ranking, weights: np.ndarray) -> None:
        sums, scores = ranking.bins @ weights, ranking.scores
        passed = np.cumsum(sums[: 2 * scores + 1], axis=0)
        self.at = sums[2 * scores + 1 :]  # positives with exactly this score
        self.below, self.up_to = passed[: 2 * scores : 2], passed[1 : 2 * scores : 2]
        self.reached = np.cumsum(self.at[::-1], axis=0)[::-1]  # positives with it or above
        self.negatives, self.positives = passed[-1], self.at.sum(axis=0)

    def auc(self) -> np.ndarray:
        """Area under the ROC curve: the share of pairs in order, a tie worth one half."""
        won = (self.at * (self.below + self.up_to)).sum(axis=0) / 2
        return won / (self.positives * self.negatives)

    def pr_auc(self) -> np.ndarray:
        """Average precision: the precision at every positive, averaged, without interpolation."""
        alarms = self.reached + self.negatives - self.below
        precision = np.divide(self.reached, alarms, out=np.zeros_like(alarms), where=alarms > 0)
        return (self.at * precision).sum(axis=0) / self.positives

    def operating_points(self, name: str, levels: Sequence[float]) -> dict[Key, np.ndarray]:
        """The best of one figure where the other reaches a level, for both and all levels."""
        found: dict[Key, np.ndarray] = {}
        for level in levels:
            found[name, "specificity_at_sensitivity", f"{level:g}"] = self._specificity_at(level)
        for level in levels:
            found[name, "sensitivity_at_specificity", f"{level:g}"] = self._sensitivity_at(level)
        return found

    def _specificity_at(self, level: float) -> np.ndarray:
        if not len(self.at):
            return np.full(self.negatives.shape, np.nan)
        enough = self.reached >= (level - TOLERANCE) * self.positives
        threshold = enough.sum(axis=0) - 1  # `reached` falls, so the last that is still enough
        below = np.take_along_axis(self.below, threshold[None], axis=0)[0]
        return np.where(self.positives > 0, below / self.negatives, np.nan)

    def _sensitivity_at(self, level: float) -> np.ndarray:
        enough = self.below >= (level - TOLERANCE) * self.negatives
        share = (self.at * enough).sum(axis=0) / self.positives
        return np.where(self.negatives > 0, share, np.nan)


def _among_top(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the truth is among the `TOP` most probable classes, the first of equal ones."""
    ranked = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    return (ranked == labels[:, None]).any(axis=1)


def _decisions(
    hits: np.ndarray, support: np.ndarray, named: np.ndarray, total: np.ndarray
) -> dict[str, np.ndarray]:
    """What the four cells of a two-by-two table give."""
    return {
        "sensitivity": hits / support,
        "specificity": (total - support - named + hits) / (total - support),
        "precision": hits / named,
        "f1": 2 * hits / (support + named),
    }


def _kappa(hits: np.ndarray, support: np.ndarray, named: np.ndarray) -> np.ndarray:
    """Cohen's kappa: agreement beyond what the two marginals give by chance."""
    total = support.sum(0)
    chance = (support * named).sum(0) / total**2
    return (hits.sum(0) / total - chance) / (1 - chance)


def _matthews(hits: np.ndarray, support: np.ndarray, named: np.ndarray) -> np.ndarray:
    """Matthews' correlation for many classes (Gorodkin 2004)."""
    total = support.sum(0)
    covariance = hits.sum(0) * total - (support * named).sum(0)
    spread = (total**2 - (support**2).sum(0)) * (total**2 - (named**2).sum(0))
    return covariance / np.sqrt(spread)


def _mean(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean over classes of the figures that exist, NaN where none does."""
    present = ~np.isnan(values)
    shares = present if weights is None else present * weights
    return (np.where(present, values, 0.0) * shares).sum(0) / shares.sum(0)

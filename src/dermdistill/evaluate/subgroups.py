"""Every figure by sex, age band, site or any other column, and the group that fares worst."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from dermdistill.config import EvaluationConfig
from dermdistill.evaluate.groups import groupings, units_of
from dermdistill.evaluate.intervals import Bootstrap, bootstrap
from dermdistill.evaluate.predictions import UNKNOWN, Predictions
from dermdistill.evaluate.tally import Key

LEAST_UNITS = 30  # lesions; a smaller group is shown but never called the worst
NOT_KNOWN = "not known"


class Group(NamedTuple):
    """The images of one group and what they show."""

    name: str
    images: int
    units: int  # lesions, or patients where known
    made: Bootstrap


def by_group(
    predictions: Predictions,
    groups: pd.DataFrame,
    settings: EvaluationConfig | None = None,
    seed: int = 0,
) -> dict[str, list[Group]]:
    """Bootstrap every group of every column that divides the images, each on its own lesions.

    Args:
        predictions: of one classifier.
        groups: one row an image, in the same order (`load_groups`).
        settings: as for `bootstrap`.
        seed: as for `bootstrap`.

    Returns:
        Column -> its groups in order of name, images of no known group last.
    """
    units, found = units_of(groups), {}
    for column, names in groupings(groups).items():
        labels = names.to_numpy(object)
        known = names.notna().to_numpy()
        asked = [(name, known & (labels == name)) for name in sorted(set(labels[known]))]
        asked.append((NOT_KNOWN, ~known))
        found[column] = [
            _group(str(name), predictions, np.flatnonzero(mine), units, settings, seed)
            for name, mine in asked
            if (mine & (predictions.labels != UNKNOWN)).any()
        ]
    return found


def worst(groups: list[Group], key: Key) -> Group | None:
    """The group with the lowest figure, among those large enough; None where fewer than two are."""
    able = [
        group
        for group in groups
        if group.units >= LEAST_UNITS and group.made.interval(key) is not None
    ]
    return min(able, key=lambda group: group.made.point[key]) if len(able) > 1 else None


def _group(
    name: str,
    predictions: Predictions,
    rows: np.ndarray,
    units: np.ndarray,
    settings: EvaluationConfig | None,
    seed: int,
) -> Group:
    own = np.unique(units[rows], return_inverse=True)[1]
    made = bootstrap(predictions.subset(rows), own, settings, seed)
    return Group(name, len(rows), int(own.max()) + 1, made)

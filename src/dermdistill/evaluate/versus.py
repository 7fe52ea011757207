"""Several classifiers on the same images: every difference, with intervals and corrected tests."""

from dataclasses import dataclass

import numpy as np

from dermdistill.evaluate.assess import Assessment
from dermdistill.evaluate.intervals import Difference
from dermdistill.evaluate.predictions import UNKNOWN
from dermdistill.evaluate.significance import McNemar, delong, holm, mcnemar
from dermdistill.evaluate.tally import Key


@dataclass(frozen=True, eq=False)
class Versus:
    """One classifier against the first; p-values are corrected over all the others (Holm).

    Args:
        place: which of the others, by its place in the list (from 1).
        differences: key -> the other's figure less the first's, paired lesion by lesion.
        corrected: key -> its p-value after Holm's correction.
        mcnemar: images that only one of the two names rightly; p-value corrected.
        delong: corrected p-value of equal malignant-against-benign areas; None without the task.
    """

    place: int
    differences: dict[Key, Difference]
    corrected: dict[Key, float]
    mcnemar: McNemar
    delong: float | None


def against_first(assessed: list[Assessment]) -> list[Versus]:
    """Every other classifier less the first.

    Raises:
        DataError: they were not judged on the same images and lesions.
    """
    first, others = assessed[0], assessed[1:]
    found = []
    for place, other in enumerate(others, start=1):
        differences = {key: other.made.minus(first.made, key) for key in first.made.point}
        found.append((
            place, {key: value for key, value in differences.items() if value is not None},
            _mcnemar(other, first), _delong(other, first),
        ))  # fmt: skip
    keys = {key for _, differences, _, _ in found for key in differences}
    corrected = {
        key: _corrected([row[1][key].p_value if key in row[1] else None for row in found])
        for key in keys
    }
    by_mcnemar = _corrected([row[2].p_value for row in found])
    by_delong = _corrected([row[3] for row in found])
    return [
        Versus(
            place, differences,
            {key: corrected[key][row] for key in differences if corrected[key][row] is not None},
            tested._replace(p_value=by_mcnemar[row]), by_delong[row],
        )
        for row, (place, differences, tested, _) in enumerate(found)
    ]  # fmt: skip


def _corrected(p_values: list[float | None]) -> list[float | None]:
    """Holm's correction over the tests that could be made."""
    made = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(made) for p in p_values]


def _mcnemar(one: Assessment, other: Assessment) -> McNemar:
    known = one.test.labels != UNKNOWN
    right = [(made.test.predicted == made.test.labels)[known] for made in (one, other)]
    return mcnemar(*right)


def _delong(one: Assessment, other: Assessment) -> float | None:
    tasks = one.malignant(), other.malignant()
    if tasks[0] is None or tasks[1] is None:
        return None
    (positive, mine), (_, theirs) = tasks
    known = one.test.labels != UNKNOWN
    areas = delong(positive, np.stack([mine, theirs]), one.units[known])
    return None if areas is None else areas.p_value(0, 1)

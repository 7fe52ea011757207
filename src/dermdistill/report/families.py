"""Runs that differ by their seed alone, and the mean of each such family."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dermdistill.evaluate.intervals import Bootstrap, Difference, mean_of
from dermdistill.evaluate.significance import holm
from dermdistill.evaluate.tally import Key
from dermdistill.report.judged import HEADLINE, Judged


@dataclass(frozen=True, eq=False)
class Family:
    """One method at one setting over its seeds.

    Args:
        series: place of its colour and sign.
        label: its name on the page.
        members: its runs.
        mean: their mean on the same draws of lesions.
        difference: its balanced accuracy less the first family's; None for the first.
        p_value: of that difference, corrected over all families (Holm).
    """

    series: int
    label: str
    members: list[Judged]
    mean: Bootstrap
    difference: Difference | None = None
    p_value: float | None = None

    def spread(self, key: Key) -> float | None:
        """Standard deviation of a figure over the seeds; None for one seed."""
        if len(self.members) < 2:
            return None
        return float(np.std([one.made.made.point[key] for one in self.members], ddof=1))


def families(alike: Sequence[Judged]) -> list[Family]:
    """Families of runs that were judged on the same images, each against the first."""
    members: dict[int, list[Judged]] = {}
    for one in alike:
        members.setdefault(one.record.series, []).append(one)
    means = {series: mean_of([one.made.made for one in runs]) for series, runs in members.items()}
    first, *others = members
    differences = {series: means[series].minus(means[first], HEADLINE) for series in others}
    tested = [series for series, made in differences.items() if made is not None]
    corrected = dict(zip(tested, holm([differences[s].p_value for s in tested]), strict=True))
    return [
        Family(series, runs[0].record.group, runs, means[series], differences.get(series),
               corrected.get(series))
        for series, runs in members.items()
    ]  # fmt: skip


def several_seeds(found: Sequence[Family]) -> bool:
    """Whether any family has more than one run, so that means are worth a table."""
    return any(len(family.members) > 1 for family in found)

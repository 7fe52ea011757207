"""The same network on other images: what each figure loses, and how sure that is.

The two sets have no lesion in common, so each is drawn by itself, and a difference is one of two
independent figures: its interval is wider than that of two networks on the same images.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dermdistill.config import EvaluationConfig
from dermdistill.errors import DataError
from dermdistill.evaluate.assess import read_part
from dermdistill.evaluate.groups import SOURCE, units_of
from dermdistill.evaluate.intervals import Bootstrap, Difference, bootstrap
from dermdistill.evaluate.predictions import UNKNOWN, Predictions
from dermdistill.evaluate.tally import Key
from dermdistill.run import RESEARCH_NOTICE, write_json

FILE = "drift.json"
HEADLINES: tuple[Key, ...] = (
    ("balanced_accuracy",), ("accuracy",), ("macro_auc",), ("malignant", "auc"),
    ("malignant", "sensitivity"), ("malignant", "specificity"),
)  # fmt: skip
HOME = "home"  # a run's own test part, kept beside the figures of the folder it was judged on
OWN, FOLDER = "own test part", "this folder"
HOME_SEED, AWAY_SEED = 0, 1  # draws of their own, or the two sets' luck would go together


class Sample(NamedTuple):
    """Images of one origin."""

    name: str
    predictions: Predictions
    groups: pd.DataFrame

    def of(self, rows: np.ndarray) -> "Sample":
        """Some of them."""
        return Sample(self.name, self.predictions.subset(rows), self.groups.iloc[rows])

    @property
    def lesions(self) -> int:
        """How many lesions (patients where known) they show."""
        return len(np.unique(units_of(self.groups)))


class Drift(NamedTuple):
    """One network on images of two origins, on the classes that both have.

    Attributes:
        home: where it is at home.
        away: where it was taken.
        classes: true classes of both; images of others are left out on both sides.
        left_out: class -> the origin that alone has images of it.
        shared: lesions with images of both origins; there should be none.
        here: its figures at home.
        there: its figures away.
    """

    home: Sample
    away: Sample
    classes: tuple[str, ...]
    left_out: dict[str, str]
    shared: int
    here: Bootstrap
    there: Bootstrap

    def change(self, key: Key) -> Difference | None:
        """A figure away less the same figure at home; None where one of them is missing."""
        return self.there.minus_unpaired(self.here, key)


def drift(home: Sample, away: Sample, settings: EvaluationConfig | None = None) -> Drift:
    """Compare a network's figures on images of two origins.

    Args:
        home: where it is at home.
        away: where it was taken; of the same classes, though it may have no image of some.
        settings: what is asked of predictions.

    Raises:
        DataError: the two do not name the same classes, or no class has images of both.
    """
    names = home.predictions.classes
    if names != away.predictions.classes:
        raise DataError(
            f"{away.name} has the classes {', '.join(away.predictions.classes)}, {home.name} "
            f"{', '.join(names)}; one network's figures are compared, so both must be the same"
        )
    sets = [_present(sample.predictions) for sample in (home, away)]
    common, apart = sets[0] & sets[1], sets[0] ^ sets[1]
    if not common:
        raise DataError(f"{home.name} and {away.name} have no class in common with a true image")
    home, away = (
        sample.of(np.flatnonzero(np.isin(sample.predictions.labels, list(common))))
        for sample in (home, away)
    )
    here, there = (
        bootstrap(sample.predictions, units_of(sample.groups), settings, seed)
        for sample, seed in ((home, HOME_SEED), (away, AWAY_SEED))
    )
    lesions = [set(sample.groups["lesion"]) for sample in (home, away)]
    return Drift(
        home, away,
        tuple(name for code, name in enumerate(names) if code in common),
        {names[code]: (home if code in sets[0] else away).name for code in sorted(apart)},
        len(lesions[0] & lesions[1]), here, there,
    )  # fmt: skip


def _present(predictions: Predictions) -> set[int]:
    return set(np.unique(predictions.labels).tolist()) - {UNKNOWN}


def drifts_of(run: str | os.PathLike, settings: EvaluationConfig | None = None) -> list[Drift]:
    """Every drift that a run directory can tell of, from its prediction files alone.

    Its own test part against the folder that it was judged on (`evaluate --images`), and within
    the test part its largest source against each other source, where a table names sources.

    Raises:
        DataError: a file is missing or malformed.
    """
    run = Path(run)
    test = Sample(FOLDER, *read_part(run, "test"))
    found = []
    if (run / f"predictions-{HOME}.csv").is_file():
        found.append(drift(Sample(OWN, *read_part(run, HOME)), test, settings))
    sources = test.groups.get(SOURCE, pd.Series(index=test.groups.index, dtype=object))
    counts = sources[test.predictions.labels != UNKNOWN].value_counts()
    parts = [
        test.of(np.flatnonzero(sources == name))._replace(name=f"{SOURCE} {name}")
        for name in counts.sort_index().sort_values(ascending=False, kind="stable").index
    ]
    able = [one for one in parts[1:]
            if _present(parts[0].predictions) & _present(one.predictions)]  # fmt: skip
    return found + [drift(parts[0], one, settings) for one in able]


def write_drift(run: str | os.PathLike, settings: EvaluationConfig | None = None) -> list[Drift]:
    """Write every figure of every drift that a run tells of to its drift.json, if any does."""
    found = drifts_of(run, settings)
    if found:
        write_json(Path(run) / FILE, {
            "notice": RESEARCH_NOTICE, "drifts": [_plain(one) for one in found],
        })  # fmt: skip
    return found


def _plain(one: Drift) -> dict[str, Any]:
    figures = {}
    for key in one.here.point:
        made = one.change(key)
        if made is not None:
            low, high = made.interval or (None, None)
            figures["/".join(key)] = {
                "home": one.here.point[key], "away": one.there.point[key],
                "change": made.value, "low": low, "high": high,
            }  # fmt: skip
    sides = {
        side: {"name": sample.name, "images": len(sample.predictions), "lesions": sample.lesions}
        for side, sample in (("home", one.home), ("away", one.away))
    }
    return sides | {
        "classes": list(one.classes), "left_out": one.left_out, "shared_lesions": one.shared,
        "level": one.here.level, "figures": figures,
    }  # fmt: skip


def told(one: Drift) -> list[str]:
    """A drift in lines for a terminal."""
    lines = [
        f"{one.away.name} ({len(one.away.predictions)} images, {one.away.lesions} lesions) against "
        f"{one.home.name} ({len(one.home.predictions)} images, {one.home.lesions} lesions):"
    ]
    for key in HEADLINES:
        made = one.change(key) if key in one.here.point else None
        if made is None:
            continue
        ends = "too few lesions for an interval"
        if made.interval:
            ends = f"{made.interval.low:+.3f} to {made.interval.high:+.3f}"
        lines.append(f"  {' '.join(key).replace('_', ' '):<22} {one.here.point[key]:.3f} -> "
                     f"{one.there.point[key]:.3f}  {made.value:+.3f} ({ends})")  # fmt: skip
    return lines + [f"  {words}" for words in cautions(one)]


def cautions(one: Drift) -> list[str]:
    """What keeps a drift from being only the origin's doing."""
    said = []
    if one.left_out:
        names = ", ".join(f"{name} (in {where} alone)" for name, where in one.left_out.items())
        said.append(f"left out on both sides: {names}")
    if one.shared:
        said.append(f"{one.shared} lesions have images of both, so the two are not independent")
    return said

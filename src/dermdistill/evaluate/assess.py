"""Everything that a run's predictions say, and how surely, from its CSV files alone."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64

from dermdistill.config import EvaluationConfig
from dermdistill.evaluate.calibration import (
    Reliability,
    calibration_metrics,
    fit_temperature,
    fit_vector,
    reliability,
)
from dermdistill.evaluate.conformal import (
    Coverage,
    conformal_sets,
    coverage_by_class,
    first_of_each,
)
from dermdistill.evaluate.groups import load_groups, units_of
from dermdistill.evaluate.intervals import Bootstrap, bootstrap
from dermdistill.evaluate.predictions import UNKNOWN, Predictions
from dermdistill.evaluate.selective import RiskCoverage, risk_coverage
from dermdistill.evaluate.subgroups import Group, by_group

COVERAGE = 0.9  # what conformal sets promise in a report
SCALINGS = {"temperature": fit_temperature, "vector": fit_vector}
AS_TRAINED = "as trained"


@dataclass(frozen=True, eq=False)
class Conformal:
    """One promise: for all images together, or for each class."""

    per_class: bool
    rows: list[Coverage]
    mean_size: float  # classes in a set


@dataclass(frozen=True, eq=False)
class Assessment:
    """What one run's test part says; scalings and sets were fitted on its validation part.

    Args:
        test: probabilities and truth.
        units: each image's lesion, or patient where known.
        settings: what was asked.
        made: every figure with its draws.
        calibration: "as trained" and each scaling -> ece, ece_mass, brier, nll.
        reliability: the same -> bins of confidence and accuracy.
        risk: share of wrong answers by share answered.
        conformal: the promise overall, and by class.
        groups: column -> its groups.
    """

    test: Predictions
    units: Int64[np.ndarray, " images"]
    settings: EvaluationConfig
    made: Bootstrap
    calibration: dict[str, dict[str, Any]]
    reliability: dict[str, Reliability]
    risk: RiskCoverage
    conformal: list[Conformal]
    groups: dict[str, list[Group]]

    def malignant(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Truth and score of malignant against benign on the labelled images; None without it."""
        known = self.test.labels != UNKNOWN
        grouped = np.isin(self.test.classes, self.settings.malignant)
        positive = grouped[self.test.labels[known]]
        if not 0 < positive.sum() < len(positive):
            return None
        return positive, self.test.probabilities[known][:, grouped].sum(axis=1)


def assess(run: str | os.PathLike, settings: EvaluationConfig | None = None) -> Assessment:
    """Judge a run directory's test part.

    Args:
        run: the directory, with `predictions-PART.csv` and `truth-PART.csv`; without
            `groups-PART.csv` every image counts as a lesion of its own.
        settings: what is asked; None: defaults.

    Raises:
        DataError: a file is missing or malformed, or holds no labelled image.
    """
    settings = settings or EvaluationConfig()
    validation, of_validation = read_part(run, "validation")
    test, of_test = read_part(run, "test")
    units = units_of(of_test)
    scaled = {AS_TRAINED: test} | {
        name: fit(validation).apply(test) for name, fit in SCALINGS.items()
    }
    return Assessment(
        test=test,
        units=units,
        settings=settings,
        made=bootstrap(test, units, settings),
        calibration={name: calibration_metrics(made) for name, made in scaled.items()},
        reliability={name: _reliability(made) for name, made in scaled.items()},
        risk=risk_coverage(test),
        conformal=_conformal(
            validation.subset(first_of_each(units_of(of_validation))),
            test.subset(first_of_each(units)),
        ),
        groups=by_group(test, of_test, settings),
    )


def read_part(run: str | os.PathLike, part: str) -> tuple[Predictions, pd.DataFrame]:
    """Predictions of one part of a run, and whose images they are."""
    run = Path(run)
    made = Predictions.load(run / f"predictions-{part}.csv", run / f"truth-{part}.csv")
    return made, load_groups(run / f"groups-{part}.csv", made.ids)


def _reliability(made: Predictions) -> Reliability:
    known = made.labels != UNKNOWN
    return reliability(
        made.probabilities[known].max(axis=1), (made.predicted == made.labels)[known],
        equal_mass=True,
    )  # fmt: skip


def _conformal(validation: Predictions, test: Predictions) -> list[Conformal]:
    found = []
    for per_class in (False, True):
        sets = conformal_sets(validation, test, COVERAGE, per_class)
        rows = coverage_by_class(sets, test, validation, COVERAGE, per_class)
        found.append(Conformal(per_class, rows, float(sets.sum(axis=1).mean())))
    return found

"""Runs judged from their predictions, and how a figure of them is written."""

from collections.abc import Sequence
from typing import NamedTuple

from dermdistill.config import EvaluationConfig, load_config
from dermdistill.errors import ConfigError, DataError
from dermdistill.evaluate.assess import Assessment, assess
from dermdistill.evaluate.drift import Drift, drifts_of
from dermdistill.evaluate.intervals import Bootstrap, Interval
from dermdistill.evaluate.subgroups import worst
from dermdistill.evaluate.tally import Key
from dermdistill.report.runs import RunRecord
from dermdistill.report.tables import Cell, figure
from dermdistill.run import CONFIG

HEADLINE: Key = ("balanced_accuracy",)  # what runs are ranked by
SIGNIFICANT = 0.05  # of a corrected p-value that is set apart
PLAIN = ("macro_auc", "auc", "pr_auc", "kappa", "matthews")  # read as 0.912, the others as 91.2 %


class Judged(NamedTuple):
    """One run's assessment and how the page shows it."""

    record: RunRecord  # with its name and colour on the page
    made: Assessment
    drifts: Sequence[Drift] = ()

    @property
    def tag(self) -> str:
        """Its name, unique on the page."""
        return self.record.label


def level_of(judged: Sequence[Judged]) -> str:
    """The intervals' level for people: "95 %"."""
    return f"{100 * judged[0].made.settings.level:g} %"


def shown(key: Key, value: float | None, ends: Interval | None, strong: bool = False) -> Cell:
    """A figure as its kind is read: areas with three decimals, shares as per cent."""
    plain = key[-1] in PLAIN
    return figure(value, ends, 1.0 if plain else 100.0, 3 if plain else 1, strong)


def cell(made: Bootstrap, key: Key, strong: bool = False) -> Cell:
    """One figure of a run with its interval; blank where the run does not have it."""
    if key not in made.point:
        return Cell("–")
    return shown(key, made.point[key], made.interval(key), strong)


def judge(records: Sequence[RunRecord]) -> list[Judged]:
    """Every run whose predictions are there, asked what the first run's config asks.

    A run without them gets a note.
    """
    settings, judged = _settings(records[0]), []
    for record in records:
        try:
            made = assess(record.folder, settings)
            drifts = drifts_of(record.folder, settings)
        except DataError as error:
            record.notes.append(f"Its figures have no interval: {error}.")
            continue
        judged.append(Judged(record, made, drifts))
    return judged


def _settings(record: RunRecord) -> EvaluationConfig | None:
    """The evaluation part of a run's config; None where it has none that can be read."""
    try:
        return load_config(record.folder / CONFIG).evaluation
    except ConfigError:
        return None


def worst_names(made: Assessment, key: Key) -> dict[str, str]:
    """The worst group of every column by one figure."""
    found = {column: worst(members, key) for column, members in made.groups.items()
             if key in made.made.point}  # fmt: skip
    return {column: group.name for column, group in found.items() if group is not None}

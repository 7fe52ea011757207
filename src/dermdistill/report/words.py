"""Figures as a reader reads them, and the sentences that say what they mean and do not mean."""

import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from dermdistill.evaluate.assess import Assessment
from dermdistill.evaluate.intervals import Difference
from dermdistill.evaluate.tally import Key
from dermdistill.report.judged import Judged
from dermdistill.report.runs import RunRecord
from dermdistill.report.verdicts import (
    calibration_words,
    difference_words,
    group_words,
    with_interval,
)

Number = int | float  # JSON writes a whole float as an int
NOTHING = "–"  # what a cell shows where there is no figure
LEVEL_POINTS = 0.05  # a smaller difference rounds to 0.0 points: the two are level
SHOWN_DIGEST = 16  # hexadecimal digits: enough to compare by eye, the whole one is on hover
RARE_IMAGES = 30  # below it one image moves a class's sensitivity by more than three points


def percent(value: Number | None) -> str:
    """A share in [0, 1] as per cent with one decimal, without the sign."""
    return NOTHING if value is None else f"{100 * value:.1f}"


def area(value: Number | None) -> str:
    """An area under the curve with three decimals."""
    return NOTHING if value is None else f"{value:.3f}"


def count(value: int | None) -> str:
    """A whole number with commas."""
    return NOTHING if value is None else f"{value:,}"


def magnitude(value: Number | None) -> str:
    """A large number in millions or thousands of millions, three digits."""
    if value is None:
        return NOTHING
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            scaled = value / size
            return f"{scaled:.{max(0, 2 - (scaled >= 10) - (scaled >= 100))}f} {sign}"
    return f"{value:g}"


def plain(value: Number | None, digits: int = 1) -> str:
    """A number with a fixed count of decimals."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def duration(seconds: Number | None) -> str:
    """A wall time in the two largest of hours, minutes and seconds."""
    if seconds is None:
        return NOTHING
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def network_of(record: RunRecord) -> str:
    """The network's name, or the run's where it is not written down."""
    return str(record.provenance.get("network") or record.name)


def findings(
    student: RunRecord,
    teacher: RunRecord | None,
    made: Assessment | None,
    difference: Difference | None,
) -> list[str]:
    """What the test figures of one run say, in sentences that claim no more than they show.

    Args:
        student: the run.
        teacher: its teacher's, or None.
        made: what its predictions say, or None where they are missing.
        difference: its balanced accuracy less its teacher's, lesion by lesion, or None.
    """
    test = student.metrics["test"]

    def ends(key: Key, scale: float = 100.0, digits: int = 1) -> str:
        return "" if made is None else with_interval(made.made, key, scale, digits)

    size = magnitude(cost(student, "parameters"))
    lead = (
        f"On {count(test['images'])} test images {student.label} ({network_of(student)}, "
        f"{size} parameters) reaches a balanced accuracy of "
        f"{percent(test['balanced_accuracy'])} %{ends(('balanced_accuracy',))}, an accuracy of "
        f"{percent(test['accuracy'])} %{ends(('accuracy',))} and a macro AUC of "
        f"{area(test['macro_auc'])}{ends(('macro_auc',), 1.0, 3)}."
    )
    said = [lead]
    if teacher is not None:
        said.append(_against(student, teacher, difference))
        if difference is not None and made is not None:
            said.append(difference_words(difference, made.settings.level))
    if made is not None:
        said += [calibration_words(made), group_words(made)]
    return [sentence for sentence in said if sentence]


def cost(record: RunRecord, name: str) -> Number | None:
    """One figure of what the network costs, None where it was not measured."""
    return (record.metrics.get("cost") or {}).get(name)


def comparable(one: RunRecord, other: RunRecord) -> bool:
    """Whether both runs were scored on the same split."""
    return one.split_digest is not None and one.split_digest == other.split_digest


def _against(student: RunRecord, teacher: RunRecord, difference: Difference | None) -> str:
    ratios = [
        _fewer(cost(student, name), cost(teacher, name), words)
        for name, words in (("parameters", "parameters"), ("multiply_adds", "multiply-adds"))
    ]
    costs = " and ".join(ratio for ratio in ratios if ratio) or "costs that were not measured"
    who = f"its teacher ({network_of(teacher)})"
    if not comparable(student, teacher):
        return (
            f"It has {costs}, compared with {who}. The two were not scored on the same split, so "
            "their figures must not be compared."
        )
    mine, theirs = (run.metrics["test"]["balanced_accuracy"] for run in (student, teacher))
    if mine is None or theirs is None:
        return f"It has {costs}, compared with {who}."
    points = 100 * (mine - theirs)
    if abs(points) < LEVEL_POINTS:
        place = f"level with {who}"
    else:
        side = "above" if points > 0 else "below"
        place = f"{abs(points):.1f} points {side} {who}"
    how = "as a difference of two point estimates" if difference is None else "paired by lesion"
    return f"In balanced accuracy that is {place}, {how}, with {costs}."


def _fewer(mine: Number | None, theirs: Number | None, words: str) -> str | None:
    if not mine or not theirs:
        return None
    ratio = theirs / mine
    return (
        f"{ratio:.1f} times fewer {words}" if ratio >= 1 else f"{1 / ratio:.1f} times the {words}"
    )


def command(record: RunRecord) -> str:
    """What to type to make a run again, from the folder that holds it."""
    verb = "teach" if record.stage == "teacher" else "distill"
    return f"dermdistill {verb} --config {shlex.quote(record.name)}/config.yaml"


def commands(records: Sequence[RunRecord], page: str) -> list[tuple[str, str]]:
    """(figures, what to type to make them again), for every figure of a page."""
    names = [shlex.quote(record.name) for record in records]
    judged = [record for record in records if record.provenance.get("judged_run")]
    own = [name for name, record in zip(names, records, strict=True) if record not in judged]
    rows = [
        ("Every table and drawing of this page, intervals and tests, from prediction files alone",
         f"dermdistill report {' '.join(names)} --output {shlex.quote(page)}"),
        *((f"Predictions, confusion, areas and cost of {name}, from its weights and images",
           f"dermdistill evaluate {name}") for name in own),
        *((f"The same of {record.name}, and its change against the run's own test part",
           f"dermdistill evaluate --images FOLDER --model "
           f"{shlex.quote(PurePath(record.provenance['judged_run']).name)} "
           f"--output {shlex.quote(record.name)}") for record in judged),
        *((f"The weights of {record.name}, its curves and wall time", command(record))
          for record in records if record not in judged and record.config is not None),
    ]  # fmt: skip
    return rows


def facts(record: RunRecord) -> list[tuple[str, str, str | None]]:
    """What made a run: (label, value, the whole value where the shown one is cut short)."""
    made, parity = record.provenance, record.parity
    split, store = made.get("split") or {}, made.get("store") or {}
    versions = made.get("versions") or {}
    rows = [
        ("Run directory", record.name, None),
        ("Split", split.get("protocol") and f"by {split['protocol']}", None),
        ("Split digest", _short(split.get("digest")), split.get("digest")),
        ("Store digest", _short(store.get("digest")), store.get("digest")),
        ("Seed", made.get("seed"), None),
        ("Commit", made.get("commit"), None),
        ("Machine", made.get("machine"), None),
        ("Versions", ", ".join(f"{name} {number}" for name, number in versions.items()), None),
    ]
    rows += [(f"Export, {name}", _parity(each), None) for name, each in parity.items()]
    return [(label, str(value), whole) for label, value, whole in rows if value not in (None, "")]


def _short(digest: str | None) -> str | None:
    return digest and digest[:SHOWN_DIGEST]


def _parity(parity: dict[str, Any] | None) -> str:
    if parity is None:
        return "unverified: it runs on its own devices only"
    return (
        f"compared with the trained network on {count(parity['images'])} {parity['source']}: "
        f"probabilities differ by at most {parity['probability']:.1e}, same class in "
        f"{percent(parity['top1_agreement'])} %"
    )


def cautions(records: Sequence[RunRecord], judged: Sequence[Judged]) -> list[str]:
    """What keeps these figures from meaning more than they do, worst first."""
    said = []
    if len({record.split_digest for record in records}) > 1:
        said.append(
            "These runs were not all scored on the same split. Figures from different splits must "
            "not be ranked side by side."
        )
    if any((record.provenance.get("split") or {}).get("protocol") == "image" for record in records):
        said.append(
            "At least one run is split by image: images of one lesion can stand on both sides of "
            "the split, which flatters every figure. A split by lesion does not have this fault."
        )
    if len(judged) < len(records):
        said.append(
            "At least one run shows point estimates without an interval, as its predictions are "
            "not there. A difference of a few points can be chance."
        )
    if any(len(np.unique(one.made.units)) == len(one.made.units) for one in judged):
        said.append(
            "No two test images are known to show one lesion. If some do, every interval is too "
            "short."
        )
    said.append(
        "An interval says how far a figure moves with other lesions of the same kind. It does not "
        "say what another training seed, clinic or camera would give."
    )
    said += _class_cautions(records[0].metrics["test"])
    said.append(
        "The kept epoch was chosen by the validation part, so validation figures are optimistic; "
        "judge by the test part."
    )
    return said


def _class_cautions(test: dict[str, Any]) -> list[str]:
    said = []
    support = {name: figures["support"] for name, figures in test["per_class"].items()}
    absent = [name for name, images in support.items() if not images]
    rare = [f"{name} ({images})" for name, images in support.items() if 0 < images < RARE_IMAGES]
    if absent:
        said.append(
            f"No test image is of {_listed(absent)}: there the figures are blank and stay out of "
            "the means."
        )
    if rare:
        said.append(
            f"Few test images are of {_listed(rare)}: below {RARE_IMAGES}, a single image moves "
            "the sensitivity by more than three points."
        )
    return said


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

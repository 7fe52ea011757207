"""Figures of what a classifier's probabilities are worth: thresholds, doubt, groups, cascade."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from sklearn.metrics import precision_recall_curve, roc_curve

from dermdistill.evaluate.assess import AS_TRAINED, Assessment
from dermdistill.evaluate.selective import CascadePoint
from dermdistill.evaluate.subgroups import Group
from dermdistill.evaluate.tally import Key
from dermdistill.report.figures import (
    DASHES,
    HEAD_INCHES,
    INK,
    MUTED,
    PANEL_INCHES,
    ROW_INCHES,
    SERIES,
    SURFACE,
    colour,
    legend,
    panel,
)

SQUARE_INCHES = (4.6, 3.7)
MOST_POINTS = 240  # of a curve: a screen shows no more, and the page stays small
NAME_CHARACTERS = 22  # of a group's row


def roc_figure(judged: Sequence[tuple[int, str, Assessment]], name: str) -> str | None:
    """Sensitivity against false alarms for malignant; a curve a run, a colour a family."""
    curves = [
        (index, tag, *roc_curve(*task)[:2])
        for index, tag, made in judged
        if (task := made.malignant())
    ]

    def draw(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.9, linestyle=DASHES[2])
        _lines(axes, [(index, tag, 100 * x, 100 * y) for index, tag, x, y in curves])

    return _square(draw, curves, name, "ROC of malignant against benign",
                   "false alarms among benign, %", "sensitivity for malignant, %")  # fmt: skip


def pr_figure(judged: Sequence[tuple[int, str, Assessment]], name: str) -> str | None:
    """Precision against sensitivity of malignant against benign, one curve a run."""
    curves, prevalence = [], 0.0
    for index, tag, made in judged:
        if task := made.malignant():
            precision, sensitivity, _ = precision_recall_curve(*task, drop_intermediate=True)
            curves.append((index, tag, sensitivity, precision))
            prevalence = task[0].mean()

    def draw(axes: Axes) -> None:
        axes.axhline(100 * prevalence, color=MUTED, linewidth=0.9, linestyle=DASHES[2])
        _lines(axes, [(index, tag, 100 * x, 100 * y) for index, tag, x, y in curves])
        axes.set_ylim(-3, 103)

    return _square(draw, curves, name, "Precision and sensitivity of malignant against benign",
                   "sensitivity for malignant, %", "precision, %")  # fmt: skip


def risk_figure(judged: Sequence[tuple[int, str, Assessment]], name: str) -> str | None:
    """Share of wrong answers among the surest images, one curve a run."""
    curves = [(index, tag, made.risk.coverage, made.risk.risk) for index, tag, made in judged]

    def draw(axes: Axes) -> None:
        _lines(axes, [(index, tag, 100 * x, 100 * y) for index, tag, x, y in curves])
        axes.set_ylim(bottom=0)

    return _square(draw, curves, name, "Risk against coverage",
                   "images answered, surest first, %", "wrong among them, %")  # fmt: skip


def cascade_figure(points: Sequence[CascadePoint], name: str) -> str | None:
    """What a student gains by sending its least sure images to the teacher."""
    curves = [
        (0, "balanced accuracy", [p.share for p in points], [p.balanced_accuracy for p in points]),
        (1, "accuracy", [p.share for p in points], [p.accuracy for p in points]),
    ]
    drawn = [curve for curve in curves if points and None not in curve[3]]

    def draw(axes: Axes) -> None:
        _lines(axes, [(i, tag, 100 * np.array(x), 100 * np.array(y)) for i, tag, x, y in drawn])

    return _square(draw, drawn, name, "Accuracy of the cascade by share sent on",
                   "images sent to the teacher, least sure first, %", "%")  # fmt: skip


def reliability_figure(made: Assessment, name: str) -> str | None:
    """Accuracy against confidence, as trained and after each scaling."""
    curves = [
        (index, tag, bins.confidence, bins.accuracy)
        for index, (tag, bins) in enumerate(made.reliability.items())
    ]

    def draw(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.9, linestyle=DASHES[2])
        for index, tag, x, y in curves:
            axes.plot(100 * x, 100 * y, "o-", color=colour(index), markersize=4, label=tag,
                      linewidth=1.8 if tag == AS_TRAINED else 1.2)  # fmt: skip
        low = 100 * min(x.min() for _, _, x, _ in curves)
        axes.set_xlim(max(0, low - 5), 102)
        axes.set_ylim(0, 103)
        legend(axes, [tag for _, tag, _, _ in curves])

    return _square(draw, curves, name, "Reliability", "confidence, %", "right among them, %")


def group_figure(
    groups: dict[str, list[Group]], key: Key, worst: dict[str, str], name: str, label: str
) -> str | None:
    """One figure by group with its interval, one row a group, the worst of a column filled.

    Args:
        groups: column -> its groups.
        key: which figure, in [0, 1].
        worst: column -> name of its worst group.
        name: of the drawing, unique on the page.
        label: the figure's name for people.
    """
    rows = [
        (column, group, group.made.point[key], group.made.interval(key))
        for column, members in groups.items()
        for group in members
        if key in group.made.point and group.made.interval(key) is not None
    ]
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        columns = list(groups)
        for place, (column, group, value, ends) in enumerate(rows):
            tint, bad = colour(columns.index(column)), worst.get(column) == group.name
            axes.plot([100 * end for end in ends], [place] * 2, color=tint, linewidth=1.4)
            axes.plot(100 * value, place, "D" if bad else "o", color=tint, markersize=7,
                      markerfacecolor=tint if bad else SURFACE, markeredgecolor=tint)  # fmt: skip
        names = [f"{column}: {group.name}" for column, group, _, _ in rows]
        cut = [n if len(n) <= NAME_CHARACTERS else n[: NAME_CHARACTERS - 1] + "…" for n in names]
        axes.set_yticks(range(len(rows)), cut, color=INK)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(True, axis="y")

    inches = (PANEL_INCHES[0], HEAD_INCHES + ROW_INCHES * 0.75 * len(rows))
    return panel(draw, name, f"{label} by group", f"{label}, %", "", inches, False)


def _lines(axes: Axes, curves: Sequence[tuple[int, str, Any, Any]]) -> None:
    named: set[str] = set()
    for index, tag, x, y in curves:
        kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).astype(int))
        axes.plot(np.asarray(x)[kept], np.asarray(y)[kept], color=colour(index),
                  linewidth=1.6 if len(curves) <= SERIES else 1.0,
                  label=None if tag in named else tag,
                  linestyle=DASHES[index // SERIES % len(DASHES)])  # fmt: skip
        named.add(tag)
    legend(axes, [*dict.fromkeys(tag for _, tag, _, _ in curves)])


def _square(draw: Any, curves: Sequence[Any], name: str, label: str, x: str, y: str) -> str | None:
    return panel(draw, name, label, x, y, SQUARE_INCHES, False) if curves else None

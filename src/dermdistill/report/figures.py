"""Figures as inline SVG that follow the page: its fonts, its light and its dark colours.

Matplotlib draws with placeholder colours; they become CSS variables, so one drawing reads in
both themes and in print. Text stays text: it can be selected, searched and read aloud.
Each drawing has a name of its own on the page, which keeps its ids apart from the others'.
"""

import io
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

SERIES = 7  # colours that a colour-blind reader can still tell apart (Okabe and Ito's set)
MARKERS = "osD^vPX"  # a second sign beside the colour
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.4, 1.2, 1.4)))
INK, MUTED, GRID, SURFACE = "#010101", "#020202", "#030303", "#040404"
PLACEHOLDERS = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--grid)",
                SURFACE: "var(--surface)"} | {
    f"#0a0a{code:02x}": f"var(--series-{code})" for code in range(1, SERIES + 1)
}  # fmt: skip
PANEL_INCHES = (4.6, 2.9)  # drawn near the width it is shown in, so that 9 pt stays legible
HEAD_INCHES = 0.9  # axis and legend of that figure
ROW_INCHES = 0.36  # a class's row in the per-class figure
TICKS = (0.2, 0.3, 0.5, 2, 3, 5, 20, 30, 50, 200)  # millions, named between the decades
LEGEND_CHARACTERS, LEGEND_SIGN_CHARACTERS = 52, 7  # a panel's width; a line's sign and its gaps
DODGE_ROWS = 0.26  # equal runs stand beside each other, not on top
DODGE_SPAN_ROWS = 0.7  # all runs of a class stay within its row
LOG_SPAN = 30  # a curve that spans more than this factor is read on a logarithmic axis
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "dermdistill", "font.size": 9,
    "text.parse_math": False,  # a class may be called "$5"
    "font.family": "DejaVu Sans", "axes.edgecolor": MUTED, "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7, "axes.spines.top": False, "axes.spines.right": False,
    "text.color": INK, "xtick.color": MUTED, "ytick.color": MUTED, "xtick.major.size": 0,
    "ytick.major.size": 0, "xtick.minor.size": 0, "ytick.minor.size": 0, "axes.grid": True,
    "grid.color": GRID, "grid.linewidth": 0.7, "axes.axisbelow": True, "legend.frameon": False,
    "lines.linewidth": 1.6, "lines.solid_capstyle": "round",
}  # fmt: skip


def colour(index: int) -> str:
    """The placeholder of the index-th series; it repeats after `SERIES`."""
    return f"#0a0a{index % SERIES + 1:02x}"


def marker(index: int) -> str:
    """The sign of the index-th series; colour and sign together repeat after SERIES squared."""
    return MARKERS[(index + index // SERIES) % len(MARKERS)]


def loss_figure(history: Sequence[dict[str, Any]], name: str) -> str | None:
    """Training loss and its terms, and the validation loss, by epoch; None without a line."""
    terms = dict.fromkeys(term for row in history for term in row.get("terms") or {})
    curves = {"training loss": _curve(history, "train", lambda row: row.get("loss"))}
    curves["validation loss"] = _curve(history, "validation", lambda row: row.get("loss"))
    for term in terms if len(terms) > 1 else ():  # a single term is the loss itself
        curves[term] = _curve(history, "train", lambda row, term=term: row["terms"].get(term))
    curves = {term: curve for term, curve in curves.items() if curve}
    if not curves:
        return None

    def draw(axes: Axes) -> None:
        for index, (term, curve) in enumerate(curves.items()):
            total = term.endswith(" loss")
            axes.plot(
                *zip(*curve, strict=True),
                color=INK if total else colour(index),
                linestyle=DASHES[term.startswith("validation")] if total else DASHES[index % 4],
                linewidth=2 if total else 1.5,
                marker="o" if len(curve) == 1 else None,
                label=term,
            )
        _log_where_wide(axes, [value for curve in curves.values() for _, value in curve])
        legend(axes, list(curves))

    return panel(draw, name, "Loss by term over the epochs", "epoch", "loss")


def accuracy_figure(
    history: Sequence[dict[str, Any]], kept_epoch: int | None, name: str
) -> str | None:
    """Validation balanced accuracy in per cent by epoch, the kept epoch marked; None without.

    Args:
        history: lines of history.jsonl, whose epochs count from 0.
        kept_epoch: the epoch whose weights were kept, counted from 1 as people do, or None.
        name: of the drawing, unique on the page.
    """
    curve = _curve(history, "validation", lambda row: row.get("balanced_accuracy"))
    if not curve:
        return None

    def draw(axes: Axes) -> None:
        epochs, values = zip(*curve, strict=True)
        axes.plot(epochs, [100 * value for value in values], color=colour(0),
                  marker="o" if len(curve) == 1 else None)  # fmt: skip
        kept = dict(curve).get(kept_epoch)
        if kept is not None:
            axes.axvline(kept_epoch, color=MUTED, linewidth=0.9, linestyle=DASHES[1])
            axes.plot(kept_epoch, 100 * kept, "o", color=colour(1), markersize=7,
                      markeredgecolor=SURFACE, label=f"kept: epoch {kept_epoch}")  # fmt: skip
            legend(axes, [f"kept: epoch {kept_epoch}"])

    return panel(draw, name, "Validation balanced accuracy", "epoch", "balanced accuracy, %")


def rate_figure(history: Sequence[dict[str, Any]], name: str) -> str | None:
    """Learning rate by epoch; None without one."""
    curve = _curve(history, "train", lambda row: row.get("lr"))
    if not curve:
        return None

    def draw(axes: Axes) -> None:
        axes.plot(*zip(*curve, strict=True), color=colour(2), drawstyle="steps-post",
                  marker="o" if len(curve) == 1 else None)  # fmt: skip
        _log_where_wide(axes, [value for _, value in curve])

    return panel(draw, name, "Learning rate over the epochs", "epoch", "learning rate")


def trade_off_figure(points: Sequence[dict[str, Any]]) -> str | None:
    """Test balanced accuracy against parameters; a line joins a student to its teacher.

    Args:
        points: one a run: index and tag of its family, parameters, balanced_accuracy in [0, 1],
            teacher (a position in `points`, or None).
    """
    drawn = [point for point in points if point["parameters"] and point["balanced_accuracy"]]
    named: set[str] = set()
    if len(drawn) < 2:
        return None

    def draw(axes: Axes) -> None:
        for point in drawn:
            x, y = point["parameters"] / 1e6, 100 * point["balanced_accuracy"]
            teacher = None if point["teacher"] is None else points[point["teacher"]]
            if teacher in drawn:
                axes.plot([x, teacher["parameters"] / 1e6],
                          [y, 100 * teacher["balanced_accuracy"]],
                          color=MUTED, linewidth=0.9, linestyle=DASHES[2])  # fmt: skip
            axes.plot(x, y, marker(point["index"]), color=colour(point["index"]), markersize=9,
                      markeredgecolor=SURFACE, zorder=3,
                      label=None if point["tag"] in named else point["tag"])  # fmt: skip
            named.add(point["tag"])
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if value in TICKS else "")
        axes.margins(0.12, 0.2)
        legend(axes, [*dict.fromkeys(point["tag"] for point in drawn)])

    label = "Test balanced accuracy against parameters"
    return panel(draw, "trade-off", label, "parameters, millions", "test balanced accuracy, %")


def class_figure(classes: Sequence[str], series: Sequence[dict[str, Any]]) -> str | None:
    """Test sensitivity of every class, one row a class, one sign a family; None without a class.

    Args:
        classes: row names, top first.
        series: one a family: index, tag, values (class name -> sensitivity in [0, 1] or None),
            intervals (class name -> its ends, where there are any).
    """
    if not classes:
        return None

    def draw(axes: Axes) -> None:
        step = min(DODGE_ROWS, DODGE_SPAN_ROWS / len(series))
        for place, one in enumerate(series):
            shift = step * (place - (len(series) - 1) / 2)
            points = [(100 * one["values"][name], row + shift) for row, name in enumerate(classes)
                      if one["values"].get(name) is not None]  # fmt: skip
            for row, name in enumerate(classes):
                if ends := one["intervals"].get(name):
                    axes.plot([100 * end for end in ends], [row + shift] * 2, linewidth=1.2,
                              color=colour(one["index"]), zorder=2)  # fmt: skip
            if points:
                axes.plot(*zip(*points, strict=True), marker(one["index"]), label=one["tag"],
                          color=colour(one["index"]), markersize=6.5,
                          markeredgecolor=SURFACE, zorder=3)  # fmt: skip
        axes.set_xlim(-3, 103)
        axes.set_ylim(len(classes) - 0.4, -0.6)
        axes.set_yticks(range(len(classes)), classes, color=INK)
        axes.grid(True, axis="y")
        legend(axes, [one["tag"] for one in series])

    inches = (PANEL_INCHES[0], HEAD_INCHES + ROW_INCHES * len(classes))
    return panel(
        draw, "classes", "Test sensitivity by class", "test sensitivity, %", "", inches, False
    )


def _curve(
    history: Sequence[dict[str, Any]], split: str, value: Callable[[dict[str, Any]], Any]
) -> list[tuple[int | float, float]]:
    """(passes made, mean over the epoch's lines), ascending, finite values alone."""
    groups: dict[float, list[float]] = defaultdict(list)
    for row in history:
        if row.get("split") != split or row.get("epoch") is None:
            continue
        number = value({"terms": {}, **row})
        if isinstance(number, int | float) and math.isfinite(number):
            groups[row["epoch"]].append(number)
    return [(epoch + 1, float(np.mean(groups[epoch]))) for epoch in sorted(groups)]


def _log_where_wide(axes: Axes, values: Sequence[int | float]) -> None:
    if min(values) > 0 and max(values) / min(values) > LOG_SPAN:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def legend(axes: Axes, names: Sequence[str]) -> None:
    """Above the plot, in as many columns as the longest name leaves room for."""
    columns = LEGEND_CHARACTERS // (max(map(len, names)) + LEGEND_SIGN_CHARACTERS)
    made = axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderpad=0,
                         handlelength=2.2, columnspacing=1.4,
                         ncols=max(1, min(columns, len(names))))  # fmt: skip
    for text in made.get_texts():
        if len(text.get_text()) > LEGEND_CHARACTERS - LEGEND_SIGN_CHARACTERS:
            text.set_text(text.get_text()[: LEGEND_CHARACTERS - LEGEND_SIGN_CHARACTERS - 1] + "…")


def panel(
    draw: Callable[[Axes], None], name: str, label: str, x: str, y: str,
    inches: tuple[float, float] = PANEL_INCHES, whole_epochs: bool = True,
) -> str:  # fmt: skip
    """One drawing as inline SVG.

    Args:
        draw: puts it on the axes.
        name: of the drawing, unique on the page.
        label: what a reader who cannot see it is told.
        x, y: names of the axes.
        inches: its size.
        whole_epochs: ticks at whole numbers alone.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=inches, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if whole_epochs and axes.get_xscale() == "linear":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _inline(stream.getvalue(), name, label)


def _inline(svg: bytes, prefix: str, label: str) -> str:
    """Matplotlib's document as an element of a page: no namespaces, no ids that clash."""
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name, value in list(element.attrib.items()):
            del element.attrib[name]
            for placeholder, variable in PLACEHOLDERS.items():
                value = value.replace(placeholder, variable)
            value = value.replace("url(#", f"url(#{prefix}-")
            short = name.rpartition("}")[2]
            if short == "href":
                value = value.replace("#", f"#{prefix}-", 1)
            element.set(short, f"{prefix}-{value}" if short == "id" else value)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("metadata", "style"):
                parent.remove(child)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode")

"""Pictures of a robustness test: curves by severity, and what the networks were shown."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dermdistill.data.dataset import Part
from dermdistill.evaluate.robustness.corruptions import SEVERITIES, corrupt
from dermdistill.evaluate.robustness.summary import CLEAN
from dermdistill.run import RESEARCH_NOTICE, atomic_write

COLUMNS = 4
PANEL_INCHES, SHEET_INCHES, DPI = (2.5, 1.9), 1.15, 110
COLOURS = ("#0072b2", "#d55e00")  # Okabe and Ito's blue and vermilion
MARKERS = "os"


def corruption_figure(path: str | os.PathLike, rows: Sequence[dict[str, Any]], title: str) -> None:
    """Write a PNG: balanced accuracy by severity, a panel a corruption, a line and its interval's
    band a network.
    """
    networks = list(dict.fromkeys(row["network"] for row in rows))
    names = list(dict.fromkeys(row["corruption"] for row in rows if row["corruption"] != CLEAN))
    lines = -(-len(names) // COLUMNS)
    figure = Figure((PANEL_INCHES[0] * COLUMNS, PANEL_INCHES[1] * lines + 0.8),
                    layout="constrained")  # fmt: skip
    panels = figure.subplots(lines, COLUMNS, sharex=True, sharey=True, squeeze=False)
    for panel, name in zip(panels.flat, names, strict=False):
        for index, network in enumerate(networks):
            shown = [row for row in rows if row["network"] == network
                     and row["corruption"] in (CLEAN, name)]  # fmt: skip
            values, low, high = (np.array([row[key] for row in shown], float)
                                 for key in ("balanced_accuracy", "low", "high"))  # fmt: skip
            panel.fill_between((0, *SEVERITIES), low, high, color=COLOURS[index], alpha=0.15,
                               linewidth=0)  # fmt: skip
            panel.plot((0, *SEVERITIES), values, color=COLOURS[index], marker=MARKERS[index],
                       markersize=3.5, label=network)  # fmt: skip
        panel.set_title(name.replace("_", " "), fontsize=9)
        panel.set_xticks((0, *SEVERITIES))
        panel.tick_params(labelsize=8, length=0)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in list(panels.flat)[len(names) :]:
        panel.set_visible(False)
    for panel in list(panels.flat)[max(0, len(names) - COLUMNS) : len(names)]:
        panel.tick_params(labelbottom=True)  # the lowest of each column, also above a gap
    panels[0, 0].legend(frameon=False, fontsize=8)
    panels[0, 0].set_ylim(0, None)
    figure.supxlabel("severity (0 is clean); bands are intervals drawn by lesion", fontsize=9)
    figure.supylabel("balanced accuracy", fontsize=9)
    figure.suptitle(f"{title}: corrupted test images", fontsize=10)
    _save(figure, path)


def contact_sheet(
    path: str | os.PathLike, part: Part, corruptions: Sequence[str], seed: int
) -> None:
    """Write a PNG: one image clean and under every corruption at every severity."""
    pixels, ids = part.pixels(np.arange(1)), part.ids[:1]
    rows = []
    for name in corruptions:
        seen = [corrupt(pixels, ids, name, severity, seed)[0] for severity in SEVERITIES]
        rows.append(np.concatenate([pixels[0], *seen], axis=1))
    side, columns = pixels.shape[1], (CLEAN, *SEVERITIES)
    width, height = SHEET_INCHES * len(columns) + 1, SHEET_INCHES * len(rows) + 0.5
    figure = Figure((width, height))
    panel = figure.add_axes((1 / width, 0, 1 - 1 / width, 1 - 0.5 / height))
    panel.imshow(np.concatenate(rows))
    panel.set_xticks((np.arange(len(columns)) + 0.5) * side, labels=[str(c) for c in columns])
    panel.set_yticks((np.arange(len(rows)) + 0.5) * side,
                     labels=[name.replace("_", "\n") for name in corruptions])  # fmt: skip
    panel.tick_params(length=0, labelsize=8, top=True, labeltop=True, labelbottom=False)
    panel.spines[:].set_visible(False)
    _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike) -> None:
    figure.text(0.5, -0.02, RESEARCH_NOTICE, ha="center", va="top", fontsize=7)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, bbox_inches="tight")

"""Pictures of maps: the image, its lesion's outline, and where each network saw its answer."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dermdistill.run import RESEARCH_NOTICE, atomic_write

PANEL_INCHES = 1.7
CAPTION_INCHES = 0.75
DPI = 110
# Blue to red through white would hide in skin; this one runs from dark to yellow and prints well.
COLOURS, OPACITY = "inferno", 0.65
OUTLINE = "#35f0d0"


@dataclass(frozen=True, eq=False)
class Picture:
    """One image of a gallery.

    Args:
        name: its id.
        truth: its class, or None where it is unknown.
        predicted: the class that the run predicted, which the maps are of.
        confidence: that class's probability, 0 to 1.
        pixels: uint8 [rows, cols, 3].
        maps: who -> evidence [rows, cols].
        mask: the lesion, or None.
    """

    name: str
    truth: str | None
    predicted: str
    confidence: float
    pixels: np.ndarray
    maps: dict[str, np.ndarray]
    mask: np.ndarray | None


def gallery(path: str | os.PathLike, pictures: Sequence[Picture], title: str) -> None:
    """Write a PNG: a row for the images and one for each network's maps.

    A map is drawn over the image in grey, from no evidence (dark) to its own strongest place
    (bright); where it speaks against the class it is as dark as where it says nothing.
    """
    who = list(pictures[0].maps)
    size = (PANEL_INCHES * len(pictures), PANEL_INCHES * (1 + len(who)) + 2 * CAPTION_INCHES)
    figure = Figure(size, layout="constrained")
    panels = figure.subplots(1 + len(who), len(pictures), squeeze=False)
    for column, picture in enumerate(pictures):
        top = panels[0, column]
        top.imshow(picture.pixels)
        truth = picture.truth or "unknown"
        top.set_title(f"{picture.name}\ntrue {truth}, said {picture.predicted} "
                      f"{picture.confidence:.0%}", fontsize=7)  # fmt: skip
        _outline(top, picture)
        for row, name in enumerate(who, start=1):
            _overlay(panels[row, column], picture, picture.maps[name])
    for row, name in enumerate(["image", *who]):
        panels[row, 0].set_ylabel(name, fontsize=8)
    for panel in panels.flat:
        panel.set(xticks=[], yticks=[])
    figure.suptitle(f"{title}: where the evidence for the predicted class lies", fontsize=9)
    figure.supxlabel(RESEARCH_NOTICE, fontsize=7)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def _overlay(panel: Axes, picture: Picture, evidence: np.ndarray) -> None:
    grey = picture.pixels.mean(axis=2)
    panel.imshow(grey, cmap="gray", vmin=0, vmax=255)
    strongest = max(float(evidence.max()), 1e-12)
    panel.imshow(np.clip(evidence, 0, None), cmap=COLOURS, alpha=OPACITY, vmin=0, vmax=strongest)
    _outline(panel, picture)


def _outline(panel: Axes, picture: Picture) -> None:
    if picture.mask is not None and 0 < picture.mask.mean() < 1:
        panel.contour(picture.mask, levels=[0.5], colors=OUTLINE, linewidths=0.8)

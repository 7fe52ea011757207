"""Layers that are painted over a photograph: hairs, ticks, bubbles, light.

Places are in half heights of the picture, so one drawing fits every size.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

LAYER_SCALE = 3  # hairs and ticks are drawn this much larger, then reduced: thin and smooth


def lay(picture: np.ndarray, cover: np.ndarray, colour) -> None:
    """Cover the picture in place with a colour, by a share 0 to 1 at each pixel."""
    picture += cover[..., None] * (np.asarray(colour, np.float32) - picture)


def grid(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """x and y of each pixel in half heights, 0 in the middle."""
    width, height = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return (x - (width - 1) / 2) * (2 / height), (y - (height - 1) / 2) * (2 / height)


def drawn(size: tuple[int, int], draw: Callable[[ImageDraw.ImageDraw, float], None]) -> np.ndarray:
    """What `draw` paints in half heights from the upper left corner, 0 to 1."""
    sheet = Image.new("L", (size[0] * LAYER_SCALE, size[1] * LAYER_SCALE))
    draw(ImageDraw.Draw(sheet), sheet.height / 2)
    return np.asarray(sheet.reduce(LAYER_SCALE), np.float32) / 255

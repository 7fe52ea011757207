"""Outlines of lesions, cropped and scaled exactly as the images they belong to."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from dermdistill.data.decode import decode
from dermdistill.errors import DataError

SUFFIXES = ("_segmentation.png", "_mask.png", ".png")  # after the image's id; ISIC's own first
INSIDE = 128  # masks are black and white; resampling leaves grey on the outline


def read_masks(
    folder: str | os.PathLike, ids: Sequence[str], px: int, crop: str
) -> tuple[Bool[np.ndarray, "images px px"], Bool[np.ndarray, " images"]]:
    """The lesion masks of images, and which images have one.

    Args:
        folder: one picture an image, white inside the lesion, `ID_segmentation.png`,
            `ID_mask.png` or `ID.png`. It must show what its image shows; its size may differ.
        ids: the images' ids.
        px: side of the decoded images.
        crop: how they were cropped (see `decode`).

    Returns:
        True inside the lesion, all False where there is no mask; and whether there is one.

    Raises:
        DataError: no folder, no mask of any of the images, or a mask that cannot be decoded.
    """
    folder = Path(folder)
    files = [_file(folder, name) for name in ids]
    present = np.array([file is not None for file in files], bool)
    if not present.any():
        raise DataError(f"{folder} has no mask of any of {len(ids)} images; the first would be "
                        f"{folder / (ids[0] + SUFFIXES[0])}")  # fmt: skip
    masks = np.zeros((len(files), px, px), bool)
    for row in np.flatnonzero(present):
        masks[row] = decode(files[row], px, crop)[..., 0] >= INSIDE
    return masks, present


def _file(folder: Path, name: str) -> Path | None:
    for suffix in SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    return None

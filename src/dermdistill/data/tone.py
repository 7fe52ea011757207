"""Apparent skin tone of a photograph: the typology angle of the skin around the lesion.

It is a figure of the photograph, not of the person: no dermatoscope in these data sets was colour
calibrated, so lamp, polarisation, white balance, pressure and flushed skin all move it. Use it to
ask whether a model serves pale and dark pictures alike, never to describe somebody.
"""

import os
import warnings

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from kornia.color import rgb_to_lab
from scipy.ndimage import binary_dilation

from dermdistill.data.decode import BrokenImageError, decode
from dermdistill.data.masks import read_masks
from dermdistill.data.table import Table
from dermdistill.display import Display
from dermdistill.errors import DataError
from dermdistill.run import write_csv

PX = 96  # enough for a median colour
MARGIN_RATIO = 0.05  # around the outline, which a lesion's colour passes a little
RIM_RATIO = 0.08  # of the image's side: where skin is looked for without a mask
LEAST_SKIN = 0.02  # of the image; below, there is nothing to measure
# Black is the dermatoscope's edge or hair, white is glare or paper: neither is skin.
DARKEST, BRIGHTEST = 40, 250
WHITE_L, MIDDLE_L = 100.0, 50.0
# Lower bounds in degrees, of Del Bino and Bernerd, British Journal of Dermatology 169(s3), 2013.
TONES = {"very light": 55, "light": 41, "intermediate": 28, "tan": 10, "brown": -30,
         "dark": -np.inf}  # fmt: skip
COLUMNS = ("image", "ita_deg", "tone", "skin_from", "skin_ratio")


def typology_angle(
    pixels: UInt8[np.ndarray, "rows cols 3"], skin: Bool[np.ndarray, "rows cols"]
) -> float:
    """Individual typology angle of the median colour of some pixels, -90 to 90 degrees.

    Light skin is near 60, dark skin below -30. NaN without a pixel, and where the colour is bluer
    than grey: no skin is, so it is the lamp's or the camera's colour and the angle means nothing.

    Source: arctan((L* - 50) / b*) in degrees, Chardon et al., International Journal of Cosmetic
    Science 13, 1991; CIE Lab of sRGB under D65. The median leaves hairs and vessels out.
    """
    chosen = torch.from_numpy(pixels[skin]).float().div(255)
    if not len(chosen):
        return float("nan")
    lab = rgb_to_lab(chosen.T[None, :, :, None])[0, :, :, 0].median(dim=1).values.double()
    if lab[2] <= 0:
        return float("nan")
    return float(torch.rad2deg(torch.atan2(lab[0] - MIDDLE_L, lab[2])))


def skin_around(
    pixels: UInt8[np.ndarray, "rows cols 3"], lesion: Bool[np.ndarray, "rows cols"] | None
) -> Bool[np.ndarray, "rows cols"]:
    """Where an image shows skin: beside the lesion, neither black nor glaring.

    Args:
        pixels: the image.
        lesion: its outline; None looks at the image's rim, which some lesions reach.
    """
    rows, cols = pixels.shape[:2]
    if lesion is None:
        rim = round(RIM_RATIO * min(rows, cols))
        beside = np.ones((rows, cols), bool)
        beside[rim:-rim, rim:-rim] = False
    else:
        beside = ~binary_dilation(lesion, iterations=max(1, round(MARGIN_RATIO * min(rows, cols))))
    bright = pixels.max(axis=2)
    return beside & (bright >= DARKEST) & (pixels.min(axis=2) < BRIGHTEST)


def tone_of(angle: float) -> str | None:
    """The usual name of an angle's range; None of NaN."""
    if np.isnan(angle):
        return None
    return next(name for name, low in TONES.items() if angle > low)


def write_tones(
    table: Table, path: str | os.PathLike, masks: str | os.PathLike | None, progress: bool = True
) -> dict[str, int]:
    """Measure every image of a table and write a CSV with `COLUMNS`; returns images by tone.

    `skin_from` is "mask" or "rim"; the angle is empty where an image cannot be read, shows too
    little skin or is bluer than any skin.

    Raises:
        DataError: no image can be measured, or the folder of masks has none of any image.
    """
    names, files = table.frame["id"].tolist(), table.frame["path"].tolist()
    lesions: list[np.ndarray | None] = [None] * len(names)
    if masks is not None:
        # "squash" keeps the whole image: skin lies at its ends.
        outlines, present = read_masks(masks, names, PX, "squash")
        lesions = [outline if there else None
                   for outline, there in zip(outlines, present, strict=True)]  # fmt: skip
    display = Display("tone", len(names), 0, progress)
    rows, known = [], 0
    for each in zip(names, files, lesions, strict=True):
        rows.append(_measured(*each))
        known += rows[-1][2] is not None
        display.step({"measured": known / len(rows)})
    display.close()
    if not any(row[2] for row in rows):
        raise DataError(f"none of {len(rows)} images could be measured; see `dermdistill data "
                        "audit` for broken ones")  # fmt: skip
    write_csv(path, COLUMNS, rows)
    return {name: sum(row[2] == name for row in rows) for name in (*TONES, None)}


def _measured(name: str, file: str, lesion: np.ndarray | None) -> tuple:
    """One row of `COLUMNS`."""
    try:
        pixels = decode(file, PX, "squash")
    except BrokenImageError as error:
        warnings.warn(str(error), stacklevel=3)
        return name, None, None, None, None
    skin = skin_around(pixels, lesion)
    share = float(skin.mean())
    angle = typology_angle(pixels, skin) if share >= LEAST_SKIN else float("nan")
    return name, angle, tone_of(angle), "rim" if lesion is None else "mask", share

"""Images that show no lesion: noise, skin beside lesions, and whatever pictures a folder holds."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy.ndimage import gaussian_filter

from dermdistill.data.decode import RESAMPLING, BrokenImageError, decode
from dermdistill.errors import DataError

GRAINS = (0.0, 0.01, 0.04, 0.15)  # deviation of the noise's smoothing, as a share of the side
CORNER_RATIO = 0.3  # side of a patch of skin, as a share of the image's


def noise_images(px: int, count: int, seed: int) -> UInt8[np.ndarray, "images px px 3"]:
    """Coloured noise, from pixel grain to broad clouds, each over the whole range of values."""
    rng = np.random.default_rng(seed)
    images = np.empty((count, px, px, 3), np.uint8)
    for index in range(count):
        sigma = GRAINS[index % len(GRAINS)] * px
        field = gaussian_filter(rng.normal(size=(px, px, 3)), (sigma, sigma, 0))
        low, high = field.min(), field.max()
        images[index] = 255 * (field - low) / (high - low)
    return images


def skin_patches(
    pixels: UInt8[np.ndarray, "images px px 3"],
    masks: Bool[np.ndarray, "images px px"] | None,
) -> UInt8[np.ndarray, "patches px px 3"]:
    """A corner of each image, enlarged: skin without a lesion.

    Args:
        pixels: photographs of lesions.
        masks: where their lesions are; then an image whose corners all hold some of it gives no
            patch, and else the first that holds none is taken. Without masks it is the first
            corner, and some patches will hold a lesion's edge.
    """
    px = pixels.shape[1]
    side = round(CORNER_RATIO * px)
    starts = [(top, left) for top in (0, px - side) for left in (0, px - side)]
    patches = []
    for row, image in enumerate(pixels):
        for top, left in starts:
            corner = np.s_[top : top + side, left : left + side]
            if masks is None or not masks[row][corner].any():
                patch = Image.fromarray(image[corner]).resize((px, px), RESAMPLING)
                patches.append(np.asarray(patch))
                break
    return np.stack(patches) if patches else np.empty((0, px, px, 3), np.uint8)


def read_kinds(
    folder: str | os.PathLike, px: int, crop: str
) -> dict[str, UInt8[np.ndarray, "images px px 3"]]:
    """The pictures of every subfolder, which names their kind; files that are none are passed over.

    Raises:
        DataError: no subfolder holds a picture.
    """
    kinds = {}
    for place in sorted(path for path in Path(folder).glob("*") if path.is_dir()):
        images = []
        for file in sorted(place.iterdir()):
            try:
                images.append(decode(file, px, crop))
            except BrokenImageError:
                continue
        if images:
            kinds[place.name] = np.stack(images)
    if not kinds:
        raise DataError(f"{folder} has no subfolder with pictures; make one for each kind of "
                        "stranger, such as photographs/")  # fmt: skip
    return kinds

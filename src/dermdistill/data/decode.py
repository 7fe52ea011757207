"""One file to one square of pixels: the preprocessing that packing, predictor and app share."""

import os
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from dermdistill.errors import ConfigError, DataError, unknown_name

CROPS = ("centre", "squash", "pad")
MAX_PX = 4096  # a store's side; larger is a typing error, not a network's input
# More pixels than any dermatoscope gives, fewer than a decompression bomb: 80 MP are 240 MB.
MAX_IMAGE_PIXELS = 80_000_000
# What cameras and archives write. Others stay shut: Pillow's EPS reader, for one, starts a program.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000")
# A triangle filter widened by the scale: it antialiases, and unlike the bicubic one it never
# overshoots, so hairs and specular highlights get no halos. It is also what a phone can repeat.
RESAMPLING = Image.Resampling.BILINEAR
SIXTEEN_BIT_STEP = 257  # 65535 / 255: full 16-bit white becomes full 8-bit white
BACKGROUND = "white"  # what shows through transparency, as in every viewer and browser

ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenImageError(DataError):
    """An image that cannot be decoded; `reason` says why without naming the file."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"cannot decode {name}: it {reason}. Replace the file or leave it out")
        self.name = name
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.name, self.reason)


def check_size(px: int, crop: str) -> None:
    """Refuse a side or a crop that `decode` does not know, before any file is read.

    Raises:
        ConfigError: `px` is outside 1..4096, or `crop` is none of `CROPS`.
    """
    if crop not in CROPS:
        raise unknown_name("crop", crop, CROPS)
    if not 1 <= px <= MAX_PX:
        raise ConfigError(f"px is {px}; allowed are 1 to {MAX_PX}; 224 is the usual choice")


def decode(
    source: str | os.PathLike | bytes | BinaryIO, px: int, crop: str, reduced: bool = True
) -> np.ndarray:
    """Decode one image to a square of RGB pixels, 0 to 255.

    If `reduced`, a JPEG is decoded at the smallest of its scales 1, 1/2, 1/4 and 1/8 that is no
    smaller than the result, which saves most of the time; no browser can repeat that. EXIF (or XMP)
    orientation is applied. Transparent pixels lie on white. 16-bit grey is divided by 257. Of
    several frames the first counts. Colour profiles are ignored, as in the training data of the
    field.

    Args:
        source: a path, a file's bytes, or an open binary file.
        px: side of the result in pixels, 1 to 4096.
        crop: "centre" keeps the largest centred square, "squash" stretches the whole image to a
            square, "pad" keeps the whole image and its proportions between black borders.
        reduced: decode large JPEGs at a smaller scale, for training; a bundle does not.

    Returns:
        uint8 array of shape [px, px, 3].

    Raises:
        BrokenImageError: missing, empty, truncated, no image, or too many pixels.
        ConfigError: `px` or `crop` is not allowed.
    """
    check_size(px, crop)
    name = _name(source)
    file = BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
            if reduced:
                image.draft("RGB", _wanted(image.size, px, crop))
            image.load()
            return np.asarray(_square(_rgb(_upright(image)), px, crop))
    except Exception as error:  # readers of hostile files raise anything, struct.error included
        raise BrokenImageError(name, _reason(error, source)) from error


def _name(source) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "name", "the image"))


def _reason(error: Exception, source) -> str:
    """Why an image could not be decoded, as the end of a sentence that begins with "it"."""
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"has more than {MAX_IMAGE_PIXELS:,} pixels, which would fill the memory"
    if isinstance(error, UnidentifiedImageError):
        return "is empty" if _empty(source) else f"is no image that is known ({', '.join(FORMATS)})"
    if "truncated" in str(error).lower():
        return f"is truncated ({error})"
    return f"is broken ({type(error).__name__}: {error})"


def _empty(source) -> bool:
    if isinstance(source, bytes):
        return not source
    return isinstance(source, str | os.PathLike) and Path(source).stat().st_size == 0


def _wanted(size: tuple[int, int], px: int, crop: str) -> tuple[int, int]:
    """The size below which a JPEG must not be decoded, in the file's own orientation."""
    return _fitted(size, px) if crop == "pad" else (px, px)


def _fitted(size: tuple[int, int], px: int) -> tuple[int, int]:
    """`size` scaled so that its longer side is `px`; the shorter one is at least 1."""
    longest = max(size)
    return max(1, round(size[0] * px / longest)), max(1, round(size[1] * px / longest))


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image as its EXIF says; an unreadable EXIF block counts as upright."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata raise anything, and the pixels are whole
        return image
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 bits")
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image), 0, 65535).astype(np.float32) / SIXTEEN_BIT_STEP
        return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layers = image.convert("RGBA")
        paper = Image.new("RGBA", layers.size, BACKGROUND)
        return Image.alpha_composite(paper, layers).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _square(image: Image.Image, px: int, crop: str) -> Image.Image:
    """Crop and scale an upright RGB image to [px, px]."""
    if crop == "squash":
        return image.resize((px, px), RESAMPLING)
    if crop == "pad":
        inner = image.resize(_fitted(image.size, px), RESAMPLING)
        square = Image.new("RGB", (px, px))
        square.paste(inner, ((px - inner.width) // 2, (px - inner.height) // 2))
        return square
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize((px, px), RESAMPLING, box=(left, top, left + side, top + side))

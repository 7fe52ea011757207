"""What light, lens and file do to a picture. Functions as in `objects`."""

from io import BytesIO

import numpy as np
from PIL import Image
from scipy.ndimage import convolve

from dermdistill.data.drawing import grid
from dermdistill.evaluate.robustness.objects import Picture

VIGNETTE_RADIUS = (1.20, 1.08, 0.96, 0.85, 0.74)  # of the field of view, in half heights
VIGNETTE_EDGE = 0.06
LIGHT_TILT = (0.12, 0.20, 0.29, 0.38, 0.48)  # change of brightness from middle to edge
GLARE = (0.10, 0.20, 0.32, 0.46, 0.62)
CAST = (0.06, 0.11, 0.17, 0.24, 0.32)  # change of a channel's brightness
CASTS = np.array([[1, 0.2, -1], [-0.8, 0, 1], [0.5, -0.35, 0.25], [-0.4, 0.4, -0.2]])
BLUR_RADIUS = (0.012, 0.020, 0.031, 0.046, 0.065)  # of the disc, in half heights
JPEG_QUALITY = (35, 22, 15, 10, 7)
RESOLUTION = (0.5, 0.36, 0.26, 0.19, 0.13)  # share of the pixels along a side that is left
MOIRE = (0.04, 0.07, 0.10, 0.14, 0.19)
MOIRE_HUE = 0.8  # shift of the bands from red to green to blue, in radians
DISC_SAMPLES = 8  # along a pixel's side, for a kernel of exact area
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def vignette(rng: np.random.Generator, picture: Picture, severity: int) -> Picture:
    """The dermatoscope's round edge: dimmer towards it, black outside."""
    x, y = grid((picture.shape[1], picture.shape[0]))
    middle = rng.normal(0, 0.05, 2)
    radius = VIGNETTE_RADIUS[severity - 1]
    distance = np.hypot(x - middle[0], y - middle[1])
    inside = 1 / (1 + np.exp(np.clip((distance - radius) / VIGNETTE_EDGE * 2, -30, 30)))
    dim = 1 - 0.25 * np.clip(distance / radius, 0, 1) ** 4
    return picture * (inside * dim)[..., None]


def uneven_light(rng: np.random.Generator, picture: Picture, severity: int) -> Picture:
    """Light from one side, and its glare on the glass."""
    x, y = grid((picture.shape[1], picture.shape[0]))
    angle, spread = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.45)
    reach, oval = rng.uniform(0.5, 0.9), rng.uniform(0.6, 1.6)
    along, across = (x * np.cos(angle) + y * np.sin(angle),
                     -x * np.sin(angle) + y * np.cos(angle))  # fmt: skip
    tilt = np.clip(1 + LIGHT_TILT[severity - 1] * (along - 0.4), 0.05, None)
    glare = GLARE[severity - 1] * np.exp(-((along - reach) ** 2 + (across * oval) ** 2) / spread**2)
    picture = picture * tilt[..., None]
    return picture + glare[..., None] * (1 - picture).clip(0)


def colour_cast(rng: np.random.Generator, picture: Picture, severity: int) -> Picture:
    """Another white balance: yellow, blue, pink or green, as bright as before."""
    direction = CASTS[rng.integers(len(CASTS))] + rng.normal(0, 0.1, 3)
    gain = 1 + CAST[severity - 1] * direction
    before, after = picture @ LUMA, (picture * gain) @ LUMA
    return picture * gain * (before.mean() / max(after.mean(), 1e-6))


def blur(rng: np.random.Generator, picture: Picture, severity: int) -> Picture:
    """Out of focus: every point becomes a disc."""
    kernel = _disc(BLUR_RADIUS[severity - 1] * picture.shape[0] / 2 * rng.uniform(0.9, 1.1))
    return np.stack([convolve(picture[..., c], kernel, mode="nearest") for c in range(3)], -1)


def _disc(radius_px: float) -> np.ndarray:
    """A disc's share of each pixel, sum 1."""
    reach = int(np.ceil(radius_px + 0.5))
    places = (np.arange((2 * reach + 1) * DISC_SAMPLES) + 0.5) / DISC_SAMPLES - reach - 0.5
    inside = np.hypot(places, places[:, None]) <= radius_px
    side = 2 * reach + 1
    kernel = inside.reshape(side, DISC_SAMPLES, side, DISC_SAMPLES).mean((1, 3))
    return (kernel / kernel.sum()).astype(np.float32)


def jpeg(rng: np.random.Generator, picture: Picture, severity: int) -> Picture:
    """Saved as a small JPEG."""
    stream = BytesIO()
    _image(picture).save(stream, format="JPEG", quality=JPEG_QUALITY[severity - 1])
    return _picture(Image.open(stream))


def low_resolution(rng: np.random.Generator, picture: Picture, severity: int) -> Picture:
    """Taken with fewer pixels, then enlarged."""
    image = _image(picture)
    small = tuple(max(1, round(side * RESOLUTION[severity - 1])) for side in image.size)
    reduced = image.resize(small, Image.Resampling.BOX)
    return _picture(reduced.resize(image.size, Image.Resampling.BICUBIC))


def moire(rng: np.random.Generator, picture: Picture, severity: int) -> Picture:
    """A photograph of a screen: its pixels beat with the camera's in bent, coloured bands."""
    x, y = grid((picture.shape[1], picture.shape[0]))
    strength, bands = MOIRE[severity - 1], np.zeros_like(picture)
    for _ in range(2):
        angle, waves = rng.uniform(0, np.pi), rng.uniform(6, 11)
        bend, phase = rng.normal(0, 0.9, 3), rng.uniform(0, 2 * np.pi)
        along = x * np.cos(angle) + y * np.sin(angle)
        path = waves * along + bend[0] * x**2 + bend[1] * y**2 + bend[2] * x * y
        for channel in range(3):  # a screen's red, green and blue dots lie side by side
            bands[..., channel] += np.sin(np.pi * path + phase + channel * MOIRE_HUE)
    return picture * (1 + strength * bands)


def _image(picture: Picture) -> Image.Image:
    return Image.fromarray(np.rint(picture.clip(0, 1) * 255).astype(np.uint8))


def _picture(image: Image.Image) -> Picture:
    return np.asarray(image, np.float32) / 255

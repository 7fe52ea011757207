"""One photograph of a synthetic lesion: position, light, hairs, gel, ruler and lens."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dermdistill.data.drawing import drawn, grid, lay
from dermdistill.data.phantom_lesion import SPAN

HAIR_CHANCE, RULER_CHANCE, BUBBLE_CHANCE, TUBE_CHANCE = 0.35, 0.15, 0.15, 0.20
SENSOR_NOISE = 0.008


def photograph(rng: np.random.Generator, skin: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An RGB photograph of a lesion through a dermatoscope.

    Args:
        rng: the view's own generator.
        skin: the lesion and the skin around it, as `lesion` gives them.
        size: width and height in pixels.
    """
    picture = _placed(rng, skin, size)
    picture *= _light(rng, size)
    if rng.random() < HAIR_CHANCE:
        colour = rng.choice([0.10, 0.16, 0.75], p=[0.5, 0.35, 0.15])  # black, brown, white
        lay(picture, _hairs(rng, size), np.array([1.15, 0.95, 0.8]) * colour)
    if rng.random() < BUBBLE_CHANCE:
        lay(picture, 0.6 * _bubbles(rng, size), (0.97, 0.96, 0.96))
    if rng.random() < TUBE_CHANCE:
        picture *= _tube(rng, size)[..., None]
    if rng.random() < RULER_CHANCE:
        lay(picture, _ruler(rng, size), (0.08, 0.08, 0.09))
    picture += rng.normal(0, SENSOR_NOISE, picture.shape).astype(np.float32)
    image = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.0045) * size[1]))


def _placed(rng: np.random.Generator, skin: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """The skin turned, zoomed and shifted as the hand held the dermatoscope, 0 to 1.

    At these zooms and shifts `SPAN` covers the corners of a picture of 4:3 however it is turned.
    """
    width, height = size
    turn, zoom = rng.uniform(0, 2 * np.pi), rng.uniform(0.92, 1.25)
    shift = rng.uniform(-0.14, 0.14, 2)
    scale = skin.width / (SPAN * height * zoom)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    offset = (shift / SPAN + 1) * skin.width / 2 - matrix @ [width / 2, height / 2]
    data = np.column_stack([matrix, offset]).ravel().tolist()
    placed = skin.transform(size, Image.Transform.AFFINE, data, Image.Resampling.BICUBIC)
    return np.asarray(placed, np.float32) / 255


def _light(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Brightness and colour of the light, [height, width, 3]: uneven, and dimmer at the rim."""
    x, y = grid(size)
    tilt = rng.normal(0, 0.05, 2)
    dim = rng.uniform(0.0, 0.10)
    field = rng.uniform(0.88, 1.08) * (1 + tilt[0] * x + tilt[1] * y - dim * (x**2 + y**2))
    return (field[..., None] * (1 + rng.normal(0, [0.03, 0.03, 0.06]))).astype(np.float32)


def _hairs(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Bent hairs that lie roughly one way, some long, some shaved to stubble."""
    count = rng.integers(1, 15)
    heading, length = rng.uniform(0, np.pi), rng.choice([0.25, 0.9, 1.8])
    steps = np.linspace(-0.5, 0.5, 12)

    def draw(sheet: ImageDraw.ImageDraw, scale: float) -> None:
        for _ in range(count):
            middle = rng.uniform(0, 2, 2) * (size[0] / size[1], 1)
            along = heading + rng.normal(0, 0.35)
            reach, bend = length * rng.uniform(0.6, 1.3), rng.normal(0, 0.35)
            s, t = steps * reach, bend * reach * (steps**2 - 0.1)
            points = np.stack([middle[0] + s * np.cos(along) - t * np.sin(along),
                               middle[1] + s * np.sin(along) + t * np.cos(along)], 1)  # fmt: skip
            thick = max(1, round(rng.uniform(0.005, 0.015) * scale))
            sheet.line([tuple(point) for point in points * scale], fill=215, width=thick)

    return drawn(size, draw)


def _bubbles(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Rims and highlights of gel bubbles."""
    count = rng.integers(2, 10)

    def draw(sheet: ImageDraw.ImageDraw, scale: float) -> None:
        for _ in range(count):
            x, y = rng.uniform(0, 2, 2) * (size[0] / size[1], 1) * scale
            radius = rng.uniform(0.02, 0.10) * scale
            sheet.ellipse([x - radius, y - radius, x + radius, y + radius], outline=130)
            dot = [x - radius * 0.55, y - radius * 0.55, x - radius * 0.15, y - radius * 0.15]
            sheet.ellipse(dot, fill=230)

    return drawn(size, draw)


def _tube(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """The dermatoscope's round edge: 1 in the field of view, black outside."""
    x, y = grid(size)
    centre = rng.normal(0, 0.05, 2)
    radius, edge = rng.uniform(1.02, 1.5), rng.uniform(0.01, 0.06)
    return 1 / (1 + np.exp(np.clip((np.hypot(x - centre[0], y - centre[1]) - radius) / edge,
                                   -30, 30)))  # fmt: skip


def _ruler(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Ticks of a ruler along one side."""
    step, start = rng.uniform(0.10, 0.16), rng.uniform(0, 0.1)
    side, reach = rng.integers(4), rng.uniform(0.3, 1.0)
    wide, high = 2 * size[0] / size[1], 2.0

    def draw(sheet: ImageDraw.ImageDraw, scale: float) -> None:
        along = wide if side % 2 else high
        for tick in range(int(reach * along / step)):
            at, length = start + tick * step, 0.16 if tick % 5 == 0 else 0.09
            far = (high if side % 2 else wide) if side >= 2 else 0
            near = far + (-length if side >= 2 else length)
            ends = [(at, far), (at, near)] if side % 2 else [(far, at), (near, at)]
            sheet.line([(x * scale, y * scale) for x, y in ends], fill=220, width=2)

    return drawn(size, draw)

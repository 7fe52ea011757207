"""One synthetic lesion on its skin, as maps of what absorbs and scatters the light."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from dermdistill.data.phantom_looks import Look, Range

# The maps: optical densities of melanin and blood; shares of blue (deep pigment), white and scale.
MELANIN, BLOOD, BLUE, WHITE, SCALE = range(5)
SPAN = 2.1  # the maps reach this many half heights from the lesion, so that a turned view is filled
OUTLINE_ANGLES = 512
DARK_SKIN_CHANCE = 0.15  # of lesions on brown to black skin
DRAW_SCALE = 2  # blobs and vessels are drawn this much larger, then reduced: smooth edges


# Colours of bare dermis and of what covers it; absorption of red, green and blue by a density of 1.
DERMIS = np.array([0.95, 0.86, 0.82], np.float32)
MELANIN_ABSORPTION = np.array([0.52, 0.92, 1.30], np.float32)
BLOOD_ABSORPTION = np.array([0.16, 1.00, 0.80], np.float32)
COVERS = ((BLUE, (0.36, 0.40, 0.50)), (WHITE, (0.93, 0.86, 0.83)), (SCALE, (0.90, 0.84, 0.70)))
MOST_COVER = 0.75  # the most that blue, white or scale hide of what lies below


class Canvas:
    """The maps under construction with their coordinates.

    Attributes:
        rng: the lesion's own generator; every structure draws from it in turn.
        maps: float32 [5, side, side].
        x, y: coordinates in half heights, lesion at 0.
        depth: 0 in the lesion's middle, 1 on its outline, more outside.
        inside: 1 in the lesion, 0 outside, soft between.
        radius: the lesion's mean radius.
    """

    def __init__(self, rng: np.random.Generator, look: Look, side: int):
        self.rng, self.side = rng, side
        axis = np.linspace(-SPAN, SPAN, side, dtype=np.float32)
        self.x, self.y = np.meshgrid(axis, axis)
        self.maps = np.zeros((5, side, side), np.float32)
        self.radius = rng.uniform(*look.radius)
        self.turn, self.stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.35)
        asymmetry, irregularity = rng.uniform(*look.asymmetry), rng.uniform(*look.irregularity)
        self.asymmetry = asymmetry
        self.outline = self._outline(asymmetry, irregularity)
        along = self.x * math.cos(self.turn) + self.y * math.sin(self.turn)
        across = self.y * math.cos(self.turn) - self.x * math.sin(self.turn)
        angle = np.arctan2(across * self.stretch, along / self.stretch)
        distance = np.hypot(across * self.stretch, along / self.stretch)
        index = ((angle + np.pi) * (OUTLINE_ANGLES / (2 * np.pi))).astype(np.int32)
        self.depth = distance / self.outline[index % OUTLINE_ANGLES]
        self.depth += self.noise(14) * irregularity + self.noise(40) * irregularity / 2
        softness = rng.uniform(*look.softness)
        self.inside = 1 / (1 + np.exp(np.clip((self.depth - 1) / (softness / 2), -30, 30)))

    def _outline(self, asymmetry: float, irregularity: float) -> np.ndarray:
        """Radius at each angle: a circle with random waves, the finer the weaker."""
        angles = np.arange(OUTLINE_ANGLES) * (2 * np.pi / OUTLINE_ANGLES)
        radii = np.ones(OUTLINE_ANGLES)
        for waves in range(2, 12):
            amplitude = asymmetry if waves <= 3 else irregularity * 4 / waves
            phase = self.rng.uniform(0, 2 * np.pi)
            radii += self.rng.normal(0, 0.7) * amplitude * np.cos(waves * angles + phase)
        return (self.radius * np.clip(radii, 0.55, 1.6)).astype(np.float32)

    def noise(self, cells: int) -> np.ndarray:
        """A smooth field of mean 0 and deviation about 1, with so many bumps along a side."""
        small = self.rng.standard_normal((cells, cells), dtype=np.float32)
        weights = _enlarging(cells, self.side)
        return weights @ small @ weights.T

    def points(self, count: int, within: float = 0.95) -> np.ndarray:
        """[count, 2] positions inside the outline, evenly over its area."""
        index = self.rng.integers(0, OUTLINE_ANGLES, count)
        angle = index * (2 * np.pi / OUTLINE_ANGLES) - np.pi
        distance = self.outline[index] * within * np.sqrt(self.rng.uniform(0, 1, count))
        along = distance * np.cos(angle) * self.stretch
        across = distance * np.sin(angle) / self.stretch
        return np.stack([along * np.cos(self.turn) - across * np.sin(self.turn),
                         along * np.sin(self.turn) + across * np.cos(self.turn)], 1)  # fmt: skip

    def drawn(self, draw: Callable[[ImageDraw.ImageDraw, float], None], blur: float) -> np.ndarray:
        """What `draw` paints, 0 to 1, blurred by so many half heights."""
        sheet = Image.new("L", (self.side * DRAW_SCALE,) * 2)
        draw(ImageDraw.Draw(sheet), self.side * DRAW_SCALE / (2 * SPAN))
        sheet = np.asarray(sheet.reduce(DRAW_SCALE), np.float32) / 255
        return ndimage.gaussian_filter(sheet, blur * self.side / (2 * SPAN), truncate=3)

    def blobs(self, count: tuple[int, int], radius: Range, blur: float = 0.01,
              within: float = 0.95) -> np.ndarray:  # fmt: skip
        """Round spots scattered over the lesion, 0 to 1; ranges of their number and radius."""
        centres = self.points(int(self.rng.integers(*count)), within)
        radii = self.rng.uniform(*radius, centres.shape)

        def draw(sheet: ImageDraw.ImageDraw, scale: float) -> None:
            low, high = (centres - radii + SPAN) * scale, (centres + radii + SPAN) * scale
            for corner, opposite in zip(low, high, strict=True):
                sheet.ellipse([*corner, *opposite], fill=255)

        return self.drawn(draw, blur)

    def net(self, spacing: float, width: float) -> np.ndarray:
        """A honeycomb of lines, bent by noise, 0 to 1."""
        bend = 0.35 * spacing
        x, y = self.x + bend * self.noise(22), self.y + bend * self.noise(22)
        turn, waves = self.rng.uniform(0, math.pi), 2 * math.pi / spacing
        headings = (turn, turn + math.pi / 3, turn + 2 * math.pi / 3)
        crests = sum(np.cos(x * (waves * math.cos(heading)) + y * (waves * math.sin(heading)))
                     for heading in headings)  # fmt: skip
        return np.clip((width - crests) / 1.5, 0, 1)

    def patch(self, cells: int, level: float) -> np.ndarray:
        """Some smooth patches of the lesion, 0 to 1; a higher level leaves fewer."""
        return np.clip(self.noise(cells) + self.noise(36) / 4 - level, 0, 1) * self.inside


@lru_cache(maxsize=32)
def _enlarging(cells: int, side: int) -> np.ndarray:
    """[side, cells] weights of bicubic enlargement: two small products beat a general resize."""
    identity = Image.fromarray(np.eye(cells, dtype=np.float32))
    weights = np.asarray(identity.resize((cells, side), Image.Resampling.BICUBIC))
    return weights / math.sqrt(np.square(weights).sum(1).mean())


def network(canvas: Canvas, strength: float) -> None:
    lines = canvas.net(canvas.rng.uniform(0.075, 0.12), 0.0)
    canvas.maps[MELANIN] += strength * canvas.inside * (lines - 0.25) * (0.8 + canvas.noise(8) / 3)


def globules(canvas: Canvas, strength: float) -> None:
    spots = canvas.blobs((12, 40), (0.018, 0.04))
    canvas.maps[MELANIN] += strength * spots


def blotches(canvas: Canvas, strength: float) -> None:
    canvas.maps[MELANIN] += strength * canvas.patch(12, 0.3)


def veil(canvas: Canvas, strength: float) -> None:
    canvas.maps[BLUE] += strength * canvas.patch(9, 0.1) * (canvas.depth < 0.9)


def regression(canvas: Canvas, strength: float) -> None:
    canvas.maps[WHITE] += strength * canvas.patch(9, 0.4)


def scar(canvas: Canvas, strength: float) -> None:
    size = canvas.rng.uniform(0.35, 0.6)
    canvas.maps[WHITE] += strength * np.clip(1.6 * (1 - canvas.depth / size), 0, 1)


def scale(canvas: Canvas, strength: float) -> None:
    flakes = np.clip((canvas.noise(60) + canvas.noise(16)) / 2 - 0.3, 0, 1)
    canvas.maps[SCALE] += strength * flakes * canvas.inside


def keratin(canvas: Canvas, strength: float) -> None:
    size = canvas.rng.uniform(0.3, 0.6)
    plug = np.clip(1.3 * (1 - canvas.depth / size) + 0.3 * canvas.noise(24), 0, 1)
    plug *= np.clip(0.8 + canvas.noise(50) / 4, 0, 1)
    canvas.maps[SCALE] += strength * plug * (canvas.depth < 1)
    canvas.maps[BLOOD] += strength * 0.8 * canvas.blobs((0, 6), (0.02, 0.05))


def follicles(canvas: Canvas, strength: float) -> None:
    holes = canvas.blobs((20, 50), (0.02, 0.035))
    canvas.maps[WHITE] += 0.6 * strength * holes
    canvas.maps[BLOOD] += 0.35 * strength * canvas.inside * (canvas.noise(30) + 0.5).clip(0)


def milia(canvas: Canvas, strength: float) -> None:
    cysts = canvas.blobs((6, 22), (0.018, 0.045), within=0.85)
    canvas.maps[WHITE] += 0.75 * strength * cysts


def comedones(canvas: Canvas, strength: float) -> None:
    plugs = canvas.blobs((5, 18), (0.02, 0.06), within=0.85)
    canvas.maps[MELANIN] += 1.1 * strength * plugs


def ridges(canvas: Canvas, strength: float) -> None:
    folds = np.sin(4 * canvas.noise(20) + canvas.x * canvas.rng.uniform(20, 40))
    canvas.maps[MELANIN] += 0.15 * strength * canvas.inside * folds


def dots(canvas: Canvas, strength: float) -> None:
    canvas.maps[BLOOD] += strength * canvas.blobs((25, 70), (0.012, 0.024))


def lacunae(canvas: Canvas, strength: float) -> None:
    lakes = canvas.blobs((8, 22), (0.05, 0.12), 0.015)
    canvas.maps[BLOOD] += strength * lakes
    canvas.maps[MELANIN] += 0.35 * strength * lakes * (canvas.noise(10) > 0.3)


def nests(canvas: Canvas, strength: float) -> None:
    ovals = canvas.blobs((2, 9), (0.04, 0.12), 0.02, within=0.85)
    canvas.maps[BLUE] += 0.8 * strength * ovals
    canvas.maps[MELANIN] += 0.7 * strength * ovals


def vessels(canvas: Canvas, strength: float) -> None:
    """Arborising vessels: trunks from the rim that fork as they thin."""
    rng = canvas.rng
    trunks = [(point, rng.uniform(0, 2 * np.pi), 0.024) for point in canvas.points(
        int(rng.integers(2, 5)), 0.9)]  # fmt: skip

    def draw(sheet: ImageDraw.ImageDraw, scale: float) -> None:
        while trunks:
            point, heading, width = trunks.pop()
            for _ in range(rng.integers(4, 9)):
                heading += rng.normal(0, 0.4)
                end = point + 0.05 * np.array([np.cos(heading), np.sin(heading)])
                ends = [*((point + SPAN) * scale), *((end + SPAN) * scale)]
                sheet.line(ends, fill=255, width=max(1, round(width * scale)))
                point = end
            if width > 0.010:
                trunks.extend((point, heading + fork, width * 0.62) for fork in
                              rng.uniform(0.3, 0.9, 2) * (-1, 1))  # fmt: skip

    canvas.maps[BLOOD] += strength * canvas.drawn(draw, 0.006) * (canvas.depth < 1.3)


# In the order in which they lie over each other.
STRUCTURES: dict[str, Callable[[Canvas, float], None]] = {
    each.__name__: each
    for each in (network, globules, blotches, ridges, comedones, nests, lacunae, follicles, dots,
                 vessels, veil, regression, scar, milia, keratin, scale)
}  # fmt: skip


def lesion(rng: np.random.Generator, look: Look, side: int) -> Image.Image:
    """One lesion and the skin around it in even light, RGB.

    Args:
        rng: the lesion's own generator.
        look: what lesions of its class look like.
        side: of the picture, in pixels; it reaches `SPAN` half heights to every side.
    """
    canvas = Canvas(rng, look, side)
    melanin, redness = rng.uniform(*look.melanin), rng.uniform(*look.redness)
    lean = canvas.asymmetry * (canvas.x * rng.normal() + canvas.y * rng.normal()) / canvas.radius
    uneven = np.clip(1 + 0.8 * lean + 0.18 * canvas.noise(10) + 0.10 * canvas.noise(36), 0.2, 2)
    canvas.maps[MELANIN] += melanin * canvas.inside * uneven
    canvas.maps[BLOOD] += redness * canvas.inside * uneven
    for name, paint in STRUCTURES.items():
        chance, low, high = look.structures.get(name, (0.0, 0.0, 0.0))
        if rng.random() < chance:
            paint(canvas, rng.uniform(low, high))
    _add_skin(canvas)
    return _colours(canvas.maps)


def _colours(maps: np.ndarray) -> Image.Image:
    """Maps to RGB: absorption first, then what scatters above it."""
    densities = np.clip(maps[: BLOOD + 1], 0, None)
    absorbed = np.tensordot(densities, np.stack([MELANIN_ABSORPTION, BLOOD_ABSORPTION]), (0, 0))
    picture = DERMIS * np.exp(-absorbed)
    for layer, colour in COVERS:
        if maps[layer].any():
            cover = MOST_COVER * np.clip(maps[layer], 0, 1)
            picture += cover[..., None] * (np.array(colour, np.float32) - picture)
    return Image.fromarray((picture * 255).astype(np.uint8))


def _add_skin(canvas: Canvas) -> None:
    """Tone, mottling, furrows and freckles of the skin, under the lesion and around it."""
    rng = canvas.rng
    dark = rng.random() < DARK_SKIN_CHANCE
    tone = rng.uniform(0.45, 1.1) if dark else rng.gamma(2.0, 0.05)
    flush = rng.uniform(0.05, 0.20) if dark else 0.05 + rng.gamma(2.0, 0.06)
    sun = rng.uniform(0.02, 0.12)  # how mottled: the sun's doing
    furrows = canvas.net(rng.uniform(0.07, 0.11), -0.4)
    canvas.maps[MELANIN] += tone * (1 + sun * canvas.noise(16)) + 0.05 * furrows
    canvas.maps[MELANIN] += rng.uniform(0, 0.25) * np.clip(canvas.noise(34) - 1.9, 0, 1)
    canvas.maps[BLOOD] += flush * (1 + 2 * sun * canvas.noise(12) + sun * canvas.noise(50))

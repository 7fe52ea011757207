"""What lies on the skin or the glass: hairs, a ruler, ink, gel bubbles.

Every function takes the image's own generator, a picture (float32 [rows, cols, 3] in [0, 1]) and a
severity from 1 to 5, and gives the picture back, perhaps beyond [0, 1]. The generator does not
know the severity: a higher one shows the same hairs and more, not others.
"""

import numpy as np
from PIL import ImageDraw
from scipy.ndimage import gaussian_filter

from dermdistill.data.drawing import drawn, grid, lay

Picture = np.ndarray  # float32 [rows, cols, 3]

HAIRS = (3, 7, 14, 24, 38)
HAIR_THICKNESS = (0.85, 0.95, 1.05, 1.15, 1.3)
HAIR_COLOURS = np.array([[0.07, 0.05, 0.04], [0.18, 0.11, 0.07], [0.34, 0.23, 0.13]])
HAIR_COVER = 0.92
RULER_INSET = (0.02, 0.12, 0.24, 0.38, 0.55)  # of its line, in half heights from the edge
RULER_TICK = (0.08, 0.10, 0.12, 0.15, 0.18)
RULER_STEP, RULER_LONG = 0.11, 5  # between ticks; every fifth is a long one
DIGIT_SIZE = 0.13
INK_STROKES = (1, 2, 4, 6, 9)
INK_WIDTH = (0.045, 0.06, 0.075, 0.09, 0.11)
INK_LIGHT = np.array([0.33, 0.22, 0.56])  # of gentian violet: the share of light that passes
BUBBLES = (5, 12, 24, 42, 70)


def hair(rng: np.random.Generator, picture: Picture, severity: int) -> Picture:
    """Dark bent hairs, thin at their ends, most of them one way."""
    size = picture.shape[1], picture.shape[0]
    heading = rng.uniform(0, np.pi)
    colour = HAIR_COLOURS[rng.integers(len(HAIR_COLOURS))]
    strands = [_strand(rng, heading) for _ in range(HAIRS[-1])][: HAIRS[severity - 1]]

    def draw(sheet: ImageDraw.ImageDraw, scale: float) -> None:
        for points, thickness in strands:
            for index in range(len(points) - 1):
                share = index / (len(points) - 1)
                taper = min(1.0, 3.5 * (1 - share) + 0.25, 6 * share + 0.5)
                wide = max(1, round(thickness * HAIR_THICKNESS[severity - 1] * taper * scale))
                ends = [tuple(point) for point in points[index : index + 2] * scale]
                sheet.line(ends, fill=255, width=wide)
                x, y = ends[1]
                r = wide / 2 - 0.5
                sheet.ellipse([x - r, y - r, x + r, y + r], fill=255)

    cover = drawn(size, draw)
    shadow = gaussian_filter(np.roll(cover, (1, 1), (0, 1)), 0.012 * size[1])
    picture = picture * (1 - 0.25 * shadow[..., None])
    lay(picture, HAIR_COVER * cover, colour)
    return picture


def _strand(rng: np.random.Generator, heading: float) -> tuple[np.ndarray, float]:
    """Points of one hair in half heights from the upper left corner, and its thickness."""
    root, along = rng.uniform(-0.2, 2.2, 2), heading + rng.normal(0, 0.3)
    along += np.pi * (rng.random() < 0.25)
    length, bend = rng.uniform(0.5, 2.2), rng.normal(0, 0.5)
    curl = rng.normal(0, 0.25)
    steps = np.linspace(0, 1, 28)
    turn = along + bend * steps + curl * np.sin(np.pi * steps)
    walk = np.stack([np.cos(turn), np.sin(turn)], 1) * (length / len(steps))
    return root + np.cumsum(walk, axis=0), rng.uniform(0.013, 0.026)


def ruler(rng: np.random.Generator, picture: Picture, severity: int) -> Picture:
    """A printed scale with ticks and centimetres, further into the picture the worse."""
    turn = int(rng.integers(4))  # which edge it lies along
    start, first = rng.uniform(0, RULER_STEP), int(rng.integers(1, 8))
    ink = rng.uniform(0.03, 0.12)
    inset, tick = RULER_INSET[severity - 1], RULER_TICK[severity - 1]
    turned = np.rot90(picture, turn).copy()
    size = turned.shape[1], turned.shape[0]

    def draw(sheet: ImageDraw.ImageDraw, scale: float) -> None:
        line = max(1, round(0.012 * scale))
        wide = 2 * size[0] / size[1]
        sheet.line([(0, inset * scale), (wide * scale, inset * scale)], fill=255, width=line)
        for index in range(int((wide - start) / RULER_STEP) + 1):
            x, long = (start + index * RULER_STEP) * scale, index % RULER_LONG == 0
            end = inset + tick * (1.7 if long else 1)
            sheet.line([(x, inset * scale), (x, end * scale)], fill=255, width=line)
            if long:
                sheet.text((x + 0.02 * scale, (inset + 1.25 * tick) * scale),
                           str(first + index // RULER_LONG), fill=255,
                           font_size=DIGIT_SIZE * scale)  # fmt: skip

    lay(turned, 0.95 * drawn(size, draw), (ink, ink, ink))
    return np.rot90(turned, -turn)


def ink(rng: np.random.Generator, picture: Picture, severity: int) -> Picture:
    """A surgeon's violet pen around the lesion: strokes that let some light through."""
    size = picture.shape[1], picture.shape[0]
    middle, radius = rng.normal(1, 0.06, 2), rng.uniform(0.68, 0.8)
    strokes = [_stroke(rng, middle, radius) for _ in range(INK_STROKES[-1])]
    thickness = rng.uniform(0.8, 1.2)
    blotches = gaussian_filter(rng.normal(size=size[::-1]), 0.03 * size[1])

    def draw(sheet: ImageDraw.ImageDraw, scale: float) -> None:
        wide = max(1, round(INK_WIDTH[severity - 1] * thickness * scale))
        for points in strokes[: INK_STROKES[severity - 1]]:
            path = [tuple(point) for point in points * scale]
            sheet.line(path, fill=255, width=wide, joint="curve")
            for x, y in (path[0], path[-1]):
                r = wide / 2
                sheet.ellipse([x - r, y - r, x + r, y + r], fill=255)

    cover = gaussian_filter(drawn(size, draw), 0.006 * size[1])
    cover *= np.clip(0.8 + 0.12 * blotches / blotches.std(), 0.35, 1)
    return picture * (1 - cover[..., None] * (1 - INK_LIGHT))


def _stroke(rng: np.random.Generator, middle: np.ndarray, radius: float) -> np.ndarray:
    """Points of one stroke: an arc around the lesion, or a dash away from it."""
    angle, unsteady = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.012, 2)
    if rng.random() < 0.7:
        angles = angle + np.linspace(0, rng.uniform(0.4, 1.3), 16)
        reach = radius * (1 + rng.normal(0, 0.04)) + unsteady[0] * np.arange(16) / 4
    else:
        angles = np.full(16, angle)
        reach = radius + np.linspace(0.05, rng.uniform(0.2, 0.4), 16)
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    return middle + ring * np.reshape(reach, (-1, 1))


def bubbles(rng: np.random.Generator, picture: Picture, severity: int) -> Picture:
    """Air in the gel: discs with a dark rim, a bright one inside it, and a highlight."""
    size = picture.shape[1], picture.shape[0]
    x, y = grid(size)
    light = rng.uniform(0, 2 * np.pi)
    places = rng.uniform(-1.05, 1.05, (BUBBLES[-1], 2)) * (size[0] / size[1], 1)
    radii = np.exp(rng.normal(np.log(0.055), 0.55, BUBBLES[-1])).clip(0.02, 0.22)
    blur = 1.2 / size[1] + 0.008  # an edge is never sharper than a pixel
    picture = picture.copy()
    for place, radius in list(zip(places, radii, strict=True))[: BUBBLES[severity - 1]]:
        reach = radius + 4 * blur
        rows, cols = (np.flatnonzero(np.abs(axis - middle) < reach)
                      for axis, middle in ((y[:, 0], place[1]), (x[0], place[0])))  # fmt: skip
        if len(rows) and len(cols):
            near = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
            dark, shine = _bubble(x[near] - place[0], y[near] - place[1], radius, blur, light)
            picture[near] *= (1 - dark)[..., None]
            picture[near] += shine[..., None] * (1 - picture[near])
    return picture


def _bubble(
    dx: np.ndarray, dy: np.ndarray, radius: float, blur: float, light: float
) -> tuple[np.ndarray, np.ndarray]:
    """Shares of darkness and of light that one bubble adds around its middle."""
    distance = np.hypot(dx, dy)
    rim = np.exp(-(((distance - radius) / blur) ** 2))
    inner = np.exp(-(((distance - 0.8 * radius) / (0.09 * radius + blur)) ** 2))
    # The side away from the lamp glows: light that entered is gathered there.
    side = (np.cos(light) * dx + np.sin(light) * dy) / np.maximum(distance, 1e-6)
    spot = np.hypot(dx - 0.45 * radius * np.cos(light), dy - 0.45 * radius * np.sin(light))
    spot = np.exp(-((spot / (0.14 * radius + 0.5 * blur)) ** 2))
    shine = 0.30 * inner * (0.55 - 0.45 * side) + 0.8 * spot + 0.06 * (distance < radius)
    return 0.45 * rim, shine.clip(0, 1)

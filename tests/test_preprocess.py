"""One preprocessing, three writings of it: Pillow, JavaScript, and the specification's formula."""

import hashlib
import io
import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import small
from dermdistill.bundle import Bundle
from dermdistill.data.decode import decode

HERE = Path(__file__).parent
SHAPES = [(60, 45), (45, 60), (100, 31), (33, 33), (7, 9), (32, 32), (1, 40), (257, 190)]


def by_the_formula(axis: np.ndarray, start: float, stop: float, count: int) -> np.ndarray:
    """One line of pixels resampled as docs/bundle.md says, in plain loops."""
    scale = (stop - start) / count
    width, result = max(scale, 1.0), []
    for i in range(count):
        centre = start + (i + 0.5) * scale
        first = max(0, math.trunc(centre - width + 0.5))
        last = min(len(axis), math.trunc(centre + width + 0.5))
        weights = [max(0.0, 1 - abs((x - centre + 0.5) * (1 / width))) for x in range(first, last)]
        whole = [math.trunc(0.5 + w / sum(weights) * 2**22) for w in weights]
        total = 2**21 + sum(
            int(axis[x]) * k for x, k in zip(range(first, last), whole, strict=True)
        )
        result.append(min(255, max(0, total >> 22)))
    return np.array(result, np.uint8)


def colours(line: np.ndarray, start: float, stop: float, count: int) -> np.ndarray:
    """The same for a line of RGB pixels."""
    return np.stack([by_the_formula(line[:, c], start, stop, count) for c in range(3)], axis=1)


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def as_png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_pillow_does_what_the_specification_says(width, height):
    pixels, px = picture(width, height), 16
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    across = [colours(row, left, left + side, px) for row in pixels]
    down = [colours(column, top, top + side, px) for column in np.stack(across, 1)]
    wanted = np.stack(down, 1)
    assert np.array_equal(decode(as_png(pixels), px, "centre", reduced=False), wanted)


@pytest.fixture(scope="module")
def node() -> str:
    """Node, which runs the app's own code."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    return found


def ask(node: str, requests: list[dict]) -> None:
    subprocess.run([node, HERE / "preprocess.mjs"], input=json.dumps(requests), text=True,
                   check=True, timeout=120)  # fmt: skip


def request(folder: Path, number: int, rgba: np.ndarray, px: int, crop: str, **more) -> dict:
    source = folder / f"{number}.rgba"
    source.write_bytes(rgba.tobytes())
    return {"rgba": str(source), "width": rgba.shape[1], "height": rgba.shape[0], "px": px,
            "crop": crop, "pixels": str(folder / f"{number}.rgb"), **more}  # fmt: skip


def test_javascript_gives_the_same_bytes_from_the_same_pixels(node, tmp_path):
    """Every crop, larger and smaller, opaque and with every transparency."""
    requests, wanted = [], []
    for number, (width, height) in enumerate(SHAPES):
        pixels = picture(width, height, number)
        alpha = np.random.default_rng(number + 99).integers(0, 256, (height, width, 1), np.uint8)
        if number % 2:
            alpha[:] = 255
        rgba = np.concatenate([pixels, alpha], 2)
        for crop in ("centre", "squash", "pad"):
            wanted.append(decode(as_png(rgba), 24, crop, reduced=False))
            requests.append(request(tmp_path, len(requests), rgba, 24, crop))
    ask(node, requests)
    for one, pixels in zip(requests, wanted, strict=True):
        found = np.frombuffer(Path(one["pixels"]).read_bytes(), np.uint8).reshape(24, 24, 3)
        assert np.array_equal(found, pixels), one


def test_javascript_reproduces_a_bundles_golden_pixels_and_their_normalised_form(node, tmp_path):
    bundle = Bundle(small.exported() / "bundle.zip")
    spec, requests = bundle.manifest.preprocessing, []
    for number, case in enumerate(bundle.golden):
        with Image.open(io.BytesIO(bundle.read(case.image))) as image:
            rgba = np.asarray(image.convert("RGBA"))
        requests.append(request(
            tmp_path, number, rgba, spec.px, spec.crop, mean=spec.mean, std=spec.std,
            normalised=str(tmp_path / f"{number}.f32"),
        ))  # fmt: skip
    ask(node, requests)
    for case, one in zip(bundle.golden, requests, strict=True):
        assert Path(one["pixels"]).read_bytes() == bundle.read(case.pixels)
        digest = hashlib.sha256(Path(one["normalised"]).read_bytes()).hexdigest()
        assert digest == case.normalised_sha256

"""How fast packing and reading a packed store are, against plain Pillow.

    python benchmarks/store.py [FOLDER]

FOLDER holds the real images (`data/originals/labels.csv` and its files); without it the
environment's DERMDISTILL_SHARED, then the folder `shared` beside the checkout. Two bars: one
packing process at 0.8 of the images/s of a bare Pillow loop that decodes with `draft` and resizes
to the same size, and shuffled batches of 64 read from the store at 50 times the images/s at which
JPEGs of 1024x768 are decoded and resized by that loop.
"""

import csv
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
from PIL import Image

from dermdistill.data.pack import pack
from dermdistill.data.shards import Shards

PX, BATCH = 224, 64
REPEATS = 4  # of the 80 originals: 320 images
LARGE_WIDTH = 1024
ROUNDS = 3  # the best of so many counts: what else runs on the machine only slows
READ_SECONDS = 1.0  # a shuffled read is so short that it is repeated
PACK_BAR, READ_BAR = 0.8, 50.0


def originals() -> list[tuple[Path, int]]:
    """Path and width of each real image."""
    beside = Path(__file__).parents[2] / "shared"
    given = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("DERMDISTILL_SHARED", beside)
    folder = Path(given) / "data" / "originals"
    if not folder.is_dir():
        sys.exit(f"no real images: {folder} is missing; name their folder or set "
                 "DERMDISTILL_SHARED")  # fmt: skip
    with open(folder / "labels.csv", encoding="utf-8", newline="") as file:
        return [(folder / row["image"], int(row["width"])) for row in csv.DictReader(file)]


def bare(path: Path) -> np.ndarray:
    """The least that gives the same pixels: draft decoding and one resize of the middle square."""
    with Image.open(path) as image:
        image.draft("RGB", (PX, PX))
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        return np.asarray(image.resize((PX, PX), Image.Resampling.BILINEAR, box))


def rate(images: int, action: Callable[[], object]) -> float:
    """Images a second, best of some rounds."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return images / min(seconds)


def read_rate(images: Shards) -> float:
    """Images a second that shuffled batches are copied out of the store."""
    rng, read, start = np.random.default_rng(0), 0, time.perf_counter()
    while time.perf_counter() - start < READ_SECONDS:
        order = rng.permutation(len(images))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            read += len(images[order[first : first + BATCH]])
    return read / (time.perf_counter() - start)


def main() -> int:
    found = originals()
    paths = [path for path, _ in found] * REPEATS
    large = [path for path, width in found if width == LARGE_WIDTH]
    table = SimpleNamespace(frame=pandas.DataFrame(
        {"id": [f"{number:05d}" for number in range(len(paths))],
         "path": [str(path) for path in paths]}))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        stores = (Path(folder) / str(number) for number in range(ROUNDS))
        packing = rate(len(paths), lambda: pack(table, next(stores), PX, workers=1, progress=False))
        looping = rate(len(paths), lambda: [bare(path) for path in paths])
        decoding = rate(len(large), lambda: [bare(path) for path in large])
        store = pack(table, Path(folder) / "0", PX, progress=False)
        reading = read_rate(store.images)
    print(f"{'packing, one process':38} {packing:10.0f} images/s")
    print(f"{'bare Pillow draft loop':38} {looping:10.0f} images/s   {packing / looping:.2f}x")
    print(f"{'shuffled batches of 64 from the store':38} {reading:10.0f} images/s")
    print(f"{'bare Pillow, 1024 px wide JPEGs':38} {decoding:10.0f} images/s   "
          f"{reading / decoding:.0f}x")  # fmt: skip
    good = packing >= PACK_BAR * looping and reading >= READ_BAR * decoding
    print(f"{'met' if good else 'SHORT'}: packing {packing / looping:.2f}x (bar {PACK_BAR}x), "
          f"reading {reading / decoding:.0f}x (bar {READ_BAR:.0f}x)")  # fmt: skip
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

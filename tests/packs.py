"""Photos, tables of them, and a second process that packs them: what tests of stores share."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
from PIL import Image

from dermdistill.data.pack import CHUNK

PX = 48


def table_of(paths: list) -> SimpleNamespace:
    ids = [f"ISIC_{number:07d}" for number in range(len(paths))]
    return SimpleNamespace(frame=pandas.DataFrame({"id": ids, "path": [str(p) for p in paths]}))


def draw_photos(folder: Path) -> list[Path]:
    """A dozen different JPEGs of 400x300."""
    rng, paths = np.random.default_rng(0), []
    for number in range(12):
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(small).resize((400, 300)).save(paths[-1])
    return paths


def with_broken(photos: list[Path]) -> SimpleNamespace:
    """A table of some chunks, with broken images in two of them."""
    broken = photos[0].with_name("broken.jpg")
    broken.write_bytes(photos[0].read_bytes()[:900])
    paths = [photos[number % 12] for number in range(3 * CHUNK + 10)]
    paths[3], paths[CHUNK + 1] = broken, photos[0].with_name("absent.jpg")
    return table_of(paths)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


SCRIPT = """
import json, sys
from types import SimpleNamespace
from dermdistill.data import pack
if __name__ == "__main__":
    {fault}
    table = SimpleNamespace(frame=json.load(open(sys.argv[1])))
    pack.pack(table, sys.argv[2], {px}, workers={workers}, progress=False,
              shard_images={shards})
"""


def start(tmp_path: Path, table, folder: Path, workers: int, fault: str = "",
          shard_images: int = 0) -> subprocess.Popen:  # fmt: skip
    """A second process that packs a table, after a line of code that breaks something."""
    (tmp_path / "table.json").write_text(json.dumps(table.frame.to_dict("list")))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(fault=fault, px=PX, workers=workers, shards=shard_images))
    source = str(Path(__file__).parents[1] / "src")
    environment = os.environ | {"PYTHONPATH": source}
    return subprocess.Popen([sys.executable, script, tmp_path / "table.json", folder],
                            env=environment, stderr=subprocess.PIPE, text=True)  # fmt: skip

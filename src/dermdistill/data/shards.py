"""The files of a packed store: one memory-mapped array, or several of equal size read as one."""

import math
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dermdistill.run import atomic_write

COPY_ROWS = 256  # rows moved at once where broken images leave gaps
WHOLE = "images.npy"  # of a store that is one file
SPREAD = "images-{:05d}.npy"


class Shards:
    """Images of memory-mapped files, numbered through, in the manner of one array.

    Args:
        files: uint8 [count, px, px, 3] each, of one px.
    """

    def __init__(self, files: Sequence[np.ndarray]):
        self._files = list(files)
        self._starts = np.cumsum([0, *map(len, files)])
        self.shape = (int(self._starts[-1]), *files[0].shape[1:])
        self.dtype = files[0].dtype
        self._image_bytes = self.dtype.itemsize * math.prod(self.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | np.integer | np.ndarray) -> np.ndarray:
        """One image as a view, or a copy of several, uint8 [len(rows), px, px, 3]."""
        wanted = np.atleast_1d(np.asarray(rows))
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"row {rows} of {len(self)} images")
        shard = np.searchsorted(self._starts, wanted, side="right") - 1
        place = wanted - self._starts[shard]
        if np.ndim(rows) == 0:
            return self._files[shard[0]][place[0]]
        self._announce(shard, place)
        if len(self._files) == 1:
            return self._files[0][place]
        found = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        for k in np.unique(shard):
            mine = shard == k
            found[mine] = self._files[k][place[mine]]
        return found

    def _announce(self, shard: np.ndarray, place: np.ndarray) -> None:
        """Have the disk read all these images at once: one after another each waits for its own."""
        if not hasattr(mmap, "MADV_WILLNEED"):  # Windows
            return
        for k, row in zip(shard.tolist(), place.tolist(), strict=True):
            held = self._files[k]
            first = held.offset % mmap.ALLOCATIONGRANULARITY + row * self._image_bytes
            page = first - first % mmap.PAGESIZE
            held._mmap.madvise(mmap.MADV_WILLNEED, page, first + self._image_bytes - page)


def split_rows(count: int, shard_images: int) -> list[tuple[str, int]]:
    """Name and number of rows of each file of a store; 0 images a shard puts all into one."""
    if not shard_images:
        return [(WHOLE, count)]
    firsts = range(0, count, shard_images)
    return [(SPREAD.format(k), min(shard_images, count - first)) for k, first in enumerate(firsts)]


def map_files(folder: Path, files: Sequence[tuple[str, int]]) -> list[np.ndarray]:
    """Map a store's files for reading.

    Raises:
        OSError, ValueError: a file is missing, cut, or has another number of images.
    """
    made = [np.load(folder / name, mmap_mode="r") for name, _ in files]
    for (name, count), images in zip(files, made, strict=True):
        if len(images) != count:
            raise ValueError(f"{name} has {len(images)} images, {count} are expected")
    return made


def make_file(path: Path, count: int, px: int) -> None:
    """Make an empty file of so many images."""
    np.lib.format.open_memmap(path, "w+", np.uint8, (count, px, px, 3))


def keep_rows(path: Path, rows: Sequence[int]) -> None:
    """Bring a file's images to the disk, without the gaps of broken ones; none leaves no file."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    images = np.load(path, mmap_mode="r")
    if len(rows) == len(images):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    else:
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            header = np.lib.format.header_data_from_array_1_0(images)
            header["shape"] = (len(rows), *images.shape[1:])
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(rows), COPY_ROWS):
                file.write(images[rows[start : start + COPY_ROWS]])

"""The packed store as it is read: decoded images in memory-mapped files."""

import csv
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import numpy as np

from dermdistill.data.shards import WHOLE, Shards, map_files
from dermdistill.errors import DataError, DermdistillError
from dermdistill.run import digest_of, read_json

FORMAT = 1  # of the folder; a reader refuses any other
IMAGES, INDEX, SETTINGS = WHOLE, "index.csv", "store.json"
INDEX_COLUMNS = ("id", "source_sha256", "pixels_sha256")
NAMED = 3  # examples in an error


class Store:
    """Decoded images of one size, memory-mapped, and what made them.

    Attributes:
        images: uint8 [count, px, px, 3], read-only, in the table's order.
        shard_of: the file that each row lies in, int32 [count].
        ids: one id a row.
        px, crop: how the images were decoded (see `decode`).
        digest: SHA-256 over settings, ids and pixels; the same whoever packed, however often
            interrupted.
        broken: (id, reason) of the images that could not be decoded and have no row.
    """

    def __init__(self, folder: Path, settings: dict, index: list[dict], files: list[np.ndarray]):
        self.folder = folder
        self.images = Shards(files)
        self.shard_of = np.repeat(np.arange(len(files), dtype=np.int32), [*map(len, files)])
        self.ids = [row["id"] for row in index]
        self.px: int = settings["px"]
        self.crop: str = settings["crop"]
        self.digest: str = settings["digest"]
        self.source_digest: str = settings["source_digest"]
        self.broken = [(entry["id"], entry["reason"]) for entry in settings["broken"]]
        self._pixels_sha256 = [row["pixels_sha256"] for row in index]
        self._row_of = {name: row for row, name in enumerate(self.ids)}
        self._files = files
        self._paths = [folder / name for name, _ in _named(settings)]
        self._checked: dict[int, tuple[int, ...]] = {}  # by file, its state when it was verified

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self):
        # A worker process maps the file again; pickling the map would copy every pixel.
        return Store.open, (self.folder,)

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "Store":
        """Map a packed store; checks its files and their sizes, not every pixel (see `verify`).

        Raises:
            DataError: no store, one of another format, or one whose files do not fit together.
        """
        folder = Path(folder)
        if not (folder / SETTINGS).is_file():
            raise DataError(f"{folder} is no packed store ({SETTINGS} is missing); "
                            "make one with `dermdistill data pack`")  # fmt: skip
        try:
            settings = read_json(folder / SETTINGS)
            if settings.get("format") != FORMAT:
                raise ValueError(f"its format is {settings.get('format')}, readable is {FORMAT}")
            files = map_files(folder, _named(settings))
            with open(folder / INDEX, encoding="utf-8", newline="") as file:
                index = list(csv.DictReader(file))
            px, count = settings["px"], settings["count"]
            images = {(file.dtype, *file.shape[1:]) for file in files}
            if images != {(np.dtype(np.uint8), px, px, 3)} or not (
                    len(index) == sum(map(len, files)) == count):  # fmt: skip
                raise ValueError(
                    f"{SETTINGS} says {count} images of {px} px, the files hold "
                    f"{sum(map(len, files))} of {images}, {INDEX} has {len(index)}"
                )
            return cls(folder, settings, index, files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError,
                DermdistillError) as error:  # fmt: skip
            raise DataError(f"the packed store {folder} cannot be used: {error}; "
                            "delete the folder and pack again") from error  # fmt: skip

    def rows(self, ids: Iterable[str]) -> np.ndarray:
        """Row of each id in `images`, int64.

        Raises:
            DataError: ids without a row, named, with the reason where they were broken.
        """
        ids = list(ids)
        missing = [name for name in ids if name not in self._row_of]
        if missing:
            reasons = dict(self.broken)
            named = ", ".join(f"{name} ({reasons.get(name, 'never packed')})"
                              for name in missing[:NAMED])  # fmt: skip
            raise DataError(f"{len(missing)} of {len(ids)} images are not in the store "
                            f"{self.folder}: {named}; leave them out, or pack them into another "
                            "folder")  # fmt: skip
        return np.array([self._row_of[name] for name in ids], dtype=np.int64)

    def check(self, rows: np.ndarray | None = None) -> None:
        """Refuse a store that is not, or no longer, what its digest says.

        A file is read wholly when a row of it is first named, as a first epoch would read it; after
        that only where its size, time or place on the disk changed. It looks at the rows' files
        alone, so this can be called at every step, however many files there are.

        Args:
            rows: what is about to be read; None compares every file that was verified before.

        Raises:
            DataError: the store changed, or is gone.
        """
        if not self._checked:
            self._verify_index()
        known = self._checked.keys()
        named = set(known) if rows is None else set(self.shard_of[rows].tolist())
        new = named - known
        changed = {k for k in named & known if self._checked[k] != _state_of(self._paths[k])}
        if not new and not changed:
            return
        states = {k: _state_of(self._paths[k]) for k in new | changed}
        now = Store.open(self.folder) if changed else self
        if now.digest != self.digest:
            raise DataError(f"the packed store {self.folder} was replaced by another while it was "
                            "in use; restore it, or start again with the new one")  # fmt: skip
        now._verify_files(states)
        self._checked |= states

    def verify(self) -> None:
        """Read every pixel and compare it with what was packed.

        Raises:
            DataError: names the images that changed.
        """
        self._verify_index()
        self._verify_files(range(len(self._files)))

    def _verify_index(self) -> None:
        if self.digest != digest(self.px, self.crop, self.ids, self._pixels_sha256):
            self._refuse([])

    def _verify_files(self, shards: Iterable[int]) -> None:
        changed = []
        for shard in shards:
            rows = np.flatnonzero(self.shard_of == shard)
            changed += [
                self.ids[row]
                for row, image in zip(rows, self._files[shard], strict=True)
                if hashlib.sha256(image).hexdigest() != self._pixels_sha256[row]
            ]
        if changed:
            self._refuse(changed)

    def _refuse(self, changed: list[str]) -> NoReturn:
        named = ", ".join(changed[:NAMED]) or INDEX
        raise DataError(
            f"the packed store {self.folder} changed since it was packed "
            f"({len(changed)} images: {named}); delete the folder and pack again"
        )


def _named(settings: dict) -> list[tuple[str, int]]:
    """Name and number of images of each file; a store of one file need not name it."""
    files = settings.get("files", [[IMAGES, settings["count"]]])
    outside = [name for name, _ in files if Path(name).name != name]
    if outside:
        raise ValueError(f"{SETTINGS} names a file outside the folder: {outside[0]}")
    return [(name, int(count)) for name, count in files]


def _state_of(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read any more ({error.strerror}); restore the store, or "
                        "pack it again, then run the same command again") from error  # fmt: skip
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def digest(px: int, crop: str, ids: list[str], pixels_sha256: list[str]) -> str:
    """SHA-256 over settings, ids and pixels in their order: a store's identity."""
    return digest_of([FORMAT, px, crop, list(map(list, zip(ids, pixels_sha256, strict=True)))])

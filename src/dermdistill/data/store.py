"""The packed store as it is read: decoded images in one memory-mapped file."""

import csv
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dermdistill.errors import DataError, DermdistillError
from dermdistill.run import digest_of, read_json

FORMAT = 1  # of the folder; a reader refuses any other
IMAGES, INDEX, SETTINGS = "images.npy", "index.csv", "store.json"
INDEX_COLUMNS = ("id", "source_sha256", "pixels_sha256")
NAMED = 3  # examples in an error


class Store:
    """Decoded images of one size, memory-mapped, and what made them.

    Attributes:
        images: uint8 [count, px, px, 3], read-only, in the table's order.
        ids: one id a row.
        px, crop: how the images were decoded (see `decode`).
        digest: SHA-256 over settings, ids and pixels; the same whoever packed, however often
            interrupted.
        broken: (id, reason) of the images that could not be decoded and have no row.
    """

    def __init__(self, folder: Path, settings: dict, index: list[dict], images: np.ndarray):
        self.folder = folder
        self.images = images
        self.ids = [row["id"] for row in index]
        self.px: int = settings["px"]
        self.crop: str = settings["crop"]
        self.digest: str = settings["digest"]
        self.source_digest: str = settings["source_digest"]
        self.broken = [(entry["id"], entry["reason"]) for entry in settings["broken"]]
        self._pixels_sha256 = [row["pixels_sha256"] for row in index]
        self._row_of = {name: row for row, name in enumerate(self.ids)}
        self._checked: tuple[int, ...] | None = None  # the state of the file that was verified

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
            images = np.load(folder / IMAGES, mmap_mode="r")
            with open(folder / INDEX, encoding="utf-8", newline="") as file:
                index = list(csv.DictReader(file))
            expected = (settings["count"], settings["px"], settings["px"], 3)
            if images.shape != expected or images.dtype != np.uint8 or len(index) != expected[0]:
                raise ValueError(f"{IMAGES} is {images.dtype}{images.shape}, {INDEX} has "
                                 f"{len(index)} rows, {SETTINGS} says {expected}")  # fmt: skip
            return cls(folder, settings, index, images)
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

    def check(self) -> None:
        """Refuse a store that is not, or no longer, what its digest says.

        The first time every pixel is read, as a first epoch would; after that only where the
        file's size, time or place on the disk changed, so it can be called at every step.

        Raises:
            DataError: the store changed, or is gone.
        """
        state = _state_of(self.folder / IMAGES)
        if state == self._checked:
            return
        now = Store.open(self.folder)
        if now.digest != self.digest:
            raise DataError(f"the packed store {self.folder} was replaced by another while it was "
                            "in use; restore it, or start again with the new one")  # fmt: skip
        now.verify()
        self._checked = state

    def verify(self) -> None:
        """Read every pixel and compare it with what was packed.

        Raises:
            DataError: names the images that changed.
        """
        changed = [name for name, image, expected in
                   zip(self.ids, self.images, self._pixels_sha256, strict=True)
                   if hashlib.sha256(image).hexdigest() != expected]  # fmt: skip
        now = digest(self.px, self.crop, self.ids, self._pixels_sha256)
        if changed or self.digest != now:
            named = ", ".join(changed[:NAMED]) or INDEX
            raise DataError(f"the packed store {self.folder} changed since it was packed "
                            f"({len(changed)} images: {named}); delete the folder and pack "
                            "again")  # fmt: skip


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

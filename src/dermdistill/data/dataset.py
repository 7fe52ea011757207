"""The three parts of a data set, ready to be read in batches from the packed store."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dermdistill.config import DataConfig
from dermdistill.data.pack import pack
from dermdistill.data.readers import read_table
from dermdistill.data.splits import Split, make_split
from dermdistill.data.store import Store
from dermdistill.data.table import Table, listed
from dermdistill.errors import ConfigError, DataError
from dermdistill.types import Metadata


class Pixels(NamedTuple):
    """Decoded images in memory, where a store on disk would be too much."""

    images: np.ndarray  # uint8 [count, px, px, 3]


@dataclass(frozen=True, eq=False)
class Part:
    """Images of one part: where they lie in the store, what they are, whose they are.

    Args:
        store: the decoded images.
        ids: the images' ids.
        rows: their rows in the store, int64.
        labels: class indices, int64.
        metadata: what is known of their patients; None is nothing.
    """

    store: Store | Pixels
    ids: list[str]
    rows: np.ndarray
    labels: np.ndarray
    metadata: Metadata | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def pixels(self, chosen: np.ndarray) -> UInt8[Tensor, "batch rows cols 3"]:
        """Copy the chosen images (positions in this part) out of the store."""
        return torch.from_numpy(self.store.images[self.rows[chosen]])

    def about(self, chosen: np.ndarray) -> Metadata:
        """What is known of the patients of the chosen images (positions in this part)."""
        return Metadata.missing(len(chosen)) if self.metadata is None else self.metadata.of(chosen)

    def some(self, images: int, seed: int) -> "Part":
        """At most so many of its images, drawn at random, in their own order; 0 is all."""
        if not 0 < images < len(self):
            return self
        rng = np.random.default_rng(seed)
        kept = np.sort(rng.choice(len(self), images, replace=False))
        ids = [self.ids[row] for row in kept]
        return Part(self.store, ids, self.rows[kept], self.labels[kept], self.about(kept))

    @classmethod
    def of_pixels(cls, pixels: UInt8[Tensor, "images rows cols 3"], name: str) -> "Part":
        """Images that belong to no data set and no class, named `name-0`, `name-1`, ..."""
        ids = [f"{name}-{row}" for row in range(len(pixels))]
        rows = np.arange(len(ids))
        return cls(Pixels(pixels.numpy()), ids, rows, np.full_like(rows, -1))

    def showing(self, pixels: UInt8[Tensor, "images rows cols 3"]) -> "Part":
        """The same images with other pixels."""
        rows = np.arange(len(self))
        return Part(Pixels(pixels.numpy()), self.ids, rows, self.labels, self.metadata)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A table, its store and its split, joined by image id."""

    classes: tuple[str, ...]
    table: Table
    store: Store
    split: Split
    train: Part
    validation: Part
    test: Part
    shuffle_shards: int = 0  # files of the store that an epoch shuffles at a time; 0: all

    @property
    def identity(self) -> dict[str, str]:
        """The digests that say which images, and which of them are held out."""
        return {"store": self.store.digest, "split": self.split.digest}


def part_of(table: Table, store: Store, ids: list[str]) -> Part:
    """Images of a table, by id."""
    return Part(store, ids, store.rows(ids), table.label_codes(ids), table.metadata(ids))


def open_dataset(config: DataConfig, output: Path, progress: bool = True) -> Dataset:
    """Read, decode and split a folder of images, or find that done before.

    Args:
        config: which images, and who is held out.
        output: where store and split go unless the config names places of their own.
        progress: show bars.

    Raises:
        ConfigError: no folder is given.
        DataError: the images, the store or the split cannot be used.
    """
    if not config.folder:
        raise ConfigError("data.folder is empty; name the folder with the images and their tables")
    table = read_table(config.folder, config.layout)
    split = _split(table, config, output)
    place = Path(config.store or output / f"store-{config.px}-{config.crop}")
    store = pack(
        table, place, config.px, config.crop, config.workers, progress, config.shard_images
    )
    return _joined(table, store, split, config)


def _split(table: Table, config: DataConfig, output: Path) -> Split:
    """The split that is asked for: the file's, or the one of the same settings made anew."""
    if config.split:
        split = Split.load(config.split)
        split.check(table)
        return split
    made = make_split(table, config.protocol, config.test_fraction, config.folds, config.split_seed)
    path = output / f"split-{made.digest[:12]}.csv"
    if not path.exists():
        made.save(path)
    return made


def _joined(table: Table, store: Store, split: Split, config: DataConfig) -> Dataset:
    broken = {name for name, _ in store.broken}
    if broken:
        warnings.warn(
            f"{len(broken)} broken images are left out ({listed(sorted(broken))}); "
            "`dermdistill data audit` lists them with the reason",
            stacklevel=2,
        )

    def part(name: str) -> Part:
        ids = [i for i in split.ids(name, config.validation_fold) if i not in broken]
        if not ids:
            raise DataError(f"the {name} part has no image; choose other fractions or folds")
        return part_of(table, store, ids)

    train = part("train")
    absent = sorted(set(range(len(table.classes))) - set(train.labels.tolist()))
    if absent:
        warnings.warn(
            f"no training image of {listed(table.classes[k] for k in absent)}: such a class can "
            "not be learnt; `dermdistill data audit` shows every part",
            stacklevel=2,
        )
    return Dataset(
        table.classes, table, store, split, train, part("validation"), part("test"),
        config.shuffle_shards,
    )  # fmt: skip

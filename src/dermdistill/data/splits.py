"""Parts of a data set: a test part and k folds, so that no lesion lies on two sides.

Several images of one lesion in training and in test let a network recognise the lesion instead of
the disease. So lesions, not images, are dealt out; the paper's split by image is kept as a named
choice, to compare with its figures, and warns.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from dermdistill.data.table import TEXT, Names, Table, digest_rows, listed
from dermdistill.errors import ConfigError, DataError, unknown_name
from dermdistill.run import atomic_write

FORMAT_VERSION = 1
TEST = "test"
# Share of images in the test part: the usual fifth by lesion, the paper's tenth by image.
TEST_FRACTIONS = {"lesion": 0.2, "image": 0.1}
META_FIELDS = ("format", "protocol", "seed", "folds", "test_fraction", "table_digest")


@dataclass(frozen=True, eq=False)
class Split:
    """Which image belongs to which part.

    Args:
        frame: columns `id` and `part` ("test", "fold0", "fold1", ...), sorted by id. Images
            without a label are in no part.
        protocol: "lesion" or "image".
        seed: what the order of the deal came from.
        folds: number of folds beside the test part.
        test_fraction: share of images asked for the test part, in [0, 1).
        table_digest: `Table.digest` of the table that was split.
    """

    frame: pd.DataFrame
    protocol: str
    seed: int
    folds: int
    test_fraction: float
    table_digest: str

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of all parts, the test part first (also where it is empty)."""
        return (TEST, *(f"fold{k}" for k in range(self.folds)))

    @property
    def meta(self) -> dict[str, object]:
        """What the split was made from, as its file's first line holds it."""
        return {"format": FORMAT_VERSION} | {k: getattr(self, k) for k in META_FIELDS[1:]}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the meta data and every image's part, in hexadecimal."""
        header = json.dumps(self.meta, sort_keys=True)
        return digest_rows(header, self.frame["id"].tolist(), self.frame["part"].tolist())

    def ids(self, part: str, validation_fold: int = 0) -> list[str]:
        """Ids of a part, sorted.

        Args:
            part: "train" (all folds but one), "validation" (that one), "test", or a fold's name.
            validation_fold: which fold validates, in [0, folds).

        Raises:
            ConfigError: there is no such part or fold.
        """
        if not 0 <= validation_fold < self.folds:
            raise ConfigError(
                f"validation_fold is {validation_fold}; the split has folds 0 to {self.folds - 1}"
            )
        held_out = f"fold{validation_fold}"
        if part == "train":
            chosen = ~self.frame["part"].isin((TEST, held_out))
        elif part in ("validation", *self.parts):
            chosen = self.frame["part"] == (held_out if part == "validation" else part)
        else:
            raise unknown_name("part", part, ("train", "validation", *self.parts))
        return self.frame["id"][chosen].tolist()

    def check(self, table: Table) -> None:
        """Refuse a table that this split was not made from.

        Raises:
            DataError: ids, labels or lesions differ.
        """
        if table.digest != self.table_digest:
            raise DataError(
                f"the split was made from table {self.table_digest} and this is table "
                f"{table.digest}: ids, labels or lesions differ. Give the table that it was made "
                "from, or make a new split"
            )

    def save(self, path: str | os.PathLike) -> None:
        """Write the split as text: one line `# JSON`, then CSV with columns id and part."""
        header = json.dumps({**self.meta, "digest": self.digest})
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(f"# {header}\n")
            self.frame.to_csv(file, index=False, lineterminator="\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Split":
        """Read a split and verify it.

        Raises:
            DataError: the file is absent, no split, of another format, or was changed.
        """
        path = Path(path)
        try:
            meta, frame = _parsed(path)
            split = cls(frame.astype(TEXT), **{k: meta[k] for k in META_FIELDS[1:]})
            digest = split.digest
        except FileNotFoundError as error:
            raise DataError(f"split {path} does not exist; make one first") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} is no split file ({error}); its first line must be '# ' and "
                "JSON, then CSV id,part. Make the split again"
            ) from error
        if digest != meta.get("digest"):
            raise DataError(
                f"split {path} was changed after it was written: its rows give digest "
                f"{digest}, its first line says {meta.get('digest')}. Restore the file, or "
                "make the split again; results of the two do not compare"
            )
        return split


def _parsed(path: Path) -> tuple[dict, pd.DataFrame]:
    with open(path, encoding="utf-8") as file:
        first = file.readline()
        if not first.startswith("# "):
            raise ValueError("the first line does not start with '# '")
        meta = json.loads(first[2:])
        if meta["format"] != FORMAT_VERSION:
            raise ValueError(f"format {meta['format']}, this version reads {FORMAT_VERSION}")
        frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    if list(frame.columns) != ["id", "part"]:
        raise ValueError(f"columns {list(frame.columns)} instead of id, part")
    return meta, frame


def make_split(
    table: Table,
    protocol: str = "lesion",
    test_fraction: float | None = None,
    folds: int = 5,
    seed: int = 2021,
) -> Split:
    """Deal the labelled images of a table into a test part and folds.

    The result depends on ids, labels, lesions and the seed; neither on the order of rows nor on
    that of the classes, nor on the version of any random generator.

    Args:
        table: what to split; images without a label are left out.
        protocol: "lesion": whole lesions, every class near its share in every part. "image": the
            paper's, a test part at random, then folds stratified by class; lesions are torn
            apart, so its figures are too good, and it warns.
        test_fraction: share of images in the test part, in [0, 1); 0 where the test images are a
            table of their own. None: 0.2 by lesion, 0.1 (the paper's) by image.
        folds: how many folds the rest is dealt into, at least 2.
        seed: another seed, another split; the paper's is 2021.

    Raises:
        ConfigError: a setting is out of range.
        DataError: no image has a label.

    Source: Wang et al. 2023 (SSD-KD) for the split by image. The official code draws with its
        own generator, so its very images are not reproduced, its procedure is.
    """
    if protocol not in TEST_FRACTIONS:
        raise unknown_name("protocol", protocol, TEST_FRACTIONS)
    test_fraction = TEST_FRACTIONS[protocol] if test_fraction is None else float(test_fraction)
    if not 0 <= test_fraction < 1:
        raise ConfigError(f"test_fraction is {test_fraction}; allowed is 0 <= test_fraction < 1")
    if folds < 2:
        raise ConfigError(f"folds is {folds}; at least 2, since one validates and one trains")
    rows = table.frame.iloc[table.order]
    rows = rows[rows["label"].notna()]
    if not len(rows):
        raise DataError("no image of the table has a label, so there is nothing to split")
    ids, labels, lesions = (rows[name].to_numpy(object) for name in ("id", "label", "lesion"))
    fold_names = [f"fold{k}" for k in range(folds)]
    fold_share = (1 - test_fraction) / folds
    if protocol == "lesion":
        dealt = deal(lesions, labels, [test_fraction] + [fold_share] * folds, seed)
        parts = np.array([TEST, *fold_names], dtype=object)[dealt]
    else:
        parts = np.full(len(ids), TEST, dtype=object)
        nothing = np.full(len(ids), "")  # at random: the test part knows no classes
        rest = deal(ids, nothing, [test_fraction, 1 - test_fraction], seed) == 1
        dealt = deal(ids[rest], labels[rest], [1 / folds] * folds, seed)
        parts[rest] = np.array(fold_names, dtype=object)[dealt]
        _warn_of_torn_lesions(lesions, parts)
    frame = pd.DataFrame({"id": ids, "part": parts}).astype(TEXT)
    return Split(frame, protocol, int(seed), int(folds), test_fraction, table.digest)


def torn_lesions(lesions: Names, parts: Names) -> list[str]:
    """Lesions with images in more than one part, sorted; empty for a clean split."""
    pairs = pd.DataFrame({"lesion": lesions, "part": parts}).drop_duplicates()
    return sorted(pairs["lesion"][pairs["lesion"].duplicated()].unique())


def _warn_of_torn_lesions(lesions: np.ndarray, parts: np.ndarray) -> None:
    """Say what a split by image costs, in lesions."""
    torn = torn_lesions(lesions, parts)
    tested = torn_lesions(lesions, np.where(parts == TEST, TEST, "folds"))
    warnings.warn(
        f"split by image: {len(torn)} lesions have images in more than one part ({listed(torn)}), "
        f"{len(tested)} of them both in test and in the folds. Figures on this split are too good: "
        "use protocol 'lesion' for any claim",
        stacklevel=3,
    )


def deal(
    groups: np.ndarray, labels: np.ndarray, shares: Sequence[float] | np.ndarray, seed: int
) -> np.ndarray:
    """Part of every image, int64 [images]: whole groups, every class near its share.

    Groups with the same images per class are of one kind. Kinds are dealt one after the other,
    mixed and large ones first, since small pure ones can level what those leave; within a kind,
    groups in an order drawn from the seed. Thus the cost is that of sorting, and a class is off
    its share by little more than one group.

    Args:
        groups: name of each image's group (its lesion, or its own id).
        labels: class of each image.
        shares: share of each part, >= 0, summing to 1.
        seed: changes the order within kinds.
    """
    if not len(groups):
        return np.empty(0, dtype=np.int64)
    group, group_names = pd.factorize(groups)
    label, class_names = pd.factorize(labels, sort=True)
    kinds, contents = _kinds(group, label, len(group_names))
    order = np.lexsort((_shuffle_keys(group_names, seed), kinds))
    starts = np.searchsorted(kinds[order], np.arange(len(contents) + 1))
    totals = np.bincount(label, minlength=len(class_names))
    shares = np.asarray(shares, dtype=float)
    wanted = np.repeat(shares[:, None], len(class_names), axis=1)  # [parts, classes], still to come
    part = np.empty(len(group_names), dtype=np.int64)
    for kind in sorted(range(len(contents)), key=lambda k: _difficulty(*contents[k])):
        classes, counts = contents[kind]
        members = order[starts[kind] : starts[kind + 1]]
        weight = counts / totals[classes]  # what one group gives, as a share of each of its classes
        taken = _taken(wanted[:, classes], weight, shares, len(members))
        wanted[:, classes] -= taken[:, None] * weight
        part[members] = np.repeat(np.arange(len(shares)), taken)
    return part[group]


def _difficulty(classes: np.ndarray, counts: np.ndarray) -> tuple:
    """Sorts mixed kinds before pure ones and large before small."""
    return (-len(classes), -int(counts.sum()), classes.tolist(), counts.tolist())


def _shuffle_keys(names: np.ndarray, seed: int) -> np.ndarray:
    """One number a name, drawn from name and seed alone, so that the order is everyone's."""
    digests = (hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8] for name in names)
    return np.frombuffer(b"".join(digests), dtype=">u8")


def _kinds(group: np.ndarray, label: np.ndarray, groups: int) -> tuple[np.ndarray, list]:
    """The kind of every group, and each kind's content as (class indices, images of each)."""
    classes = int(label.max()) + 1
    pairs, counts = np.unique(group * classes + label, return_counts=True)
    owner, code = pairs // classes, (pairs % classes) * (counts.max() + 1) + counts
    first = np.searchsorted(owner, np.arange(groups + 1))
    rank = np.arange(len(owner)) - first[owner]
    kinds = np.zeros(groups, dtype=np.int64)
    for place in range(int(rank.max()) + 1):  # as many rounds as a group has classes: one to three
        key = np.zeros(groups, dtype=np.int64)
        key[owner[rank == place]] = code[rank == place]
        key = np.unique(key, return_inverse=True)[1]
        kinds = np.unique(kinds * (key.max() + 1) + key, return_inverse=True)[1]
    example = np.unique(kinds, return_index=True)[1]
    spans = [slice(first[g], first[g + 1]) for g in example]
    return kinds, [(pairs[span] % classes, counts[span]) for span in spans]


def _taken(wanted: np.ndarray, weight: np.ndarray, shares: np.ndarray, groups: int) -> np.ndarray:
    """How many groups of one kind each part takes, int64 [parts], summing to `groups`.

    In proportion to what the parts still want, rounded down; the few that are left go one by one
    to the part that is fullest of want for its size, half a group counted in, so that a part whose
    share is far below one group takes none. Rare classes weigh most, as `weight` is relative.
    """
    want = np.clip(wanted @ weight, 0, None)
    if want.sum() == 0:
        want = shares
    taken = np.floor(groups * want / want.sum()).astype(np.int64)
    open_parts = np.where(shares > 0, shares, np.nan)
    for _ in range(groups - taken.sum()):
        left = (wanted - (taken[:, None] + 0.5) * weight) @ weight / open_parts
        taken[np.nanargmax(left)] += 1
    return taken

"""One table for every layout: an image's id, file, label, lesion and the patient's few facts."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from dermdistill.errors import DataError
from dermdistill.types import Metadata

REQUIRED = ("id", "path", "label")
COLUMNS = ("id", "path", "label", "lesion", "patient", "age", "sex", "site", "source")
# One storage on every machine; its missing value is <NA>, whatever else is installed.
TEXT = pd.StringDtype("python")
FIELD, RECORD = "\x1f", "\x1e"  # ASCII's own separators: no name of an image or lesion holds them
Names = Sequence[str] | np.ndarray | pd.Series
SHOWN = 5  # names that an error lists before it says how many more there are


def listed(names: Iterable[object]) -> str:
    """The first names of a list and how many more there are, for a message."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(str(name) for name in names[:SHOWN]) + more


def digest_rows(header: str, *columns: Sequence[str]) -> str:
    """SHA-256 of text columns row by row after a header, in hexadecimal."""
    rows = RECORD.join(map(FIELD.join, zip(*columns, strict=True)))
    return hashlib.sha256((header + RECORD + rows).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Table:
    """The images of a data set, one row each.

    Args:
        frame: columns `id` (unique), `path` (absolute) and `label` (a class, or missing where it
            is unknown); optional `lesion`, `patient`, `age` in years, `sex`, `site`, `source`
            (clinic or camera). Afterwards it has exactly COLUMNS; an image without a known lesion
            is a lesion of its own, under its id.
        classes: the names of the classes; their order is that of every model's outputs.

    Raises:
        DataError: a column is missing, an id is missing or there twice, a label is no class.
    """

    frame: pd.DataFrame
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "frame", _normalised(self.frame))
        self._check()

    def _check(self) -> None:
        if not len(self.frame):
            raise DataError("the table has no image; give a folder or a file that lists some")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise DataError(f"classes are {list(self.classes)}: at least one, each once")
        twice = self.frame["id"][self.frame["id"].duplicated()]
        if len(twice):
            raise DataError(
                f"{len(twice)} ids are there more than once ({listed(twice)}); "
                "an id names one image: delete or rename the others"
            )
        labels = self.frame["label"]
        foreign = labels[labels.notna() & ~labels.isin(self.classes)].unique()
        if len(foreign):
            raise DataError(
                f"labels {listed(foreign)} are no class; classes are {', '.join(self.classes)}"
            )

    def __len__(self) -> int:
        """Images, labelled or not."""
        return len(self.frame)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over id, label and lesion, in hexadecimal; the order of rows does not matter.

        Files may move and an age may be corrected without a split becoming another split.
        """
        rows = self.frame[["id", "label", "lesion"]].fillna("").iloc[self.order]
        return digest_rows("table", *(rows[name].tolist() for name in rows))

    @cached_property
    def metadata_digest(self) -> str:
        """SHA-256 over every image's age, sex and site, in hexadecimal; order does not matter."""
        rows = self.frame[["id", "age", "sex", "site"]].iloc[self.order].astype(TEXT).fillna("")
        return digest_rows("metadata", *(rows[name].tolist() for name in rows))

    @cached_property
    def order(self) -> np.ndarray:
        """Row numbers that sort the table by id, int64 [images]."""
        ids = self.frame["id"].tolist()  # a list of texts sorts in half the time of an array
        return np.array(sorted(range(len(ids)), key=ids.__getitem__))

    @cached_property
    def _index(self) -> pd.Index:
        return pd.Index(self.frame["id"].to_numpy(object))

    def rows(self, ids: Names) -> np.ndarray:
        """Row numbers of ids, int64 [ids].

        Raises:
            DataError: an id is not in the table.
        """
        rows = self._index.get_indexer(np.asarray(ids, dtype=object))
        if (rows < 0).any():
            missing = [name for name, row in zip(ids, rows, strict=True) if row < 0]
            raise DataError(
                f"{len(missing)} of {len(rows)} ids are not in the table "
                f"({listed(missing)}); is it the table of another data set?"
            )
        return rows.astype(np.int64)

    def label_codes(self, ids: Names) -> np.ndarray:
        """Class indices of ids, int64 [ids]; -1 where the label is unknown."""
        return self._codes[self.rows(ids)]

    def metadata(self, ids: Names) -> Metadata:
        """Age, sex and site of ids; names in lower case, so that one spelling means one thing."""
        rows = self.frame.iloc[self.rows(ids)]
        names = [
            np.array(
                [None if pd.isna(n) else n.strip().lower() or None for n in rows[fact]], object
            )
            for fact in ("sex", "site")
        ]
        return Metadata(rows["age"].to_numpy(np.float64), *names)

    @cached_property
    def _codes(self) -> np.ndarray:
        names = pd.Index(np.array(self.classes, dtype=object))
        return names.get_indexer(self.frame["label"].to_numpy(object)).astype(np.int64)


def _normalised(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with exactly COLUMNS, their types, and no missing lesion."""
    absent = [name for name in REQUIRED if name not in frame]
    if absent:
        raise DataError(
            f"the table has no column {listed(absent)}; it has "
            f"{', '.join(map(str, frame.columns))}; it needs {', '.join(REQUIRED)}"
        )
    frame = frame.reindex(columns=list(COLUMNS)).reset_index(drop=True)
    frame = frame.astype({name: float if name == "age" else TEXT for name in COLUMNS})
    blank = frame["id"].isna() | (frame["id"] == "")
    if blank.any():
        raise DataError(
            f"{int(blank.sum())} rows have no id (first: row {blank.argmax()}, counted "
            "from 0); give each image its id"
        )
    frame["lesion"] = frame["lesion"].fillna(frame["id"])
    return frame

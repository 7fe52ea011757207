"""Predicted probabilities of many images, with their truth, as files that any tool can read.

The two files are ISIC's own forms: a submission (`image,MEL,NV,...`, one row an image) and a
ground truth (the same header, one-hot). Every figure can be computed again from them alone.
"""

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from dermdistill.errors import DataError
from dermdistill.run import write_csv

UNKNOWN = -1  # the label of an image whose truth is not known
ID_COLUMN = "image"
UNKNOWN_COLUMN = "UNK"  # ISIC 2019's name for "none of the classes"
SUM_TOLERANCE = 1e-4  # float16 inference and rounded files stay within it; unnormalised rows do not


@dataclass(frozen=True, eq=False)
class Predictions:
    """Class probabilities in [0, 1] of many images, and their true classes where known.

    Args:
        ids: one unique name an image.
        classes: unique class names, in the order of the probabilities' columns.
        probabilities: float64 [images, classes] in [0, 1], rows sum to 1 within `SUM_TOLERANCE`.
        labels: int64 [images] index of the true class, -1 where it is unknown.

    Raises:
        DataError: a shape, an id, a probability or a label is wrong; the message names the row.
    """

    ids: list[str]
    classes: tuple[str, ...]
    probabilities: np.ndarray  # a wrong shape is a DataError that says what to pass, in use too
    labels: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", [str(name) for name in self.ids])
        object.__setattr__(self, "classes", tuple(str(name) for name in self.classes))
        object.__setattr__(self, "probabilities", np.asarray(self.probabilities, np.float64))
        object.__setattr__(self, "labels", np.asarray(self.labels, np.int64))
        self._check_shapes()
        self._check_values()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def predicted(self) -> Int64[np.ndarray, " images"]:
        """Index of the most probable class, [images]; the first of equal ones."""
        return self.probabilities.argmax(axis=1)

    def subset(self, rows: Int64[np.ndarray, " chosen"]) -> "Predictions":
        """Some of the images, in the order of `rows`."""
        ids = [self.ids[row] for row in rows]
        return Predictions(ids, self.classes, self.probabilities[rows], self.labels[rows])

    def save(self, path: str | os.PathLike) -> None:
        """Write the probabilities in ISIC's submission form, with every digit a float64 has."""
        rows = self.probabilities.tolist()  # Python floats print the shortest exact decimals
        _write_rows(path, self.classes, self.ids, rows)

    def save_truth(self, path: str | os.PathLike) -> None:
        """Write the labels in ISIC's one-hot form; an unknown label is 1 in the column UNK."""
        columns = (
            self.classes if UNKNOWN_COLUMN in self.classes else (*self.classes, UNKNOWN_COLUMN)
        )
        hot = np.zeros((len(self), len(columns)))
        known = self.labels != UNKNOWN
        hot[known, self.labels[known]] = 1
        if len(columns) > len(self.classes):
            hot[~known, -1] = 1
        _write_rows(path, columns, self.ids, hot.tolist())

    @classmethod
    def load(
        cls, predictions_path: str | os.PathLike, truth_path: str | os.PathLike | None = None
    ) -> "Predictions":
        """Read what `save` and `save_truth` wrote, or another tool's files of the same form.

        Args:
            predictions_path: the submission form.
            truth_path: the one-hot form. It is joined by id, never by position, so it may stand
                in another order and name more images. Without it every label is -1.

        Raises:
            DataError: a file is missing or malformed, or the two do not fit each other.
        """
        classes, ids, probabilities = _read_rows(predictions_path)
        if truth_path is None:
            labels = np.full(len(ids), UNKNOWN, np.int64)
        else:
            labels = _labels_of(ids, classes, truth_path)
        return cls(ids, classes, probabilities, labels)

    def _check_shapes(self) -> None:
        images, classes = len(self.ids), len(self.classes)
        if self.probabilities.shape != (images, classes):
            raise DataError(
                f"probabilities have shape {self.probabilities.shape}, but {images} ids and "
                f"{classes} classes need ({images}, {classes}); pass one row an id"
            )
        if self.labels.shape != (images,):
            raise DataError(
                f"labels have shape {self.labels.shape}, but {images} ids need ({images},); "
                f"pass {UNKNOWN} where a label is unknown"
            )
        for kind, names in (("image id", self.ids), ("class", self.classes)):
            twice = _first_repeated(names)
            if twice is not None:
                raise DataError(
                    f"{kind} {twice!r} stands there twice; keep one row or column of it"
                )

    def _check_values(self) -> None:
        values, classes = self.probabilities, len(self.classes)
        sums = values.sum(axis=1)
        checks = (
            (~np.isfinite(values).all(axis=1), "holds a value that is no finite number"),
            (((values < 0) | (values > 1)).any(axis=1), "holds a probability outside [0, 1]"),
            (np.abs(sums - 1) > SUM_TOLERANCE, f"does not sum to 1 within {SUM_TOLERANCE:g}"),
        )
        for wrong, what in checks:
            if wrong.any():
                row = int(np.argmax(wrong))
                raise DataError(
                    f"the row of image {self.ids[row]!r} {what}: {values[row].tolist()}; "
                    "probabilities must come from a softmax, not logits"
                )
        outside = (self.labels < UNKNOWN) | (self.labels >= classes)
        if outside.any():
            row = int(np.argmax(outside))
            raise DataError(
                f"image {self.ids[row]!r} has label {self.labels[row]}; allowed: 0 to "
                f"{classes - 1}, or {UNKNOWN} for unknown"
            )


def _first_repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _write_rows(
    path: str | os.PathLike, columns: Iterable[str], ids: list[str], rows: list[list[float]]
) -> None:
    named = ([name, *row] for name, row in zip(ids, rows, strict=True))
    write_csv(path, [ID_COLUMN, *columns], named)


def _read_rows(path: str | os.PathLike) -> tuple[tuple[str, ...], list[str], np.ndarray]:
    """The columns after `image`, the ids and the numbers [images, columns] of a CSV file."""
    if not Path(path).is_file():
        raise DataError(f"{path} does not exist; evaluate the run to write it")
    with open(path, newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file) if line]
    if not lines or lines[0][0] != ID_COLUMN or len(lines[0]) < 2:
        raise DataError(
            f"{path} has no header {ID_COLUMN!r},CLASS,...; its first line must name the columns"
        )
    columns, ids, rows = tuple(lines[0][1:]), [], []
    for name, *cells in lines[1:]:
        if len(cells) != len(columns):
            raise DataError(
                f"{path}: the row of image {name!r} has {len(cells)} values, the header names "
                f"{len(columns)}; write the file again"
            )
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError as error:
            raise DataError(
                f"{path}: the row of image {name!r} holds a value that is no finite number "
                f"({error}); write the file again"
            ) from error
        ids.append(name)
    return columns, ids, np.array(rows, np.float64).reshape(len(ids), len(columns))


def _labels_of(ids: list[str], classes: tuple[str, ...], path: str | os.PathLike) -> np.ndarray:
    """Labels [images] of `ids` from a one-hot file, -1 where it says UNK or nothing."""
    columns, truth_ids, hot = _read_rows(path)
    if {*columns} - {UNKNOWN_COLUMN} != {*classes} - {UNKNOWN_COLUMN}:
        raise DataError(
            f"{path} has the classes {', '.join(columns)}, the predictions "
            f"{', '.join(classes)}; both must name the same classes (in any order)"
        )
    twice = _first_repeated(truth_ids) or _first_repeated(columns)
    if twice is not None:
        raise DataError(f"{path} names {twice!r} twice; keep one row or column of it")
    wrong = ~np.isin(hot, (0, 1)).all(axis=1) | (hot.sum(axis=1) > 1)
    if wrong.any():
        raise DataError(
            f"{path}: the row of image {truth_ids[int(np.argmax(wrong))]!r} is not one-hot; "
            "write a single 1 and zeros"
        )
    row_of = {name: row for row, name in enumerate(truth_ids)}
    missing = [name for name in ids if name not in row_of]
    if missing:
        raise DataError(
            f"{path} has no row for {len(missing)} of {len(ids)} predicted images, first "
            f"{missing[0]!r}; pass the truth of the same part of the split"
        )
    code_of = {name: code for code, name in enumerate(classes)}
    codes = np.array([code_of.get(name, UNKNOWN) for name in columns], np.int64)
    hot = hot[[row_of[name] for name in ids]]
    return np.where(hot.any(axis=1), codes[hot.argmax(axis=1)], UNKNOWN)

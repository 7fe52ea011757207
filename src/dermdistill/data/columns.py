"""Columns of a CSV file, checked: what every reader of a table asks of its files."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dermdistill.data.table import listed
from dermdistill.errors import DataError

UNKNOWN_WORDS = ("", "unknown", "unk", "n/a")  # how the archives write that a fact is not known
FIRST_ROW = 2  # people count from 1, and the header is row 1


def read_csv(path: Path, key: str, required: Sequence[str]) -> pd.DataFrame:
    """A CSV file whose key column is text, complete and without repeats.

    Args:
        path: the file.
        key: the column of image ids.
        required: columns that must be there.

    Raises:
        DataError: the file is no CSV, or a column or an id is missing or there twice.
    """
    try:
        header = pd.read_csv(path, header=None, nrows=1, dtype=str, encoding="utf-8-sig")
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            frame = pd.read_csv(
                path,
                dtype={key: str, "lesion_id": str, "patient_id": str},
                index_col=False,
                low_memory=False,
                encoding="utf-8-sig",
                skipinitialspace=True,
            )
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}; fetch or export it again") from (
            error
        )
    columns = header.iloc[0]
    repeated = columns[columns.duplicated() & columns.notna()]
    if len(repeated):
        raise DataError(f"{path} names the column {listed(repeated)} twice; keep one of them")
    absent = [name for name in required if name not in frame]
    if absent:
        raise DataError(
            f"{path} has no column {listed(absent)}; its header is "
            f"{','.join(map(str, frame.columns))}; it needs {','.join(required)}"
        )
    _check_key(frame[key], path)
    return frame


def _check_key(ids: pd.Series, path: Path) -> None:
    if not len(ids):
        raise DataError(f"{path} has a header but no row; fetch or export it again")
    if ids.isna().any():
        row = int(ids.isna().argmax()) + FIRST_ROW
        raise DataError(f"{path} row {row}, column {ids.name}: the image id is missing; fill it in")
    twice = ids.duplicated()
    if twice.any():
        raise DataError(
            f"{path} row {int(twice.argmax()) + FIRST_ROW}, column {ids.name}: "
            f"{int(twice.sum())} ids were listed before ({listed(ids[twice])}); "
            "keep one row an image"
        )


def place(frame: pd.DataFrame, key: str, row: int) -> str:
    """Where in its file a row is, for a message; `row` counts from 0."""
    return f"row {row + FIRST_ROW} ({frame[key].iloc[row]})"


def numbers(frame: pd.DataFrame, column: str, key: str, path: Path) -> pd.Series | float:
    """A column as float, NaN where not known or where there is no such column.

    Raises:
        DataError: a value is no number.
    """
    values = known(frame, column)
    if values is None:
        return np.nan
    found = pd.to_numeric(values, errors="coerce")
    wrong = found.isna() & values.notna()
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{path} {place(frame, key, row)}, column {column}: "
            f"{frame[column].iloc[row]!r} is no number; correct or empty it"
        )
    return found


def known(frame: pd.DataFrame, column: str) -> pd.Series | None:
    """A column without the words that say "not known"; None where there is no such column."""
    if column not in frame:
        return None
    values = frame[column]
    if values.dtype.kind in "biuf":  # all numbers, or all empty
        return values
    found = values.dropna().unique()  # a million rows share a few words
    unknown = [word for word in found if str(word).strip().lower() in UNKNOWN_WORDS]
    return values.where(~values.isin(unknown))

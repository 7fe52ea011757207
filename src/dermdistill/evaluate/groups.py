"""Whose images they are: lesion, patient, age, sex and site beside the predictions of a part.

A file of its own (`groups-PART.csv`), so that the predictions stay in ISIC's submission form. Any
further column of it is a further grouping.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int64

from dermdistill.errors import DataError
from dermdistill.evaluate.predictions import ID_COLUMN
from dermdistill.run import atomic_write

LESION, PATIENT, AGE, SOURCE = "lesion", "patient", "age", "source"
COLUMNS = (LESION, PATIENT, AGE, "sex", "site", SOURCE)
UNITS = (LESION, PATIENT)  # who an image belongs to; every other column is a grouping
BAND_YEARS = 20  # width of an age band: ISIC gives ages in steps of five years


def save_groups(path: str | os.PathLike, ids: Sequence[str], facts: pd.DataFrame) -> None:
    """Write what is known of each image.

    Args:
        path: the file.
        ids: the images, in the order of the rows.
        facts: one row an image; of `COLUMNS`, those it has. A source that no image has is left
            out: few tables name any.
    """
    columns = [name for name in COLUMNS if name in facts]
    if SOURCE in columns and facts[SOURCE].isna().all():
        columns.remove(SOURCE)
    frame = facts[columns].set_axis(pd.Index(list(ids), name=ID_COLUMN))
    with atomic_write(path) as temporary:
        frame.to_csv(temporary, lineterminator="\n")


def load_groups(path: str | os.PathLike, ids: Sequence[str]) -> pd.DataFrame:
    """What is known of images, one row an id in the order asked; `lesion` is never missing.

    An image without a known lesion is a lesion of its own; so is every image where there is no
    file (a run of an older version), which then has no other column.

    Raises:
        DataError: the file is no CSV with a column `image`, or it lacks an id.
    """
    index = pd.Index([str(name) for name in ids], name=ID_COLUMN)
    if not Path(path).is_file():
        return pd.DataFrame({LESION: index}, index=index)
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}; evaluate the run again") from error
    if ID_COLUMN not in frame or frame[ID_COLUMN].duplicated().any():
        raise DataError(
            f"{path} needs a column {ID_COLUMN!r} with each id once; evaluate the run again"
        )
    frame = frame.set_index(ID_COLUMN)
    missing = index.difference(frame.index)
    if len(missing):
        raise DataError(
            f"{path} has no row for {len(missing)} of {len(index)} images, first {missing[0]!r}; "
            "evaluate the run again"
        )
    frame = frame.reindex(index)
    lesions = frame.get(LESION, pd.Series(index=index, dtype=object))
    return frame.assign(**{LESION: lesions.where(lesions.notna(), index.to_series())})


def units_of(groups: pd.DataFrame) -> Int64[np.ndarray, " images"]:
    """Code of the unit that each image belongs to, from 0: its patient where known, else lesion.

    Images of one unit resemble each other, so units, not images, are what a bootstrap draws.
    """
    names = "lesion " + groups[LESION].astype(str)
    if PATIENT in groups:
        known = groups[PATIENT].notna()
        names = names.where(~known, "patient " + groups[PATIENT].astype(str))
    return np.unique(names.to_numpy(str), return_inverse=True)[1].astype(np.int64)


def groupings(groups: pd.DataFrame) -> dict[str, pd.Series]:
    """Every grouping that divides the images: column -> group of each image, missing as it comes.

    Ages become bands of `BAND_YEARS`; a column with fewer than two groups divides nothing.
    """
    found = {}
    for name in groups.columns:
        if name in UNITS:
            continue
        column = _bands(groups[name]) if name == AGE else groups[name]
        if column.nunique() > 1:
            found[name] = column
    return found


def _bands(ages: pd.Series) -> pd.Series:
    years = pd.to_numeric(ages, errors="coerce")
    first = (years // BAND_YEARS * BAND_YEARS).astype("Int64")
    names = first.astype(str) + "–" + (first + BAND_YEARS - 1).astype(str)
    return names.where(years.notna())

"""Hits and misses as small embedded pictures, so that a reader sees what the figures are about."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dermdistill.data.store import Store
from dermdistill.errors import DermdistillError
from dermdistill.evaluate.predictions import UNKNOWN, Predictions
from dermdistill.report.runs import RunRecord

SHOWN = 8  # pictures in each of the two rows
THUMBNAIL_PX = 144  # sharp on a dense screen at half that width, about 6 kB as JPEG
JPEG_QUALITY = 78


def examples(record: RunRecord) -> dict[str, Any]:
    """The surest hits and the surest misses on the test part, at most `SHOWN` of each.

    Classes take turns, so that a common class does not fill the row.

    Returns:
        hits, misses: lists of {id, truth, prediction, confidence in [0, 1], source (data URL)};
        note: why they are empty, or None.
    """
    try:
        predictions = Predictions.load(
            record.folder / "predictions-test.csv", record.folder / "truth-test.csv"
        )
        store = _open_store(record)
        right = predictions.predicted == predictions.labels
        known = predictions.labels != UNKNOWN
        shown = {
            "hits": _pictures(predictions, _surest(predictions, known & right), store),
            "misses": _pictures(predictions, _surest(predictions, known & ~right), store),
        }
    except DermdistillError as error:
        return {"hits": [], "misses": [], "note": f"No examples are shown: {error}."}
    return shown | {"note": None}


def _open_store(record: RunRecord) -> Store:
    """The store the run was made from; a store that was packed anew is another one."""
    named = record.provenance.get("store") or {}
    if not named.get("folder"):
        raise DermdistillError("the run does not say which packed store it read")
    folder = Path(named["folder"])
    places = [folder] if folder.is_absolute() else [record.folder / folder, folder]
    here = [place for place in places if place.is_dir()]
    if not here:
        raise DermdistillError(f"the packed store {folder.name!r} is not there any more")
    store = Store.open(here[0])
    if named.get("digest") not in (None, store.digest):
        raise DermdistillError(f"the packed store {folder.name!r} has changed since the run")
    return store


def _surest(predictions: Predictions, wanted: np.ndarray) -> list[int]:
    """Rows in order of confidence, one a true class in turn."""
    confidence = predictions.probabilities.max(axis=1)
    queues: dict[int, list[int]] = {}
    for row in np.argsort(-confidence, kind="stable"):
        if wanted[row]:
            queues.setdefault(int(predictions.labels[row]), []).append(int(row))
    chosen: list[int] = []
    while queues and len(chosen) < SHOWN:
        for label in sorted(queues):
            chosen.append(queues[label].pop(0))
            if not queues[label]:
                del queues[label]
    return chosen[:SHOWN]


def _pictures(predictions: Predictions, rows: list[int], store: Store) -> list[dict[str, Any]]:
    names = [predictions.ids[row] for row in rows]
    return [
        {
            "id": name,
            "truth": predictions.classes[predictions.labels[row]],
            "prediction": predictions.classes[predictions.predicted[row]],
            "confidence": float(predictions.probabilities[row].max()),
            "source": _data_url(store.images[place]),
        }
        for name, row, place in zip(names, rows, store.rows(names), strict=True)
    ]


def _data_url(pixels: np.ndarray) -> str:
    image = Image.fromarray(np.asarray(pixels))
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")

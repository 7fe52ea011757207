"""What is wrong with a data set before it is trained on: broken files, copies, leaks, gaps."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dermdistill.data.hashes import NEAR_BITS, near_pairs, perceptual_hashes
from dermdistill.data.splits import Split, torn_lesions
from dermdistill.data.table import Table

SHOWN_ROWS = 10  # of each list in the text; the findings hold them all
# What spoils a result, in the order of the text: what it is, and what to do.
SPOILERS = {
    "missing": ("images have no file", "fetch them again, or drop their rows from the table"),
    "unreadable": ("images cannot be decoded", "fetch them again; packing leaves them out"),
    "torn_lesions": (
        "lesions lie in more than one part of the split",
        "split with protocol 'lesion'; results on this split are too good",
    ),
    "torn_duplicates": (
        "pairs of near-duplicate images lie in two parts of the split",
        "give both images of a pair the same lesion id and split again",
    ),
    "absent_classes": (
        "times a part has no image of a class, so its recall there is undefined",
        "use fewer folds, gather more images of it, or leave it out with classes=",
    ),
}
# What is worth a look and spoils nothing by itself.
NOTES = {
    "duplicates_across_lesions": (
        "pairs of near-duplicate images have different lesion ids",
        "look at them; if they show one lesion, give them one lesion id",
    ),
    "duplicates_across_labels": (
        "pairs of near-duplicate images have different labels",
        "look at them; one label is wrong",
    ),
    "mixed_lesions": ("lesions have images of several classes", "check their labels"),
}


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Args:
        findings: JSON-ready. Counts: `images`, `labelled`, `lesions`, `classes` (images of each),
            `parts` (the same for every part), `images_hashed`, `near_bits`. Lists:
            `near_duplicates` (all pairs: ids, distance_bits, lesions, labels), and those of
            SPOILERS and NOTES, empty where all is well.
    """

    findings: dict = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether nothing was found that spoils a result."""
        return not any(self.findings[name] for name in SPOILERS)

    def text(self) -> str:
        """Counts, the first rows of every list, and what to do about them."""
        found = self.findings
        lines = [
            f"{found['images']} images of {found['lesions']} lesions, "
            f"{found['images'] - found['labelled']} without a label",
            *_class_lines(found),
            f"{found['images_hashed']} images compared, "
            f"{len(found['near_duplicates'])} near-duplicate pairs "
            f"(at most {found['near_bits']} bits apart)"
            if found["images_hashed"]
            else "no image was opened or compared",
        ]
        for mark, names in (("PROBLEM", SPOILERS), ("note", NOTES)):
            for name, (what, remedy) in names.items():
                if found[name]:
                    lines += [f"{mark}: {len(found[name])} {what}. What to do: {remedy}."]
                    lines += _shown(found[name])
        lines.append("The audit found nothing that spoils a result." if self.ok
                     else "The audit found problems; see PROBLEM above.")  # fmt: skip
        return "\n".join(lines)


def _class_lines(found: dict) -> list[str]:
    """Images of every class, whole and by part, as an aligned table."""
    columns = {"all": found["classes"], **found["parts"]}
    width = max(len(name) for name in (*columns, *found["classes"], "images of")) + 2
    head = "images of".ljust(width) + "".join(name.rjust(width) for name in columns)
    rows = [
        name.ljust(width) + "".join(str(counts[name]).rjust(width) for counts in columns.values())
        for name in found["classes"]
    ]
    return [head, *rows]


def _shown(rows: Sequence) -> list[str]:
    """The first rows of a list, indented."""
    lines = []
    for row in rows[:SHOWN_ROWS]:
        pairs = row.items() if isinstance(row, dict) else [("", row)]
        lines.append("  " + "  ".join(f"{name} {_plain(value)}".strip() for name, value in pairs))
    if len(rows) > SHOWN_ROWS:
        lines.append(f"  and {len(rows) - SHOWN_ROWS} more")
    return lines


def _plain(value: object) -> str:
    return " | ".join(map(str, value)) if isinstance(value, list) else str(value)


def audit(
    table: Table,
    split: Split | None = None,
    images: bool = True,
    progress: bool = True,
    workers: int | None = None,
) -> Audit:
    """Look for missing, unreadable and near-duplicate images, leaks and absent classes.

    Args:
        table: the data set.
        split: a split of it, to look for lesions and duplicates on two sides.
        images: decode and hash every image (about 2 ms each and core); without, only names are
            compared with the folders.
        progress: show a bar with the time left on a terminal.
        workers: processes; None: one a core.

    Raises:
        DataError: the split is of another table.
    """
    if split is not None:
        split.check(table)
    frame = table.frame
    missing = _missing(frame["path"])
    there = frame[~missing].reset_index(drop=True)
    paths = there["path"].tolist() if images else []
    hashes = perceptual_hashes(paths, workers, progress)
    unreadable = [{"id": name, "reason": found}
                  for name, found in zip(there["id"], hashes, strict=False)
                  if isinstance(found, str)]  # fmt: skip
    readable = [row for row, found in enumerate(hashes) if isinstance(found, bytes)]
    duplicates = _duplicates(there, readable, hashes)
    parts = dict(zip(split.frame["id"], split.frame["part"], strict=True)) if split else {}
    return Audit(
        {
            "images": len(frame),
            "labelled": int(frame["label"].notna().sum()),
            "lesions": int(frame["lesion"].nunique()),
            "images_hashed": len(readable),
            "near_bits": NEAR_BITS,
            "missing": frame["id"][missing].tolist(),
            "unreadable": unreadable,
            "near_duplicates": duplicates,
            "duplicates_across_lesions": [d for d in duplicates if len(set(d["lesions"])) > 1],
            "duplicates_across_labels": [d for d in duplicates if len({*d["labels"]} - {None}) > 1],
            "mixed_lesions": _mixed_lesions(frame),
            "torn_duplicates": _torn_duplicates(duplicates, parts),
            **_of_parts(table, split),
        }
    )


def _missing(paths: pd.Series) -> np.ndarray:
    """Which files are not there, one listing a folder: a million single look-ups take minutes."""
    names: dict[str, set[str]] = {}
    there = np.zeros(len(paths), dtype=bool)
    for row, path in enumerate(paths.tolist()):
        folder, name = os.path.split(path)
        if folder not in names:
            names[folder] = set(os.listdir(folder)) if Path(folder).is_dir() else set()
        there[row] = name in names[folder]
    return ~there


def _duplicates(frame: pd.DataFrame, rows: list[int], hashes: list) -> list[dict]:
    """Near-duplicate pairs, the nearest first."""
    if not rows:
        return []
    packed = np.frombuffer(b"".join(hashes[row] for row in rows), dtype=np.uint8)
    pairs = near_pairs(packed.reshape(len(rows), -1))
    kept = frame.iloc[rows]
    ids, lesions = kept["id"].tolist(), kept["lesion"].tolist()
    labels = kept["label"].astype(object).where(kept["label"].notna(), None).tolist()
    return [
        {
            "ids": [ids[a], ids[b]],
            "distance_bits": int(distance),
            "lesions": [lesions[a], lesions[b]],
            "labels": [labels[a], labels[b]],
        }
        for a, b, distance in pairs[np.argsort(pairs[:, 2], kind="stable")]
    ]


def _mixed_lesions(frame: pd.DataFrame) -> list[dict]:
    labels = frame[frame["label"].notna()].drop_duplicates(["lesion", "label"])
    mixed = labels[labels["lesion"].duplicated(keep=False)].sort_values(["lesion", "label"])
    return [
        {"lesion": lesion, "labels": rows.tolist()}
        for lesion, rows in mixed.groupby("lesion")["label"]
    ]


def _torn_duplicates(duplicates: list[dict], parts: dict[str, str]) -> list[dict]:
    torn = []
    for pair in duplicates:
        sides = [parts.get(name) for name in pair["ids"]]
        if None not in sides and len(set(sides)) > 1:
            torn.append({**pair, "parts": sides})
    return torn


def _of_parts(table: Table, split: Split | None) -> dict:
    """Counts of every class by part, classes absent from a part, and lesions in several."""
    labels = table.frame[["id", "label", "lesion"]].dropna()
    whole = labels["label"].value_counts()
    classes = {name: int(whole.get(name, 0)) for name in table.classes}
    parts: dict[str, dict[str, int]] = {}
    torn: list[str] = []
    if split is not None:
        dealt = labels.merge(split.frame, on="id")
        counts = pd.crosstab(dealt["part"], dealt["label"])
        filled = [part for part in split.parts if part in counts.index or part != "test"]
        counts = counts.reindex(index=filled, columns=list(table.classes), fill_value=0)
        parts = {part: {c: int(n) for c, n in counts.loc[part].items()} for part in filled}
        torn = torn_lesions(dealt["lesion"], dealt["part"])
    absent = [
        {"part": part, "class": name}
        for part, counted in parts.items()
        for name, images in counted.items()
        if not images
    ]
    return {"classes": classes, "parts": parts, "torn_lesions": torn, "absent_classes": absent}

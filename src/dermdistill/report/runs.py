"""Run directories as the report reads them: what is there, what is missing, who taught whom."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dermdistill.errors import RunError
from dermdistill.run import digest_of, read_json

PARTS = ("test", "validation")
FIGURES = ("images", "accuracy", "balanced_accuracy", "macro_auc", "per_class", "confusion_matrix")
PRETEXT_STAGE = "pretext"


@dataclass(frozen=True, eq=False, repr=False)
class RunRecord:
    """One finished run, read once; `notes` says which optional files were not there.

    Args:
        folder: the run directory, resolved.
        metrics: metrics.json, checked to hold every figure of both parts.
        provenance: provenance.json, or {}.
        config: config.yaml as text, or None.
        history: the lines of history.jsonl that belong to the run's own training.
        pretext_history: those of the pretext stage, its own or of the run it names.
        parity: parity.json: format -> its distance from torch, or None where it is unverified;
            empty where nothing was exported.
        teacher: the teacher's run directory, resolved, or None.
        notes: sentences for the reader about what is missing.
        label: the run's name on a page, see `names`.
        group: that of its family.
        series: place of the family's colour and sign.
    """

    folder: Path
    metrics: dict[str, Any]
    provenance: dict[str, Any]
    config: str | None
    history: list[dict[str, Any]]
    pretext_history: list[dict[str, Any]]
    parity: dict[str, dict[str, Any] | None]
    teacher: Path | None
    notes: list[str] = field(default_factory=list)
    label: str = ""
    group: str = ""
    series: int = 0

    @property
    def family(self) -> tuple[str, str]:
        """Method and network, and a digest of all settings but the seed.

        Runs of one family differ by their seed alone (and by that of their teacher).
        """
        made = self.provenance
        key = {k: v for k, v in (made.get("key") or {}).items() if k not in ("seed", "upstream")}
        name = f"{made.get('method') or self.stage}, {made.get('network') or self.name}"
        return name, digest_of(key)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def stage(self) -> str:
        """What the run trained: teacher or student."""
        return str(self.provenance.get("stage") or "run")

    @property
    def kept_epoch(self) -> int | None:
        """The epoch whose weights were kept, from 1 as the terminal counts; files count from 0."""
        selected = self.metrics.get("selected_epoch")
        return None if selected is None else selected + 1

    @property
    def split_digest(self) -> str | None:
        """The digest of the split; figures of two runs compare only where it is equal."""
        return (self.provenance.get("split") or {}).get("digest")


def read_runs(folders: Iterable[str | os.PathLike]) -> list[RunRecord]:
    """The runs in the order given, then the teachers they name that were not given.

    Raises:
        RunError: no run was given, or one of them is not finished.
    """
    records: dict[Path, RunRecord] = {}
    for folder in folders:
        record = read_run(folder)
        records.setdefault(record.folder, record)
    if not records:
        raise RunError("no run to report on; pass one or more run directories")
    for student in list(records.values()):
        if student.teacher is None or student.teacher in records:
            continue
        try:
            records[student.teacher] = read_run(student.teacher)
        except RunError as error:
            student.notes.append(f"Its teacher's run could not be read: {error}")
    return list(records.values())


def read_run(folder: str | os.PathLike) -> RunRecord:
    """Read one run directory; optional files may be missing.

    Raises:
        RunError: the folder or its metrics.json is missing or broken.
    """
    folder, notes = Path(folder).resolve(), []
    if not folder.is_dir():
        raise RunError(f"no run directory {folder}; pass the folder that training wrote")
    metrics = _read_metrics(folder)
    provenance = _optional_json(folder / "provenance.json", notes) or {}
    history = _read_history(folder, notes)
    pretext = [row for row in history if row.get("stage") == PRETEXT_STAGE]
    if not pretext and provenance.get("pretext_run"):
        pretext = _read_history(folder / provenance["pretext_run"], notes)
    config = folder / "config.yaml"
    if not config.is_file():
        notes.append("config.yaml is missing: the settings cannot be shown.")
    teacher = provenance.get("teacher_run")
    return RunRecord(
        folder=folder,
        metrics=metrics,
        provenance=provenance,
        config=config.read_text(encoding="utf-8") if config.is_file() else None,
        history=[row for row in history if row.get("stage") != PRETEXT_STAGE],
        pretext_history=pretext,
        parity=read_json(parity) if (parity := folder / "parity.json").is_file() else {},
        teacher=(folder / teacher).resolve() if teacher else None,
        notes=notes,
    )


def _read_metrics(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    if not path.is_file():
        raise RunError(
            f"{folder} has no metrics.json: the run is not finished, or it is no teacher's or "
            "student's run. Continue it with its own command, then report again"
        )
    metrics = read_json(path)
    if folder.name.startswith(PRETEXT_STAGE) and PARTS[0] not in metrics:
        raise RunError(
            f"{folder} is a pretext stage, which has no figures of its own; pass the student's "
            "run, whose page shows the pretext's curve too"
        )
    for part in PARTS:
        figures = metrics.get(part) or {}
        lacking = [name for name in FIGURES if name not in figures]
        if lacking:
            raise RunError(
                f"{path} lacks {', '.join(lacking)} for {part!r}: another version wrote it. "
                "Evaluate the run again"
            )
    return metrics


def _optional_json(path: Path, notes: list[str]) -> Any:
    if path.is_file():
        return read_json(path)
    notes.append(f"{path.name} is missing: what made this run cannot be shown.")
    return None


def _read_history(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The lines of history.jsonl; a last line cut short by a killed run is dropped."""
    path = folder / "history.jsonl"
    if not path.is_file():
        notes.append(f"{folder.name}/history.jsonl is missing: its curves are left out.")
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                notes.append(f"line {number} of {folder.name}/history.jsonl is no JSON: left out.")
    return rows

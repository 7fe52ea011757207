"""Runs -> one HTML page that needs nothing but a browser: no network, no script, no other file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dermdistill.report import figures, words
from dermdistill.report.examples import examples
from dermdistill.report.runs import PARTS, RunRecord, read_runs
from dermdistill.run import RESEARCH_NOTICE, write_text

TITLE_NAMES = 2  # a title that names more runs is no title
TEMPLATES = Path(__file__).parent / "templates"


def write_report(runs: Sequence[str | os.PathLike], path: str | os.PathLike) -> Path:
    """Write one self-contained HTML page about some runs; returns where it stands.

    A student brings its teacher along, so that the two stand side by side. A section whose
    files are missing is left out, with a note that says so.

    Args:
        runs: run directories, most important first; the summary is about the first.
        path: the page to write; it is whole or absent.

    Raises:
        RunError: no run, an unfinished one, or a page that cannot be written.
    """
    records = read_runs(runs)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,  # names of runs, classes and images come from files
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        name: getattr(words, name)
        for name in ("percent", "area", "count", "magnitude", "plain", "duration")
    }
    page = environment.get_template("report.html.j2").render(_page(records))
    write_text(path, page)
    return Path(path)


def _page(records: list[RunRecord]) -> dict[str, Any]:
    by_folder = {record.folder: record for record in records}
    first = records[0]
    teacher = by_folder.get(first.teacher)
    return {
        "notice": RESEARCH_NOTICE,
        "title": _title([record.name for record in records]),
        "parts": PARTS,
        "cards": _cards(first, teacher),
        "findings": words.findings(first, teacher),
        "cautions": words.cautions(records),
        "trade_off": _markup(figures.trade_off_figure(_points(records))),
        "class_figure": _markup(_class_figure(records)),
        "runs": [_run(index, record, by_folder) for index, record in enumerate(records)],
    }


def _title(names: list[str]) -> str:
    if len(names) <= TITLE_NAMES:
        return " and ".join(names)
    return f"{', '.join(names[:TITLE_NAMES])} and {len(names) - TITLE_NAMES} more"


def _cards(student: RunRecord, teacher: RunRecord | None) -> list[dict[str, str]]:
    """The key figures of the first run, each with its teacher's beneath."""

    def card(label: str, value: str, unit: str, other: str) -> dict[str, str]:
        under = f"teacher {other}{unit}" if teacher is not None else "no teacher"
        return {"label": label, "value": value, "unit": unit, "under": under}

    mine = student.metrics["test"]
    theirs = teacher.metrics["test"] if teacher else {}
    cost = [words.cost(student, name) for name in ("size_mb", "multiply_adds")]
    other = [
        words.cost(teacher, name) if teacher else None for name in ("size_mb", "multiply_adds")
    ]
    return [
        card("Balanced accuracy, test", words.percent(mine["balanced_accuracy"]), " %",
             words.percent(theirs.get("balanced_accuracy"))),
        card("Macro AUC, test", words.area(mine["macro_auc"]), "",
             words.area(theirs.get("macro_auc"))),
        card("Size", words.plain(cost[0]), " MB", words.plain(other[0])),
        card("Multiply-adds", words.magnitude(cost[1]), "", words.magnitude(other[1])),
    ]  # fmt: skip


def _points(records: list[RunRecord]) -> list[dict[str, Any]]:
    places = {record.folder: place for place, record in enumerate(records)}
    return [
        {
            "index": index,
            "tag": record.name,
            "parameters": words.cost(record, "parameters"),
            "balanced_accuracy": record.metrics["test"]["balanced_accuracy"],
            "teacher": places.get(record.teacher),
        }
        for index, record in enumerate(records)
    ]


def _class_figure(records: list[RunRecord]) -> str | None:
    classes = dict.fromkeys(
        name for record in records for name in record.metrics["test"]["per_class"]
    )
    series = [
        {
            "index": index,
            "tag": record.name,
            "values": {
                name: row["sensitivity"]
                for name, row in record.metrics["test"]["per_class"].items()
            },
        }
        for index, record in enumerate(records)
    ]
    return figures.class_figure(list(classes), series)


def _run(index: int, record: RunRecord, by_folder: dict[Path, RunRecord]) -> dict[str, Any]:
    anchor, teacher = f"run-{index + 1}", by_folder.get(record.teacher)
    kept = record.kept_epoch
    curves = [
        ("Loss by term. The terms are as the training log names them.",
         figures.loss_figure(record.history, f"{anchor}-loss")),
        ("Balanced accuracy on the validation part; the kept epoch is marked.",
         figures.accuracy_figure(record.history, kept, f"{anchor}-accuracy")),
        ("Learning rate.", figures.rate_figure(record.history, f"{anchor}-rate")),
        ("Pretext stage: the head fitted on the frozen teacher before distillation.",
         figures.loss_figure(record.pretext_history, f"{anchor}-pretext")),
    ]  # fmt: skip
    return {
        "index": index,
        "anchor": anchor,
        "colour": index % figures.SERIES + 1,
        "record": record,
        "network": words.network_of(record),
        "method": record.provenance.get("method"),
        "kept_epoch": kept,
        "wall_s": record.metrics.get("wall_s"),
        "facts": words.facts(record),
        "command": words.command(record),
        "teacher_name": teacher.name if teacher else None,
        "cost": {
            name: words.cost(record, name)
            for name in ("parameters", "multiply_adds", "size_mb", "input_px")
        },
        "curves": [(caption, _markup(svg)) for caption, svg in curves if svg],
        "confusion": {part: _confusion(record.metrics[part]) for part in PARTS},
        "examples": examples(record),
    }


def _confusion(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the heat map: the truth's name and (count, share of the row) of each cell."""
    rows = []
    for name, counts in zip(metrics["per_class"], metrics["confusion_matrix"], strict=True):
        total = sum(counts)
        cells = [(number, number / total if total else None) for number in counts]
        rows.append({"name": name, "cells": cells})
    return rows


def _markup(svg: str | None) -> Markup | None:
    """An SVG of ours as safe markup: ElementTree has escaped every name in it."""
    return None if svg is None else Markup(svg)

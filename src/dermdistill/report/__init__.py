"""Runs -> one HTML page that needs nothing but a browser: no network, no script, no other file."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dermdistill.evaluate.assess import Assessment
from dermdistill.evaluate.intervals import Bootstrap, Difference
from dermdistill.evaluate.selective import cascade
from dermdistill.evaluate.tally import Key
from dermdistill.evaluate.versus import against_first
from dermdistill.report import curves, figures, words
from dermdistill.report.card import model_card
from dermdistill.report.content import tables
from dermdistill.report.examples import examples
from dermdistill.report.families import Family, families, several_seeds
from dermdistill.report.judged import HEADLINE, Judged, judge, worst_names
from dermdistill.report.names import named
from dermdistill.report.runs import PARTS, RunRecord, read_runs
from dermdistill.report.tables import Table, write_tables
from dermdistill.report.verdicts import family_ranking, family_words, ranking
from dermdistill.run import RESEARCH_NOTICE, write_text

TITLE_NAMES = 2  # a title that names more runs is no title
RUNS_OPEN = 4  # of more runs, each one's section waits folded up
GROUP_FIGURES = {"AUC for malignant": ("malignant", "auc"), "Balanced accuracy": HEADLINE}
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
    records = named(read_runs(runs))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,  # names of runs, classes and images come from files
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    beside = tables_beside(path)
    environment.filters |= {
        name: getattr(words, name)
        for name in ("percent", "area", "count", "magnitude", "plain", "duration")
    }
    shown = _page(records, Path(path).name)
    page = environment.get_template("report.html.j2").render(shown | {"beside": beside.name})
    write_tables([*shown["tables"].values()], beside)
    write_text(path, page)
    return Path(path)


def tables_beside(path: str | os.PathLike) -> Path:
    """The folder with a page's tables as CSV, Markdown and LaTeX."""
    return Path(path).with_name(f"{Path(path).stem}-tables")


def _page(records: list[RunRecord], page: str) -> dict[str, Any]:
    by_folder = {record.folder: record for record in records}
    first = records[0]
    teacher = by_folder.get(first.teacher)
    judged = judge(records)
    made = {one.record.folder: one.made for one in judged}
    alike = [one for one in judged if one.made.made.design == judged[0].made.made.design]
    versus = against_first([one.made for one in alike]) if alike else []
    groups = families(alike) if alike else []
    seeds = several_seeds(groups)
    found = tables(judged, alike, versus, groups) if judged else {}
    mine, theirs = made.get(first.folder), made.get(first.teacher)
    return {
        "notice": RESEARCH_NOTICE,
        "title": _title([*dict.fromkeys(record.group for record in records)]),
        "several_seeds": seeds,
        "folded": len(records) > RUNS_OPEN,
        "parts": PARTS,
        "cards": _cards(first, teacher),
        "findings": [
            *(_family_findings(groups) if seeds else []),
            *words.findings(first, teacher, mine, _difference(mine, theirs)),
            *filter(None, [None if seeds else ranking(alike, versus)]),
        ],
        "cautions": words.cautions(records, judged),
        "tables": found,
        "commands": words.commands(records, page),
        "curves": _curves(judged, mine, theirs),
        "trade_off": _markup(figures.trade_off_figure(_points(records))),
        "class_figure": _markup(_class_figure(records, groups)),
        "runs": [
            _run(index, record, by_folder)
            | _judged_sections(index, record.label, made.get(record.folder), found)
            for index, record in enumerate(records)
        ],
    }


def _difference(mine: Assessment | None, theirs: Assessment | None) -> Difference | None:
    """Balanced accuracy of a run less its teacher's, where both were judged on the same images."""
    if mine is None or theirs is None or mine.made.design != theirs.made.design:
        return None
    return mine.made.minus(theirs.made, HEADLINE)


def _curves(
    judged: list[Judged], mine: Assessment | None, theirs: Assessment | None
) -> list[tuple[str, Markup]]:
    """The comparison's figures with what is written under each."""
    lines = [(one.record.series, one.record.group, one.made) for one in judged]
    drawn = [
        ("Malignant against benign at every threshold; further up and left is better.",
         curves.roc_figure(lines, "roc")),
        ("The same as precision: how many alarms are right, at this test part's share of "
         "malignant images (dotted).", curves.pr_figure(lines, "pr")),
        ("Answering the surest images alone: how many of the answers are wrong. Lower is better.",
         curves.risk_figure(lines, "risk")),
    ]  # fmt: skip
    if _difference(mine, theirs) is not None:
        points = cascade(mine.test, theirs.test)
        drawn.append((
            "The cascade: the student answers where it is sure and sends the rest to its teacher. "
            "Left all student, right all teacher.", curves.cascade_figure(points, "cascade"),
        ))  # fmt: skip
    return [(caption, _markup(svg)) for caption, svg in drawn if svg]


def _judged_sections(
    index: int, tag: str, made: Assessment | None, found: dict[str, Table]
) -> dict[str, Any]:
    """The parts of one run's section that its predictions give."""
    if made is None:
        return {"judged": None}
    anchor = f"run-{index + 1}"
    own = {key: found[key].only(tag) for key in ("classes", "calibration", "conformal", "groups")
           if key in found}  # fmt: skip
    drawn = [
        _markup(curves.group_figure(made.groups, key, worst_names(made, key),
                                    f"{anchor}-groups-{place}", label))
        for place, (label, key) in enumerate(GROUP_FIGURES.items())
    ]  # fmt: skip
    return {"judged": {
        "tables": {key: table for key, table in own.items() if table.rows},
        "reliability": _markup(curves.reliability_figure(made, f"{anchor}-reliability")),
        "groups": [svg for svg in drawn if svg],
    }}  # fmt: skip


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
            "index": record.series,
            "tag": record.group,
            "parameters": words.cost(record, "parameters"),
            "balanced_accuracy": record.metrics["test"]["balanced_accuracy"],
            "teacher": places.get(record.teacher),
        }
        for record in records
    ]


def _class_figure(records: list[RunRecord], groups: Sequence[Family]) -> str | None:
    """Sensitivity by class of every family: its mean where it was judged, else its first run's."""
    first = {record.series: record for record in reversed(records)}
    classes = dict.fromkeys(
        name for record in records for name in record.metrics["test"]["per_class"]
    )
    means = {family.series: family.mean for family in groups}
    series = [
        {"index": place, "tag": record.group}
        | (_class_means(means[place], [*classes]) if place in means else {
            "values": {name: row["sensitivity"]
                       for name, row in record.metrics["test"]["per_class"].items()},
            "intervals": {},
        })
        for place, record in sorted(first.items())
    ]  # fmt: skip
    return figures.class_figure(list(classes), series)


def _class_means(mean: Bootstrap, classes: list[str]) -> dict[str, Any]:
    keys: dict[str, Key] = {name: ("per_class", name, "sensitivity") for name in classes}
    there = {name: key for name, key in keys.items() if key in mean.point}
    values = {name: mean.point[key] for name, key in there.items()}
    return {
        "values": {name: None if math.isnan(value) else value for name, value in values.items()},
        "intervals": {name: mean.interval(key) for name, key in there.items()},
    }


def _family_findings(groups: Sequence[Family]) -> list[str]:
    return [family_words(groups[0]), *filter(None, [family_ranking(groups)])]


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
        "colour": record.series % figures.SERIES + 1,
        "record": record,
        "network": words.network_of(record),
        "method": record.provenance.get("method"),
        "kept_epoch": kept,
        "wall_s": record.metrics.get("wall_s"),
        "facts": words.facts(record),
        "card": model_card(record),
        "command": words.command(record),
        "teacher_name": teacher.label if teacher else None,
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

"""What the tables of a comparison hold: which figures are shown, of whom, and what they mean."""

from collections.abc import Sequence

from dermdistill.evaluate.assess import COVERAGE
from dermdistill.evaluate.drift import Drift, cautions
from dermdistill.evaluate.subgroups import LEAST_UNITS
from dermdistill.evaluate.tally import AVERAGED, Key
from dermdistill.evaluate.versus import Versus
from dermdistill.report.families import Family, several_seeds
from dermdistill.report.judged import (
    HEADLINE,
    SIGNIFICANT,
    Judged,
    cell,
    level_of,
    shown,
    worst_names,
)
from dermdistill.report.tables import Cell, Table, figure

OVERALL: dict[str, Key] = {
    "Balanced accuracy, %": HEADLINE, "Accuracy, %": ("accuracy",),
    "Top-2 accuracy, %": ("top2_accuracy",), "Macro AUC": ("macro_auc",),
    "Macro PR-AUC": ("macro", "pr_auc"), "Macro F1, %": ("macro", "f1"),
    "Weighted F1, %": ("weighted", "f1"), "Kappa": ("kappa",), "Matthews": ("matthews",),
}  # fmt: skip
MALIGNANT: dict[str, Key] = {
    "Sensitivity, %": ("malignant", "sensitivity"), "Specificity, %": ("malignant", "specificity"),
    "Precision, %": ("malignant", "precision"), "F1, %": ("malignant", "f1"),
    "ROC-AUC": ("malignant", "auc"), "PR-AUC": ("malignant", "pr_auc"),
}  # fmt: skip
GROUPED: dict[str, Key] = {
    "Balanced accuracy, %": HEADLINE, "Accuracy, %": ("accuracy",),
    "Macro AUC": ("macro_auc",), "Malignant: AUC": ("malignant", "auc"),
    "Sensitivity, %": ("malignant", "sensitivity"), "Specificity, %": ("malignant", "specificity"),
}  # fmt: skip
DIFFERENCES: dict[str, Key] = {
    "Balanced accuracy": HEADLINE, "Accuracy": ("accuracy",),
    "Macro AUC": ("macro_auc",), "Malignant: AUC": ("malignant", "auc"),
    "Sensitivity": ("malignant", "sensitivity"), "Specificity": ("malignant", "specificity"),
}  # fmt: skip
CLASS_NAMES = {"sensitivity": "Sensitivity, %", "specificity": "Specificity, %",
               "precision": "Precision, %", "f1": "F1, %", "auc": "ROC-AUC",
               "pr_auc": "PR-AUC"}  # fmt: skip


def tables(
    judged: Sequence[Judged],
    alike: Sequence[Judged],
    versus: Sequence[Versus],
    found: Sequence[Family],
) -> dict[str, Table]:
    """Every table of the comparison, by name; those with nothing to say are left out.

    Args:
        judged: all runs.
        alike: those judged on the first one's images, which can be compared in pairs.
        versus: each of these against the first.
        found: the same by family.
    """
    made = [
        _figures("overall", "All classes", OVERALL, judged),
        _differences(alike, versus),
        _families(alike, found),
        _drifts(judged),
        _figures("malignant", "Malignant against benign", MALIGNANT, judged, _grouping(judged)),
        _operating(judged),
        _calibration(judged),
        _conformal(judged),
        _classes(judged),
        _groups(judged),
        _everything(judged),
    ]
    return {table.name: table for table in made if table.rows}


def _figures(
    name: str, title: str, keys: dict[str, Key], judged: Sequence[Judged], note: str = ""
) -> Table:
    there = {label: key for label, key in keys.items()
             if any(key in one.made.made.point for one in judged)}  # fmt: skip
    rows = [[one.tag, *(cell(one.made.made, key) for key in there.values())] for one in judged]
    said = f"With the {level_of(judged)} interval, drawn by lesion. {note}"
    return Table(name, title, ["Run", *there], rows if there else [], said.strip())


def _grouping(judged: Sequence[Judged]) -> str:
    made = judged[0].made
    names = [name for name in made.test.classes if name in made.settings.malignant]
    return (
        f"Malignant are {', '.join(names)}; a decision is malignant where the named class is, the "
        "score is the sum of their probabilities."
    )


def _differences(judged: Sequence[Judged], versus: Sequence[Versus]) -> Table:
    """Every run less the first, in points."""
    rows: list[list[Cell | str]] = []
    for one in versus:
        marks = one.mcnemar
        rows.append([
            judged[one.place].tag,
            *(_difference(key, one) for key in DIFFERENCES.values()),
            Cell(f"{marks.only_one}:{marks.only_other}", f"p {_p(marks.p_value)}"),
            "–" if one.delong is None else f"p {_p(one.delong)}",
        ])  # fmt: skip
    return Table(
        "differences", f"Differences to {judged[0].tag}",
        ["Run", *DIFFERENCES, "McNemar", "DeLong"], rows,
        f"Shares in points. With the {level_of(judged)} interval of the difference, paired "
        "lesion by lesion, and p after Holm's correction over the runs; sensitivity and "
        "specificity are those for malignant. McNemar: images that only this run, and only the "
        "first, names rightly (it takes images for independent). DeLong: of equal areas for "
        "malignant, by lesion.",
    )  # fmt: skip


def _difference(key: Key, versus: Versus) -> Cell:
    made, p_value = versus.differences.get(key), versus.corrected.get(key)
    if made is None or p_value is None:
        return Cell("–")
    written = shown(key, made.value, made.interval)
    return Cell(written.text, f"{written.ends}; p {_p(p_value)}", p_value < SIGNIFICANT)


def _drifts(judged: Sequence[Judged]) -> Table:
    """Every run on images of another origin, and how much each figure moved."""
    rows: list[list[Cell | str]] = []
    notes: list[str] = []
    for one in judged:
        for found in one.drifts:
            cells = [_moved(found, key) for key in DIFFERENCES.values()]
            away, home = found.away, found.home
            rows.append([one.tag, away.name, home.name, str(len(away.predictions)),
                         str(away.lesions), *cells])  # fmt: skip
            notes += [f"{one.tag}, {away.name}: {words}." for words in cautions(found)]
    return Table(
        "drift", "Elsewhere",
        ["Run", "Elsewhere", "Against", "Images", "Lesions", *DIFFERENCES], rows,
        f"The same network on images of another origin, and under each figure its change and the "
        f"{level_of(judged)} interval of that, in points for shares; set apart where it leaves 0 "
        "out. The two sets have no lesion in common, so each is drawn by itself. Shares of classes "
        "and how hard their lesions are differ too: a change is not the camera's alone. "
        + " ".join(notes), 3,
    )  # fmt: skip


def _moved(found: Drift, key: Key) -> Cell:
    made = found.change(key) if key in found.here.point else None
    if made is None:
        return Cell("–")
    moved = shown(key, made.value, made.interval)
    sign = "+" if made.value > 0 else ""
    ends = f"{sign}{moved.text}; {moved.ends}" if moved.ends else f"{sign}{moved.text}"
    sure = made.interval is not None and not made.interval.low <= 0 <= made.interval.high
    return Cell(shown(key, found.there.point[key], None).text, ends, sure)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _families(judged: Sequence[Judged], found: Sequence[Family]) -> Table:
    """Means over seeds, where a family has several; differences of means to the first family."""
    rows: list[list[Cell | str]] = []
    for family in found:
        row: list[Cell | str] = [family.label, str(len(family.members))]
        for key in DIFFERENCES.values():
            written, spread = cell(family.mean, key), family.spread(key)
            if spread is not None:
                ends = f"{written.ends}; SD {shown(key, spread, None).text}"
                written = Cell(written.text, ends)
            row.append(written)
        row.append(_less(family))
        rows.append(row)
    return Table(
        "methods", "Means over seeds",
        ["Method", "Seeds", *DIFFERENCES, f"Balanced accuracy less {found[0].label}"],
        rows if several_seeds(found) else [],
        f"With the {level_of(judged)} interval of the mean over other lesions, and the standard "
        "deviation over seeds, which that interval does not hold; p after Holm's correction over "
        "the methods.", 1,
    )  # fmt: skip


def _less(family: Family) -> Cell | str:
    made, p_value = family.difference, family.p_value
    if made is None or p_value is None:
        return "–"
    written = shown(HEADLINE, made.value, made.interval)
    return Cell(written.text, f"{written.ends}; p {_p(p_value)}", p_value < SIGNIFICANT)


def _operating(judged: Sequence[Judged]) -> Table:
    keys = [key for key in judged[0].made.made.point if len(key) == 3 and "_at_" in key[1]]
    names = {"operating_points": judged[0].made.settings.operating_class, "malignant": "malignant"}
    columns = [
        f"{names[task]}: {words.split('_')[0]} at {100 * float(level):g} % {words.split('_')[2]}"
        for task, words, level in keys
    ]
    rows = [[one.tag, *(cell(one.made.made, key) for key in keys)] for one in judged]
    return Table(
        "operating-points", "Operating points", ["Run", *(f"{name}, %" for name in columns)],
        rows if keys else [],
        "The best that any threshold gives on these images: a threshold chosen before would give "
        f"less. With the {level_of(judged)} interval.",
    )  # fmt: skip


def _calibration(judged: Sequence[Judged]) -> Table:
    rows: list[list[Cell | str]] = [
        [one.tag, scaling, figure(row["ece"], None), figure(row["ece_mass"], None),
         figure(row["brier"], None, 1.0, 3), figure(row["nll"], None, 1.0, 3)]
        for one in judged for scaling, row in one.made.calibration.items()
    ]  # fmt: skip
    return Table(
        "calibration", "Calibration",
        ["Run", "Probabilities", "ECE, %", "ECE equal mass, %", "Brier", "NLL, nats"], rows,
        "Scalings were fitted on the validation part. Less is better everywhere.", 2,
    )  # fmt: skip


def _conformal(judged: Sequence[Judged]) -> Table:
    rows: list[list[Cell | str]] = []
    for one in judged:
        for promise in one.made.conformal:
            for row in promise.rows:
                share = row.covered / row.tested if row.tested else None
                rows.append([
                    one.tag, row.name if not promise.per_class else f"each class: {row.name}",
                    str(row.calibrated), str(row.tested), figure(share, None),
                    f"{row.least}–{row.most} of {row.tested}", "yes" if row.kept else "no",
                    f"{promise.mean_size:.2f}",
                ])  # fmt: skip
    return Table(
        "conformal", f"Sets of classes that promise {100 * COVERAGE:g} % coverage",
        ["Run", "Promise for", "Calibrated on", "Tested on", "Coverage, %", "Allowed count",
         "Kept", "Classes in a set"], rows,
        "Calibrated on the validation part, which also chose the kept epoch; one image a lesion. "
        "The allowed count leaves a kept promise outside with chance 1 %.", 2,
    )  # fmt: skip


def _classes(judged: Sequence[Judged]) -> Table:
    rows: list[list[Cell | str]] = [
        [one.tag, name, str(int((one.made.test.labels == code).sum())),
         *(cell(one.made.made, ("per_class", name, figure_name)) for figure_name in AVERAGED)]
        for one in judged for code, name in enumerate(one.made.test.classes)
    ]  # fmt: skip
    return Table("classes", "Test part by class", ["Run", "Class", "Images",
                 *(CLASS_NAMES[name] for name in AVERAGED)], rows,
                 f"With the {level_of(judged)} interval, drawn by lesion.", 2)  # fmt: skip


def _groups(judged: Sequence[Judged]) -> Table:
    rows: list[list[Cell | str]] = []
    for one in judged:
        bad = {key: worst_names(one.made, key) for key in GROUPED.values()}
        for column, members in one.made.groups.items():
            for group in members:
                cells = [
                    cell(group.made, key, strong=bad[key].get(column) == group.name)
                    for key in GROUPED.values()
                ]
                rows.append([one.tag, column, group.name, str(group.images), str(group.units),
                             *cells])  # fmt: skip
    return Table(
        "groups", "By group", ["Run", "Column", "Group", "Images", "Lesions", *GROUPED], rows,
        f"With the {level_of(judged)} interval. The lowest of a column is set apart; groups "
        f"of fewer than {LEAST_UNITS} lesions are shown and not ranked. Groups differ in which "
        "classes they hold, so balanced accuracy compares unlike means: read it with the areas.", 3,
    )  # fmt: skip


def _everything(judged: Sequence[Judged]) -> Table:
    """Every figure there is, one a row, for other programs."""
    rows: list[list[Cell | str]] = []
    for one in judged:
        scopes = [("all", one.made.made)] + [
            (f"{column}: {group.name}", group.made)
            for column, members in one.made.groups.items() for group in members
        ]  # fmt: skip
        for scope, made in scopes:
            for key, value in made.point.items():
                ends = made.interval(key)
                numbers = (value, *(ends or (float("nan"),) * 2))
                rows.append([one.tag, scope, "/".join(key), *(f"{n:.6g}" for n in numbers)])
    return Table(
        "all-figures", "Every figure", ["Run", "Images", "Figure", "Value", "Low", "High"], rows,
        f"Shares in [0, 1], with the {level_of(judged)} interval.", 3, for_people=False,
    )  # fmt: skip

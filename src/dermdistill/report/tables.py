"""The report's tables: shown on the page, and written as CSV, Markdown and LaTeX beside it."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dermdistill.evaluate.intervals import Interval
from dermdistill.run import RESEARCH_NOTICE, write_text

LATEX = {sign: "\\" + sign for sign in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "–": "--", "−": "$-$", "×": r"$\times$", "\n": " ",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One figure as people read it; `ends` is its interval, `strong` sets it apart."""

    text: str
    ends: str = ""
    strong: bool = False

    def __str__(self) -> str:
        return f"{self.text} ({self.ends})" if self.ends else self.text


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns; the first `heads` columns say what a row is about.

    Args:
        name: of its files.
        title: above it.
        columns: one name a cell.
        rows: cells, or plain text.
        note: what a reader must know to read it.
        heads: how many columns are text.
        for_people: written in all forms; else as CSV alone, for programs.
    """

    name: str
    title: str
    columns: list[str]
    rows: list[list[Cell | str]]
    note: str = ""
    heads: int = 1
    for_people: bool = True

    def only(self, first: str) -> "Table":
        """The rows whose first cell is `first`, without that column."""
        rows = [row[1:] for row in self.rows if row[0] == first]
        return replace(self, columns=self.columns[1:], rows=rows, heads=self.heads - 1)

    def csv(self) -> str:
        """Comma-separated values; an interval's ends stand in its cell, in brackets."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([str(cell) for cell in row] for row in self.rows)
        return stream.getvalue()

    def markdown(self) -> str:
        """A table that most forges and notebooks show."""
        rule = ["---" if place < self.heads else "---:" for place in range(len(self.columns))]
        lines = [self.columns, rule, *([str(cell) for cell in row] for row in self.rows)]
        body = "\n".join("| " + " | ".join(_bar_free(c) for c in line) + " |" for line in lines)
        return f"**{self.title}.** {self.note}\n\n{body}\n\n{RESEARCH_NOTICE}\n"

    def latex(self) -> str:
        """A `tabular` for a paper; it needs the package booktabs."""
        columns = "l" * self.heads + "r" * (len(self.columns) - self.heads)
        lines = [" & ".join(_latex(str(cell)) for cell in row) + r" \\" for row in self.rows]
        head = " & ".join(_latex(name) for name in self.columns) + r" \\"
        note = _latex(f"{self.title}. {self.note}".strip())
        return "\n".join([f"% {note}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head,
                          r"\midrule", *lines, r"\bottomrule", r"\end{tabular}", ""])  # fmt: skip


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Write every table as NAME.csv, and those for people as NAME.md and NAME.tex too."""
    for table in tables:
        write_text(folder / f"{table.name}.csv", table.csv())
        if not table.for_people:
            continue
        write_text(folder / f"{table.name}.md", table.markdown())
        write_text(folder / f"{table.name}.tex", table.latex())


def figure(
    value: float | None, ends: Interval | None, scale: float = 100.0, digits: int = 1,
    strong: bool = False,
) -> Cell:  # fmt: skip
    """A figure with its interval; by default a share in [0, 1] as per cent."""
    if value is None or value != value:
        return Cell("–")
    shown = f"{scale * value:.{digits}f}"
    if ends is None:
        return Cell(shown, "", strong)
    low, high = (f"{scale * end:.{digits}f}".replace("-", "−") for end in ends)
    return Cell(shown.replace("-", "−"), f"{low} to {high}", strong)


def _bar_free(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _latex(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in text)

"""Every method on the same images, at the same small budget, over three seeds.

Run: python benchmarks/methods_table.py --config RECIPE.yaml --output FOLDER [--methods a,b] \
         [--seeds 1,2,3]

For example on HAM10000 at 64 px: recipes/methods_ham10000.yaml. A teacher is trained once a seed
and shared. What is finished is found again, so a killed table, given again, continues. Results are
written as they come: FOLDER/methods.csv a line a run, FOLDER/methods.md the table with the spread
over the seeds. No method is tuned: all run at their defaults and at the recipe's budget.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd

from dermdistill.config import Config, load_config
from dermdistill.distill import distill
from dermdistill.errors import DermdistillError
from dermdistill.methods import METHODS
from dermdistill.run import METRICS, atomic_write, read_json, write_text

FIGURES = ("balanced_accuracy", "accuracy", "macro_auc")


def settings(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="a recipe: data, teachers, student, budget")
    parser.add_argument("--output", required=True, type=Path, help="where runs and tables go")
    parser.add_argument("--methods", default=",".join(METHODS), help="names, with commas between")
    parser.add_argument("--seeds", default="1,2,3", help="numbers, with commas between")
    return parser.parse_args(argv)


def line(config: Config, method: str, seed: int) -> dict:
    """One run, trained or found, as a line of the table."""
    student = replace(config.student, method=method, options={})
    run = distill(replace(config, seed=seed, student=student))
    metrics = read_json(run / METRICS)
    figures = {f"{part}_{name}": metrics[part][name]
               for part in ("validation", "test") for name in FIGURES}  # fmt: skip
    return {"method": method, "seed": seed, **figures, "steps": metrics["steps"],
            "wall_s": metrics["wall_s"], "run": run.name}  # fmt: skip


def write(folder: Path, lines: list[dict]) -> None:
    """Both files, whole or not at all."""
    frame = pd.DataFrame(lines)
    with atomic_write(folder / "methods.csv") as temporary:
        frame.to_csv(temporary, index=False)
    columns = [f"test_{name}" for name in FIGURES]
    grouped = frame.groupby("method", sort=False)[columns]
    mean, low, high, count = grouped.mean(), grouped.min(), grouped.max(), grouped.size()
    rows = ["| method | seeds | " + " | ".join(c.replace("_", " ") for c in columns) + " |",
            "|---" * (2 + len(columns)) + "|"]  # fmt: skip
    for name in mean.sort_values(columns[0], ascending=False).index:
        cells = [f"{mean.loc[name, c]:.3f} ({low.loc[name, c]:.3f} to {high.loc[name, c]:.3f})"
                 for c in columns]  # fmt: skip
        rows.append(f"| `{name}` | {count[name]} | {' | '.join(cells)} |")
    write_text(folder / "methods.md", "\n".join(rows) + "\n")


def main(argv: list[str]) -> int:
    """Seed by seed, so that a table that is cut short compares all methods; 1 if one failed."""
    given = settings(argv)
    config = replace(load_config(given.config), output=str(given.output))
    lines, failed = [], []
    given.output.mkdir(parents=True, exist_ok=True)
    for seed in map(int, given.seeds.split(",")):
        for method in given.methods.split(","):
            try:
                lines.append(line(config, method, seed))
            except DermdistillError as error:
                failed.append(f"{method}, seed {seed}: {error}")
                print(failed[-1], file=sys.stderr)
                continue
            write(given.output, lines)
    print((given.output / "methods.md").read_text())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Accuracy against size and time: a ladder of students at one budget, and the best of each size.

    python benchmarks/front.py --config RECIPE.yaml --output FOLDER [--networks A,B] [--seeds 1,2]
        [--runs RUN ...]

For example on HAM10000 at 64 px: recipes/front_ham10000.yaml. Whatever is finished is found again,
so a killed ladder, given again, continues; it goes seed by seed, so that one cut short compares all
networks. Beside it stand other finished runs on the same images, pruned or pretrained ones. Then
every network's first export answers one image at a time by ONNX Runtime in one thread, all taking
turns. Writes FOLDER/front.csv, front.md and front.png. A network is on the front if none is both at
least as accurate, by the mean of the test part's balanced accuracy over seeds, and at least as
fast.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from dermdistill.bundle import Bundle, open_runtime
from dermdistill.config import Config, load_config
from dermdistill.distill import distill
from dermdistill.export import BUNDLE, export_run
from dermdistill.run import METRICS, PROVENANCE, atomic_write, read_json, write_text
from latency import take_turns

NETWORKS = (
    "test_efficientnet,mobilenetv2_035,lcnet_050,mobilenetv3_small_100,mobilenetv2_100,"
    "mobilenetv4_conv_small,ghostnet_100,mobilenetv3_large_100"
)
FIGURE = "balanced_accuracy"


def train(config: Config, network: str, seed: int) -> Path:
    """The run of one student, made or found."""
    start = replace(config.student.network, name=network)
    return distill(replace(config, seed=seed, student=replace(config.student, network=start)))


def line(run: Path) -> dict:
    """What the table needs of a finished run."""
    metrics, origin = read_json(run / METRICS), read_json(run / PROVENANCE)
    return {"network": label(origin["network_config"]), "seed": origin["seed"], "run": str(run),
            "parameters": metrics["cost"]["parameters"], FIGURE: metrics["test"][FIGURE],
            "macro_auc": metrics["test"]["macro_auc"], "wall_s": metrics["wall_s"],
            "data": origin["key"]["data"]}  # fmt: skip


def label(start: dict) -> str:
    """A network's name, and what it started from."""
    if start.get("prune_ratio"):
        return f"{start['name']}, pruned by {start['prune_ratio']}"
    return start["name"] + (", pretrained" if start["weights"] != "none" else "")


def exports(lines: list[dict]) -> dict[str, Bundle]:
    """The bundle of each network's first run."""
    first = {row["network"]: Path(row["run"]) for row in reversed(lines)}
    for run in first.values():
        if not (run / BUNDLE).exists():
            export_run(run, ["onnx"])
    return {network: Bundle(run / BUNDLE) for network, run in first.items()}


def measured(bundles: dict[str, Bundle], rounds: int) -> dict[str, tuple[float, float]]:
    """Megabytes of each network's model, and the median milliseconds of one image."""
    calls = {name: open_runtime(bundle, "onnx", threads=1).predict
             for name, bundle in bundles.items()}  # fmt: skip
    bundle = next(iter(bundles.values()))
    times = take_turns(calls, bundle.golden_pixels(bundle.golden[0])[None], rounds)
    sizes = {name: bundle.manifest.files[bundle.manifest.models["onnx"].files[0]].bytes / 1e6
             for name, bundle in bundles.items()}  # fmt: skip
    return {name: (sizes[name], float(np.median(times[name]))) for name in bundles}


def summary(lines: list[dict], costs: dict[str, tuple[float, float]]) -> pd.DataFrame:
    """A row a network, the fastest first."""
    frame = pd.DataFrame(lines)
    by = frame.groupby("network")
    table = pd.DataFrame({
        "parameters": by.parameters.first(), "seeds": by.size(),
        "mean": by[FIGURE].mean(), "low": by[FIGURE].min(), "high": by[FIGURE].max(),
        "macro_auc": by.macro_auc.mean(), "train_s": by.wall_s.mean(),
    })  # fmt: skip
    table["mb"], table["ms"] = zip(*(costs[name] for name in table.index), strict=True)
    table = table.sort_values("ms")
    table["front"] = table["mean"] > table["mean"].cummax().shift(fill_value=-1)
    return table


def draw(table: pd.DataFrame, path: Path) -> None:
    """Balanced accuracy with the range over seeds against time and against size."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), sharey=True, layout="constrained")
    for axis, column, title in zip(
        axes,
        ("ms", "parameters"),
        ("one image, one thread, ms", "parameters, million"),
        strict=True,
    ):
        unit = 1e6 if column == "parameters" else 1
        for name, row in table.iterrows():
            x, tint = row[column] / unit, "tab:blue" if row.front else "tab:gray"
            spread = [[row["mean"] - row.low], [row.high - row["mean"]]]
            axis.errorbar(x, row["mean"], spread, fmt="o", color=tint, capsize=3)
            axis.annotate(name, (x, row["mean"]), xytext=(7, 6 if row.front else -12),
                          textcoords="offset points", fontsize=8, color=tint, zorder=1)  # fmt: skip
        axis.set_xlim(0, 1.45 * table[column].max() / unit)
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
    front = table[table.front]
    axes[0].step(front.ms, front["mean"], where="post", color="tab:blue", alpha=0.4)
    axes[0].set_ylabel("test balanced accuracy")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)


def markdown(table: pd.DataFrame) -> str:
    """The table, with the front's networks in bold."""
    columns = ("network", "parameters, M", "ONNX, MB", "ms", "balanced accuracy, %", "macro AUC",
               "seeds")  # fmt: skip
    rows = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for name, row in table.iterrows():
        shown = f"**{name}**" if row.front else name
        rows.append(
            f"| {shown} | {row.parameters / 1e6:.2f} | {row.mb:.2f} | {row.ms:.2f} | "
            f"{100 * row['mean']:.1f} ({100 * row.low:.1f} to {100 * row.high:.1f}) | "
            f"{row.macro_auc:.3f} | {row.seeds} |"
        )
    return "\n".join(rows) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Train what is missing, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", required=True, help="a recipe: data, student, budget")
    parser.add_argument("--output", required=True, type=Path, help="where runs and tables go")
    parser.add_argument("--networks", default=NETWORKS)
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--runs", nargs="*", type=Path, default=[], help="finished ones, beside")
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args(arguments)
    config = replace(load_config(given.config), output=str(given.output))
    runs = [train(config, network, int(seed)) for seed in given.seeds.split(",")
            for network in given.networks.split(",")]  # fmt: skip
    lines = [line(run) for run in [*runs, *given.runs]]
    others = [row["run"] for row in lines if row["data"] != lines[0]["data"]]
    if others:
        parser.error(f"not on the images of {lines[0]['run']}, so not comparable: {others}")
    table = summary(lines, measured(exports(lines), given.rounds))
    with atomic_write(given.output / "front.csv") as temporary:
        table.to_csv(temporary)
    write_text(given.output / "front.md", markdown(table))
    draw(table, given.output / "front.png")
    print(markdown(table), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

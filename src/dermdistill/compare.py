"""Methods x seeds x folds: a grid of independent distillations, here or on a Ray cluster.

Every run is found again by its digest, so a comparison that was cut short continues, a wider grid
adds to a narrower one, and what is shared (the teacher of a seed and fold) is trained once.
"""

import csv
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from dermdistill.config import Config, to_dict
from dermdistill.data.dataset import open_dataset
from dermdistill.distill import distill, teach
from dermdistill.errors import ConfigError, DermdistillError, RunError, TerminatedError
from dermdistill.methods import build_method
from dermdistill.run import METRICS, atomic_write, digest_of, read_json, write_text

RETRIES = 3  # of a run whose worker died; it continues from its last checkpoint
SHOWN_DIGITS = 10  # of a digest in a file's name
# Ray gives up when a part of it does not answer in 30 s, as happens on a busy machine. Of these
# limits only this one can be set, in seconds; hence the further starts.
STARTS, WAIT_VARIABLE, WAIT_S = 4, "RAY_gcs_server_port_wait_time_s", 300
HERE, LOCAL = "none", "local"  # instead of a cluster's address
FIGURES = ("balanced_accuracy", "accuracy", "macro_auc")


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    method: str
    seed: int
    fold: int


@dataclass(frozen=True)
class Result:
    """What became of a cell: figures on validation and test, or the reason there are none."""

    method: str
    seed: int
    fold: int
    run: str = ""
    validation_balanced_accuracy: float | None = None
    test_balanced_accuracy: float | None = None
    test_accuracy: float | None = None
    test_macro_auc: float | None = None
    wall_s: float | None = None
    failure: str = ""


def compare(
    config: Config,
    methods: Sequence[str],
    seeds: Sequence[int],
    folds: Sequence[int],
    ray: str = LOCAL,
    cpus_per_run: int = 1,
    gpus_per_run: float = 0.0,
    progress: bool = True,
) -> Path:
    """Distil every method with every seed on every fold; one failed run never sinks the rest.

    The table beside the CSV has the mean over seeds, each seed averaged over its folds, and the
    sample standard deviation over seeds.

    Args:
        config: what all runs share; its `student.options` belong to its `student.method` alone.
        methods: names.
        seeds: of everything drawn at random, but the split.
        folds: which folds validate in turn.
        ray: "local" starts Ray on this machine, "none" runs one after another in this process,
            else the address of a cluster ("auto" finds the one this machine belongs to), which
            must see the same files under the same paths.
        cpus_per_run: processor cores that a run gets.
        gpus_per_run: GPUs that a run gets; 0.5 lets two share one.
        progress: tell each result as it comes.

    Returns:
        The CSV file, a row a cell, written anew whenever a result comes.

    Raises:
        ConfigError: a name or value is wrong, or Ray is not installed; nothing was trained.
        RunError: Ray does not start, or there is none at the address.
        DataError: the images cannot be used.
    """
    cells = _grid(config, methods, seeds, folds)
    config = _absolute(config)
    open_dataset(config.data, Path(config.output), progress)  # decoded once, before all runs
    key = {"cells": [asdict(cell) for cell in cells], "config": to_dict(config)}
    path = Path(config.output) / f"compare-{digest_of(key)[:SHOWN_DIGITS]}.csv"
    results = {}
    for cell, result in _worked(config, cells, ray, cpus_per_run, gpus_per_run):
        results[cell] = result
        _write(path, [results[cell] for cell in cells if cell in results])
        if progress:
            figure = result.test_balanced_accuracy
            said = f"test balanced accuracy {figure:.3f}" if figure is not None else result.failure
            print(f"{len(results)}/{len(cells)} {cell.method}, seed {cell.seed}, fold {cell.fold}: "
                  f"{said}", file=sys.stderr, flush=True)  # fmt: skip
    return path


def table(path: Path) -> str:
    """The Markdown table of a comparison's CSV: a row a method, mean ± deviation over seeds."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [f.name for f in fields(Result) if f.name.startswith(("validation_", "test_"))]
    lines = [
        "| method | seeds | runs | failed | " + " | ".join(c.replace("_", " ") for c in columns),
        "|---" * (4 + len(columns)),
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        good = [row for row in own if not row["failure"]]
        seeds = len({row["seed"] for row in good})
        figures = [_spread(good, column) for column in columns]
        lines.append(f"| {method} | {seeds} | {len(good)} | {len(own) - len(good)} | "
                     + " | ".join(figures))  # fmt: skip
    return "\n".join(f"{line} |" for line in lines) + "\n"


def failures(path: Path) -> int:
    """How many runs of a comparison's CSV failed."""
    with open(path, encoding="utf-8", newline="") as file:
        return sum(bool(row["failure"]) for row in csv.DictReader(file))


def _spread(rows: list[dict[str, str]], column: str) -> str:
    by_seed: dict[str, list[float]] = {}
    for row in rows:
        if row[column]:
            by_seed.setdefault(row["seed"], []).append(float(row[column]))
    means = [statistics.fmean(values) for values in by_seed.values()]
    if not means:
        return "-"
    spread = f" ± {statistics.stdev(means):.3f}" if len(means) > 1 else ""
    return f"{statistics.fmean(means):.3f}{spread}"


def _grid(
    config: Config, methods: Sequence[str], seeds: Sequence[int], folds: Sequence[int]
) -> list[Cell]:
    """Every cell once, in order, checked before anything is read."""
    for name, values in (("methods", methods), ("seeds", seeds), ("folds", folds)):
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"{name} is {list(values)}; it must name one, and none twice")
    for method in methods:
        build_method(method, _options(config, method))
    wrong = [fold for fold in folds if not 0 <= fold < config.data.folds]
    if wrong:
        raise ConfigError(f"folds names {wrong[0]}; it must be 0 to {config.data.folds - 1}, as "
                          f"data.folds is {config.data.folds}")  # fmt: skip
    return [Cell(m, s, f) for s in seeds for f in folds for m in methods]


def _absolute(config: Config) -> Config:
    """The config with its own folders as absolute paths: workers run elsewhere."""
    data = replace(config.data, folder=os.path.abspath(config.data.folder)) if (
        config.data.folder) else config.data  # fmt: skip
    for name in ("store", "split"):
        if getattr(data, name):
            data = replace(data, **{name: os.path.abspath(getattr(data, name))})
    return replace(config, output=os.path.abspath(config.output), data=data)


def _config_of(config: Config, cell: Cell) -> Config:
    """What one cell runs."""
    student = replace(config.student, method=cell.method, options=_options(config, cell.method))
    data = replace(config.data, validation_fold=cell.fold)
    return replace(config, seed=cell.seed, data=data, student=student)


def _options(config: Config, method: str) -> dict[str, Any]:
    """A method's hyper-parameters, where the config has any of it."""
    return config.student.options if method == config.student.method else {}


def _needs_teacher(cell: Cell, config: Config) -> bool:
    """Whether a cell learns from a teacher that has to be trained first, for several cells once."""
    return build_method(cell.method).teacher == "frozen" and not config.teacher.run


def _told(work: Callable[[], Path]) -> tuple[Path | None, str]:
    """The run directory of some work, or why there is none; a failure ends this work alone."""
    try:
        return work(), ""
    except TerminatedError:
        raise  # the worker ends; whoever started it starts another
    except DermdistillError as error:
        return None, str(error)
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def _teach(config: Config) -> str:
    """Train a shared teacher; the reason if that failed."""
    return _told(lambda: teach(config, progress=False, wait=True))[1]


def _student(config: Config, cell: Cell, teacher_failure: str = "") -> Result:
    """Run one cell."""
    if teacher_failure:
        return Result(**asdict(cell), failure=f"its teacher failed: {teacher_failure}")
    run, failure = _told(lambda: distill(config, progress=False, wait=True))
    if run is None:
        return Result(**asdict(cell), failure=failure)
    metrics = read_json(run / METRICS)
    return Result(
        **asdict(cell),
        run=str(run),
        validation_balanced_accuracy=metrics["validation"]["balanced_accuracy"],
        **{f"test_{figure}": metrics["test"][figure] for figure in FIGURES},
        wall_s=metrics["wall_s"],
    )


def _worked(
    config: Config, cells: list[Cell], where: str, cpus: int, gpus: float
) -> Iterable[tuple[Cell, Result]]:
    """The cells' results as they come."""
    if where != HERE:
        return _on_ray(config, cells, where, cpus, gpus)
    return ((cell, _student(_config_of(config, cell), cell)) for cell in cells)


def _on_ray(
    config: Config, cells: list[Cell], address: str, cpus: int, gpus: float
) -> Iterator[tuple[Cell, Result]]:
    """All cells as Ray tasks; a cell waits for its teacher, and for nothing else."""
    ray = _started(address)
    try:
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": RETRIES,
                   "retry_exceptions": [TerminatedError]}  # fmt: skip
        teach_task, student_task = (ray.remote(**options)(work) for work in (_teach, _student))
        teachers, pending = {}, {}
        for cell in cells:
            place = (cell.seed, cell.fold)
            own, teacher = _config_of(config, cell), []
            if _needs_teacher(cell, config):
                if place not in teachers:
                    teachers[place] = teach_task.remote(own)
                teacher = [teachers[place]]
            pending[student_task.remote(own, cell, *teacher)] = cell
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            cell = pending.pop(done)
            try:
                yield cell, ray.get(done)
            except ray.exceptions.RayError as error:
                lost = f"its worker died {RETRIES + 1} times ({type(error).__name__})"
                yield cell, Result(**asdict(cell), failure=lost)
    finally:
        ray.shutdown()


def _started(address: str) -> ModuleType:
    """Ray, running here or connected to a cluster."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "Ray is not installed: pip install 'dermdistill[ray]', or give --ray none to run one "
            "after another in this process"
        ) from error
    where, starts = {"address": address}, 1
    if address == LOCAL:
        os.environ.setdefault(WAIT_VARIABLE, str(WAIT_S))
        where, starts = {"include_dashboard": False}, STARTS
    for left in reversed(range(starts)):
        try:
            ray.init(**where, log_to_driver=False, logging_level="warning")
            break
        except Exception as error:  # Ray has no error of its own for a start that failed
            ray.shutdown()
            said = " ".join(str(error).split())[:300]
            if not left:
                raise RunError(
                    f"Ray did not start, or is not at the address ({address}), tried {starts} "
                    f"times: {said}. Try again on a quieter machine, check the address, or give "
                    "--ray none"
                ) from error
            print(f"Ray did not start ({said}); trying again", file=sys.stderr, flush=True)
    return ray


def _write(path: Path, results: list[Result]) -> None:
    with (
        atomic_write(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, [field.name for field in fields(Result)])
        writer.writeheader()
        writer.writerows(asdict(result) for result in results)
    write_text(path.with_suffix(".md"), table(path))

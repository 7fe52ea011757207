"""How fast, how large and how hungry each model of a bundle is on this machine."""

import csv
import json
import platform
import resource
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from dermdistill.bundle.reader import Bundle
from dermdistill.bundle.runtimes import Runtime, can_run, open_runtime
from dermdistill.errors import DataError, RunError
from dermdistill.run import atomic_write

WARM_UP, BATCH, SECONDS_OF_BATCHES = 10, 32, 2.0
PERCENTILES = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99}
MEGABYTE = 1_000_000
KIBIBYTE = 1024  # Linux counts peak memory in it, macOS in bytes
RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")  # the first package's counter
MICRO = 1e-6


@dataclass(frozen=True)
class Measurement:
    """One model with one number of threads.

    Args:
        bundle: the bundle's name.
        format: the model's format.
        threads: how many its runtime may use.
        p50_ms, p90_ms, p99_ms: time of one image at batch 1, from pixels to probabilities.
        images_per_s: throughput, in batches of 32 where the model takes batches.
        cold_start_ms: from a fresh process that has read the bundle to the first answer, the
            runtime's own import included.
        peak_mb: memory of that process at its highest, beyond what it held before the runtime.
        file_mb: size of the model's files.
        download_mb: the same compressed, as a web server sends them.
        energy_mj: millijoules of the whole processor an image at batch 1; None where its counter
            cannot be read.
    """

    bundle: str
    format: str
    threads: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    images_per_s: float
    cold_start_ms: float
    peak_mb: float
    file_mb: float
    download_mb: float
    energy_mj: float | None


COLUMNS = tuple(field.name for field in fields(Measurement))


def bench(
    paths: Sequence[Path], threads: Sequence[int], rounds: int, formats: Sequence[str] = ()
) -> Iterable[Measurement]:
    """Measure every model that runs here, each with each number of threads in its own process.

    Args:
        paths: bundles, to stand side by side.
        threads: numbers of threads.
        rounds: single images timed for the percentiles.
        formats: which models; all that run here if empty.

    Yields:
        One measurement after the other.

    Raises:
        BundleError: a bundle is refused.
        RunError: a model's process died.
    """
    for path in paths:
        names = [name for name in Bundle(path).manifest.models
                 if can_run(name) and (not formats or name in formats)]  # fmt: skip
        for name in names:
            for count in threads:
                yield _in_fresh_process(path, name, count, rounds)


def _in_fresh_process(path: Path, name: str, threads: int, rounds: int) -> Measurement:
    command = [sys.executable, "-m", __name__, str(path), name, str(threads), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"{name} of {path} cannot be measured: {done.stderr[-500:]}")
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def measure(path: Path, name: str, threads: int, rounds: int) -> Measurement:
    """Measure one model in this process, which should be fresh. Arguments as `bench`."""
    bundle = Bundle(path)
    _, files = bundle.model(name)
    pixels = bundle.golden_pixels(bundle.golden[0])[None]
    before = _peak_mb()
    start = time.perf_counter()
    runtime = open_runtime(bundle, name, threads)
    runtime.predict(pixels)
    cold_start_ms = 1e3 * (time.perf_counter() - start)
    times, energy_mj = _latencies(runtime, pixels, rounds)
    return Measurement(
        bundle=bundle.manifest.name,
        format=name,
        threads=threads,
        **{key: float(np.percentile(times, share)) for key, share in PERCENTILES.items()},
        images_per_s=_throughput(runtime, pixels),
        cold_start_ms=cold_start_ms,
        peak_mb=_peak_mb() - before,
        file_mb=sum(map(len, files.values())) / MEGABYTE,
        download_mb=sum(len(zlib.compress(content)) for content in files.values()) / MEGABYTE,
        energy_mj=energy_mj,
    )


def _latencies(
    runtime: Runtime, pixels: np.ndarray, rounds: int
) -> tuple[list[float], float | None]:
    """Milliseconds of single images, and millijoules of one."""
    for _ in range(WARM_UP):
        runtime.predict(pixels)
    times, before = [], _energy_j()
    for _ in range(rounds):
        start = time.perf_counter()
        runtime.predict(pixels)
        times.append(1e3 * (time.perf_counter() - start))
    after = _energy_j()
    spent = None if before is None or after is None or after < before else after - before
    return times, None if spent is None else 1e3 * spent / rounds


def _throughput(runtime: Runtime, pixels: np.ndarray) -> float:
    """Images in a second, kept busy."""
    batch = np.repeat(pixels, BATCH, axis=0)
    runtime.predict(batch)
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS_OF_BATCHES:
        runtime.predict(batch)
        images += BATCH
    return images / (time.perf_counter() - start)


def _peak_mb() -> float:
    unit = 1 if platform.system() == "Darwin" else KIBIBYTE
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEGABYTE


def _energy_j() -> float | None:
    """The processor's energy counter in joules; it wraps around, and often only root may read."""
    try:
        return int(RAPL.read_text()) * MICRO
    except OSError:
        return None


def plot(measurements: Sequence[Measurement], output: Path) -> None:
    """Draw latency against download size, a point a model, a mark a bundle."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    fewest = min(each.threads for each in measurements)
    for name in dict.fromkeys(each.bundle for each in measurements):
        shown = [each for each in measurements if (each.bundle, each.threads) == (name, fewest)]
        axes.scatter([each.download_mb for each in shown], [each.p50_ms for each in shown],
                     label=name)  # fmt: skip
        for each in shown:
            axes.annotate(each.format, (each.download_mb, each.p50_ms), fontsize=8,
                          xytext=(4, 4), textcoords="offset points")  # fmt: skip
    axes.set(xlabel="download (MB)", ylabel=f"median of one image (ms), threads: {fewest}",
             xscale="log", yscale="log")  # fmt: skip
    axes.margins(x=0.2, y=0.1)  # room for the names
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}")
    axes.legend(fontsize=8)
    figure.savefig(output, format="png", dpi=150)


def bench_table(
    paths: Sequence[Path], threads: Sequence[int], rounds: int, formats: Sequence[str], output: str
) -> str:
    """Measure, write `output`.csv and `output`.png, and return the table as text.

    Arguments and errors as `bench`; DataError where no model runs here.
    """
    found = list(bench(paths, threads, rounds, formats))
    if not found:
        raise DataError("none of these bundles' models runs here; `dermdistill bundle check` says "
                        "what to install")  # fmt: skip
    rows = [["" if value is None else value for value in asdict(each).values()] for each in found]
    with atomic_write(f"{output}.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([COLUMNS, *rows])
    with atomic_write(f"{output}.png") as temporary:
        plot(found, temporary)
    shown = [COLUMNS] + [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row]
                         for row in rows]  # fmt: skip
    widths = [max(len(line[k]) for line in shown) for k in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
                     for line in shown)  # fmt: skip


if __name__ == "__main__":
    path, name, threads, rounds = sys.argv[1:]
    print(json.dumps(asdict(measure(Path(path), name, int(threads), int(rounds)))))

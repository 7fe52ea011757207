"""Size and speed of int8 against torch eager in fp32, one image at a time, one thread.

    python benchmarks/latency.py RUN [--bundle B] [--formats F,G]

Exits 1 unless some int8 format is at most 2.9 MB and at least 4 times faster. Torch and all
formats take turns, image by image, so that whatever else the machine does slows all alike.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from dermdistill.bundle import FORMATS, Bundle, can_run, open_runtime
from dermdistill.export.subject import Subject
from exported import bundle_of, options_of

MOST_MB, LEAST_GAIN = 2.9, 4.0
WARM_UP = 5


def contestants(subject: Subject, bundle: Bundle) -> dict[str, Callable[[np.ndarray], object]]:
    """Torch and every format that runs here, each as a call from pixels to answers."""
    found: dict[str, Callable[[np.ndarray], object]] = {"torch eager fp32": subject.answers}
    for name in bundle.manifest.models:
        if can_run(name):
            found[name] = open_runtime(bundle, name, threads=1).predict
    return found


def take_turns(
    calls: dict[str, Callable[[np.ndarray], object]], pixels: np.ndarray, rounds: int
) -> dict[str, np.ndarray]:
    """Milliseconds of each call at each round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(WARM_UP + rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call(pixels)
            elapsed = 1e3 * (time.perf_counter() - start)
            if turn >= WARM_UP:
                times[name].append(elapsed)
    return {name: np.array(values) for name, values in times.items()}


def report(bundle: Bundle, times: dict[str, np.ndarray]) -> int:
    """Print all side by side and the verdict; the exit code."""
    reference = float(np.median(times["torch eager fp32"]))
    fit = []
    print(f"{'':<18}{'p50 ms':>8}{'p90 ms':>8}{'p99 ms':>8}{'gain':>7}{'MB':>7}")
    for name, values in times.items():
        p50, p90, p99 = np.percentile(values, [50, 90, 99])
        size = ""
        if name in FORMATS:
            files = bundle.manifest.models[name].files
            size = sum(bundle.manifest.files[file].bytes for file in files) / 1e6
            if FORMATS[name].precision == "int8" and size <= MOST_MB:
                fit.append((reference / p50, name))
            size = f"{size:.2f}"
        print(f"{name:<18}{p50:>8.2f}{p90:>8.2f}{p99:>8.2f}{reference / p50:>7.1f}{size:>7}")
    gain, name = max(fit, default=(0.0, "no int8 format is small enough"))
    passed = gain >= LEAST_GAIN
    print(f"{'PASS' if passed else 'FAIL'}: {name}, {gain:.1f} times faster "
          f"(bars: {LEAST_GAIN:g} times, {MOST_MB:g} MB)")  # fmt: skip
    return 0 if passed else 1


def main(arguments: list[str] | None = None) -> int:
    """Parse the options, export where no bundle is given, measure."""
    parser = options_of(__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    subject = Subject.of(options.run)
    with bundle_of(options) as bundle:
        pixels = bundle.golden_pixels(bundle.golden[0])[None]
        times = take_turns(contestants(subject, bundle), pixels, options.rounds)
    print(f"{subject.run.name} at {subject.px} px, batch 1, one thread, {options.rounds} rounds")
    return report(bundle, times)


if __name__ == "__main__":
    sys.exit(main())

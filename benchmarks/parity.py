"""Every format of a run against torch in fp32, on held-out images, through its own runtime.

    python benchmarks/parity.py RUN [--bundle B] [--formats F,G] [--images 500]

Exits 1 if a format misses its bar. fp32: 1e-4 of a probability, the same first answer on every
image. int8: the same answer on 99 %, balanced accuracy within half a point, calibration error
within 0.01. Images are drawn as evenly over the classes as the test part allows, since a figure
that weighs every class alike is otherwise decided by five images of the rarest.
"""

import sys

import numpy as np
import torch

from dermdistill.bundle import FORMATS, Bundle, can_run, open_runtime
from dermdistill.data.dataset import Part
from dermdistill.errors import DermdistillError
from dermdistill.export.subject import Subject
from exported import bundle_of, options_of

SEED, RESAMPLES, BINS = 2021, 2000, 15
FP32_PROBABILITY, FP32_AGREEMENT = 1e-4, 1.0
INT8_AGREEMENT, INT8_POINTS, INT8_CALIBRATION = 0.99, 0.5, 0.01
HEADER = ("format", "largest diff.", "same answer", "bacc", "change (95 % interval), points",
          "cal. error", "change", "MB", "")  # fmt: skip


def choose(part: Part, count: int, classes: int) -> np.ndarray:
    """Positions of `count` images of a part, classes as even as it allows, always the same."""
    generator = np.random.default_rng(SEED)
    queues = [list(generator.permutation(np.flatnonzero(part.labels == k))) for k in range(classes)]
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        chosen += [queue.pop() for queue in queues if queue][: count - len(chosen)]
    return np.sort(np.array(chosen))


def balanced_accuracy(hits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that are there of the share of hits."""
    counts = np.bincount(labels)
    return float((np.bincount(labels, hits)[counts > 0] / counts[counts > 0]).mean())


def change_interval(
    ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray
) -> tuple[float, float, float]:
    """Change of balanced accuracy in points with its 95 % interval, over images paired by class."""
    generator = np.random.default_rng(SEED)
    difference = theirs.astype(float) - ours
    groups = [difference[labels == k] for k in np.unique(labels)]
    drawn = [np.mean([generator.choice(group, len(group)).mean() for group in groups])
             for _ in range(RESAMPLES)]  # fmt: skip
    low, high = np.percentile(drawn, [2.5, 97.5])
    return 100 * float(np.mean([group.mean() for group in groups])), 100 * low, 100 * high


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error of the first answer over equal bins of confidence, in [0, 1]."""
    confidence = probabilities.max(1)
    hits = probabilities.argmax(1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.abs(np.bincount(bins, hits - confidence, BINS))
    return float(gaps.sum() / len(labels))


def judge(name: str, ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray, size_mb: float):
    """One row of the table, and whether the format holds its bar."""
    apart = float(np.abs(theirs - ours).max())
    same = float((theirs.argmax(1) == ours.argmax(1)).mean())
    our_hits, their_hits = ours.argmax(1) == labels, theirs.argmax(1) == labels
    points, low, high = change_interval(our_hits, their_hits, labels)
    error = calibration_error(theirs, labels)
    drift = error - calibration_error(ours, labels)
    if FORMATS[name].precision == "int8":
        ok = same >= INT8_AGREEMENT and abs(points) <= INT8_POINTS
        ok = ok and abs(drift) <= INT8_CALIBRATION
    else:
        ok = apart <= FP32_PROBABILITY and same >= FP32_AGREEMENT
    bacc = balanced_accuracy(their_hits, labels)
    row = (name, f"{apart:.1e}", f"{same:.1%}", f"{bacc:.3f}",
           f"{points:+.2f} ({low:+.2f} to {high:+.2f})", f"{error:.3f}", f"{drift:+.4f}",
           f"{size_mb:.2f}", "PASS" if ok else "FAIL")  # fmt: skip
    return row, ok


def compare(subject: Subject, bundle: Bundle, count: int) -> int:
    """Print the table; the exit code."""
    data = subject.dataset
    if data is None:
        raise DermdistillError(f"the images of {subject.run} are gone; parity needs real ones")
    chosen = choose(data.test, count, len(data.classes))
    pixels, labels = data.test.pixels(chosen).numpy(), data.test.labels[chosen]
    ours = subject.answers(pixels).probabilities
    bacc = balanced_accuracy(ours.argmax(1) == labels, labels)
    counts = dict(zip(data.classes, np.bincount(labels, minlength=len(data.classes)), strict=True))
    print(f"{subject.run.name}, {len(chosen)} test images: "
          + ", ".join(f"{name} {number}" for name, number in counts.items()))  # fmt: skip
    print(f"torch fp32: balanced accuracy {bacc:.3f}, calibration error "
          f"{calibration_error(ours, labels):.3f}")  # fmt: skip
    rows, verdicts = [HEADER], []
    for name, model in bundle.manifest.models.items():
        if not can_run(name):
            rows.append((name, "not run here: " + FORMATS[name].install, *[""] * 7))
            continue
        size_mb = sum(bundle.manifest.files[file].bytes for file in model.files) / 1e6
        theirs = open_runtime(bundle, name).predict(pixels).probabilities
        row, ok = judge(name, ours, theirs, labels, size_mb)
        rows.append(row)
        verdicts.append(ok)
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADER))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    print(f"{'PASS' if all(verdicts) else 'FAIL'}: {sum(verdicts)} of {len(verdicts)} formats hold "
          "their bars")  # fmt: skip
    return 0 if verdicts and all(verdicts) else 1


def main(arguments: list[str] | None = None) -> int:
    """Parse the options, export where no bundle is given, compare."""
    parser = options_of(__doc__)
    parser.add_argument("--images", type=int, default=500)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with bundle_of(options) as bundle:
        return compare(Subject.of(options.run), bundle, options.images)


if __name__ == "__main__":
    sys.exit(main())

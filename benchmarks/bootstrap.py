"""Every figure with its interval on 25,331 images: our bootstrap beside one over scikit-learn.

    python benchmarks/bootstrap.py

Both draw the same lesions; scikit-learn's figures (a part of ours) are computed on a few draws
and their time is scaled up. Peak memory is that of the whole process. The last line is the
verdict; exit 1 when short.
"""

import argparse
import resource
import sys
import time

import numpy as np
import sklearn.metrics as skm

from dermdistill.config import EvaluationConfig
from dermdistill.evaluate.intervals import bootstrap
from dermdistill.evaluate.predictions import Predictions

MOST_SECONDS, MOST_MB = 20.0, 2048.0
CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
SHARES = (0.178, 0.508, 0.131, 0.034, 0.104, 0.009, 0.010, 0.025, 0.001)
LESION_IMAGES = 2.1  # images a lesion, as in ISIC 2019
SEED, SCIKIT_DRAWS = 2021, 3


def invented(images: int) -> tuple[Predictions, np.ndarray]:
    """Predictions of ISIC 2019's size and shares, and each image's lesion."""
    rng = np.random.default_rng(SEED)
    units = np.sort(rng.integers(0, int(images / LESION_IMAGES), images))
    units = np.unique(units, return_inverse=True)[1]
    labels = rng.choice(len(CLASSES), int(units.max()) + 1, p=SHARES)[units]
    logits = rng.normal(0, 1, (images, len(CLASSES))) + 2 * np.eye(len(CLASSES))[labels]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = [f"ISIC_{row:07d}" for row in range(images)]
    return Predictions(ids, CLASSES, shares, labels), units


def scikit_draw(predictions: Predictions, rows: np.ndarray) -> None:
    """The figures that scikit-learn has, on one draw."""
    truth, guess = predictions.labels[rows], predictions.predicted[rows]
    skm.confusion_matrix(truth, guess)
    skm.precision_recall_fscore_support(truth, guess, zero_division=0)
    skm.cohen_kappa_score(truth, guess)
    skm.matthews_corrcoef(truth, guess)
    for code in range(len(predictions.classes)):
        positive, score = truth == code, predictions.probabilities[rows, code]
        if 0 < positive.sum() < len(positive):
            skm.roc_auc_score(positive, score)
            skm.average_precision_score(positive, score)


def scikit_seconds(predictions: Predictions, units: np.ndarray, draws: int) -> float:
    """Seconds of all draws through scikit-learn, from a few."""
    rng = np.random.default_rng(SEED)
    start = time.process_time()
    for _ in range(SCIKIT_DRAWS):
        times = np.bincount(rng.integers(0, units.max() + 1, units.max() + 1))
        counts = np.pad(times, (0, int(units.max()) + 1 - len(times)))
        scikit_draw(predictions, np.repeat(np.arange(len(units)), counts[units]))
    return (time.process_time() - start) / SCIKIT_DRAWS * draws


def main() -> int:
    """Measure both and judge ours."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=25_331)
    parser.add_argument("--draws", type=int, default=2000)
    options = parser.parse_args()
    predictions, units = invented(options.images)
    busy, start = time.process_time(), time.perf_counter()
    made = bootstrap(predictions, units, EvaluationConfig(draws=options.draws))
    wall, busy = time.perf_counter() - start, time.process_time() - busy
    start = time.perf_counter()
    intervals = {key: made.interval(key) for key in made.point}
    ends = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024
    mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    theirs = scikit_seconds(predictions, units, options.draws)
    print(
        f"{options.images} images x {len(CLASSES)} classes, {units.max() + 1} lesions, "
        f"{options.draws} draws, {len(made.point)} figures a draw, "
        f"{sum(found is not None for found in intervals.values())} with a BCa interval"
    )
    for name, seconds in (("ours, wall", wall + ends), ("ours, processor", busy + ends),
                          ("scikit-learn, fewer figures, processor", theirs)):  # fmt: skip
        print(f"{name:<40}{seconds:>10.1f} s")
    for key in (("accuracy",), ("balanced_accuracy",), ("macro_auc",), ("per_class", "DF", "auc")):
        low, high = intervals[key]
        print(f"{'/'.join(key):<40}{made.point[key]:>10.4f}  [{low:.4f}, {high:.4f}]")
    passed = busy + ends < MOST_SECONDS and mb < MOST_MB
    print(
        f"{'PASS' if passed else 'FAIL'}: {busy + ends:.1f} s of processor time (bar "
        f"{MOST_SECONDS:g}), {mb:.0f} MB at most (bar {MOST_MB:g})"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

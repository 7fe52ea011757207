"""How often a 95 % interval holds the truth, drawing lesions and drawing images.

    python benchmarks/coverage.py

Each simulation invents a test set whose lesions have one to several images that resemble each
other, and asks every interval for the truth, which is known from a very large such set. 1,000
simulations put a share that is truly 0.945 below the bar of 0.93 once in fifty times a figure, so
there are 4,000; images are drawn in every fourth. The last line is the verdict; exit 1 when short.
"""

import argparse
import sys

import numpy as np

from dermdistill.config import EvaluationConfig
from dermdistill.evaluate.intervals import bootstrap
from dermdistill.evaluate.predictions import Predictions
from dermdistill.evaluate.significance import delong
from dermdistill.evaluate.tally import Tally

CLASSES, SHARES, SKILL = ("MEL", "NV", "BCC"), (0.25, 0.5, 0.25), 1.3
MORE_IMAGES = 2.0  # a lesion has one image and Poisson many more
LESION_SPREAD, IMAGE_SPREAD = 1.2, 0.4  # of logits, between lesions and inside one
TRUTH_LESIONS = 100_000
FIGURES = (("accuracy",), ("balanced_accuracy",), ("macro_auc",), ("per_class", "MEL", "auc"),
           ("per_class", "MEL", "sensitivity"), ("malignant", "sensitivity"))  # fmt: skip
LOW, HIGH = 0.93, 0.97  # where the coverage of drawing lesions must lie
VISIBLY_SHORT = 0.90  # what drawing images must stay below, in every figure
IMAGES_EVERY = 4  # simulations: what falls short by so much shows in a quarter of them
SEED = 2021


def invented(lesions: int, rng: np.random.Generator) -> tuple[Predictions, np.ndarray]:
    """Predictions whose errors a lesion's images share, and each image's lesion."""
    units = np.repeat(np.arange(lesions), 1 + rng.poisson(MORE_IMAGES, lesions))
    labels = rng.choice(len(CLASSES), lesions, p=SHARES)
    centre = rng.normal(0, LESION_SPREAD, (lesions, len(CLASSES)))
    centre += SKILL * np.eye(len(CLASSES))[labels]
    logits = centre[units] + rng.normal(0, IMAGE_SPREAD, (len(units), len(CLASSES)))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = [str(row) for row in range(len(units))]
    return Predictions(ids, CLASSES, shares, labels[units]), units


def main() -> int:
    """Simulate, count and judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--simulations", type=int, default=4000)
    parser.add_argument("--lesions", type=int, default=200)
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    settings = EvaluationConfig(draws=options.draws)
    whole, units = invented(TRUTH_LESIONS, np.random.default_rng(SEED))
    all_in_one = Tally(whole, np.zeros(len(whole), np.int64), settings)
    truth = all_in_one.figures(np.ones((1, 1)))
    held: dict[str, np.ndarray] = {}

    def count(name: str, place: int, interval: tuple[float, float] | None) -> None:
        if interval is not None:
            value = truth[FIGURES[place]][0]
            held.setdefault(name, np.zeros((len(FIGURES), 2)))[place] += (
                interval[0] <= value <= interval[1], 1,
            )  # fmt: skip

    for simulation in range(options.simulations):
        made, units = invented(options.lesions, np.random.default_rng([SEED, simulation]))
        # Draws of their own: with one seed all simulations would share the luck of a few draws.
        by_lesion = bootstrap(made, units, settings, seed=simulation)
        by_image = None
        if simulation % IMAGES_EVERY == 0:
            by_image = bootstrap(made, np.arange(len(made)), settings, seed=simulation)
        for place, key in enumerate(FIGURES):
            count("lesions, BCa", place, by_lesion.interval(key))
            count("lesions, percentile", place, by_lesion.interval(key, "percentile"))
            if by_image is not None:
                count("images, BCa", place, by_image.interval(key))
        _count_delong(count, made, units)
    return _judge(held, options)


def _count_delong(count, made: Predictions, units: np.ndarray) -> None:
    place = FIGURES.index(("per_class", "MEL", "auc"))
    positive, score = made.labels == 0, made.probabilities[None, :, 0]
    for name, whose in (("lesions, DeLong", units), ("images, DeLong", None)):
        areas = delong(positive, score, whose)
        count(name, place, areas and areas.interval(0))


def _judge(held: dict[str, np.ndarray], options: argparse.Namespace) -> int:
    print(f"{options.simulations} simulations of {options.lesions} lesions with "
          f"{1 + MORE_IMAGES:g} images each on average, {options.draws} draws")  # fmt: skip
    names = ["/".join(key[-2:]) for key in FIGURES]
    print(f"{'share that holds the truth':<28}" + "".join(f"{name:>24}" for name in names))
    with np.errstate(invalid="ignore"):
        shares = {name: counts[:, 0] / counts[:, 1] for name, counts in held.items()}
    for name, row in shares.items():
        cells = "".join(f"{'' if np.isnan(share) else f'{share:.3f}':>24}" for share in row)
        print(f"{name:<28}{cells}")
    good, short = shares["lesions, BCa"], shares["images, BCa"]
    passed = bool((good >= LOW).all() and (good <= HIGH).all() and (short < VISIBLY_SHORT).all())
    print(f"{'PASS' if passed else 'FAIL'}: drawing lesions {good.min():.3f} to {good.max():.3f} "
          f"(bar {LOW:g} to {HIGH:g}), drawing images {short.min():.3f} to {short.max():.3f} "
          f"(bar below {VISIBLY_SHORT:g})")  # fmt: skip
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

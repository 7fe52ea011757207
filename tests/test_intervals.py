"""Draws against metrics of repeated images, intervals against scipy's, lesions against images."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

from dermdistill.config import EvaluationConfig
from dermdistill.errors import DataError
from dermdistill.evaluate.intervals import bootstrap
from dermdistill.evaluate.metrics import classification_metrics
from dermdistill.evaluate.predictions import Predictions
from dermdistill.evaluate.tally import Tally
from test_metrics import random_predictions

SETTINGS = EvaluationConfig(["class 0", "class 1"], "class 1", [0.5, 0.9], draws=400)


def repeated(predictions: Predictions, times: np.ndarray) -> Predictions:
    """Every image as often as `times` says, under names of their own."""
    rows = np.repeat(np.arange(len(predictions)), times)
    return Predictions([str(row) for row in range(len(rows))], predictions.classes,
                       predictions.probabilities[rows], predictions.labels[rows])  # fmt: skip


def skilled(images: int, seed: int, skill: float = 1.5) -> Predictions:
    """Three classes, right more often the larger the skill."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, images, p=[0.5, 0.3, 0.2])
    logits = rng.normal(0, 1, (images, 3)) + skill * np.eye(3)[labels]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions([f"{row}" for row in range(images)],
                       ("class 0", "class 1", "class 2"), shares, labels)  # fmt: skip


def test_a_draw_equals_the_metrics_of_its_images():
    """The whole bootstrap rests on this: weights are nothing but images written several times."""
    compared = 0
    for seed in range(30):
        predictions = random_predictions(300 + seed)
        rng = np.random.default_rng(seed)
        units = np.unique(rng.integers(0, 8, len(predictions)), return_inverse=True)[1]
        weights = rng.integers(0, 4, (units.max() + 1, 3))
        figures = Tally(predictions, units, SETTINGS).figures(weights.astype(float))
        for draw in range(3):
            alone = classification_metrics(repeated(predictions, weights[units, draw]), SETTINGS)
            for key, values in figures.items():
                value = alone
                for name in key:
                    value = None if value is None else value.get(name)
                mine = values[draw]
                assert math.isnan(mine) if value is None else mine == pytest.approx(value), key
                compared += value is not None
    assert compared > 1000


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_intervals_are_those_of_scipy_where_every_image_is_a_lesion(method):
    predictions = skilled(150, seed=1)
    right = (predictions.predicted == predictions.labels).astype(float)
    made = bootstrap(predictions, np.arange(150), EvaluationConfig(draws=4000))
    theirs = scipy_bootstrap(
        (right,), np.mean, n_resamples=4000, method=method, rng=np.random.default_rng(2)
    ).confidence_interval
    mine = made.interval(("accuracy",), method)
    assert mine == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_bca_moves_the_ends_of_a_skewed_figure_as_scipy_does():
    """A share near 1: percentile and BCa differ by more than the draws' own noise."""
    hits = np.array([1.0] * 56 + [0.0] * 4)
    sure = np.where(hits[:, None] > 0, [0.9, 0.1], [0.1, 0.9])
    predictions = Predictions([str(row) for row in range(60)], ("a", "b"), sure, np.zeros(60, int))
    made = bootstrap(predictions, np.arange(60), EvaluationConfig(draws=8000))
    theirs = scipy_bootstrap((hits,), np.mean, n_resamples=8000, method="BCa",
                             rng=np.random.default_rng(3)).confidence_interval  # fmt: skip
    assert made.interval(("accuracy",)) == pytest.approx((theirs.low, theirs.high), abs=1 / 60)
    assert made.interval(("accuracy",)).low < made.interval(("accuracy",), "percentile").low


def test_images_of_one_lesion_are_no_further_evidence():
    """Each image copied four times: drawing lesions gives the same interval, images half of it."""
    predictions = skilled(100, seed=4)
    copies = repeated(predictions, np.full(100, 4))
    alone = bootstrap(predictions, np.arange(100), SETTINGS)
    lesions = bootstrap(copies, np.repeat(np.arange(100), 4), SETTINGS)
    images = bootstrap(copies, np.arange(400), SETTINGS)
    for key in (("accuracy",), ("macro_auc",), ("per_class", "class 2", "auc")):
        assert lesions.interval(key) == pytest.approx(alone.interval(key))
        width = np.ptp(lesions.interval(key))
        assert np.ptp(images.interval(key)) == pytest.approx(width / 2, rel=0.3)


def test_a_difference_is_taken_lesion_by_lesion():
    one, other = skilled(200, seed=5), skilled(200, seed=5, skill=3.0)
    units = np.arange(200) // 2
    first, second = (bootstrap(made, units, SETTINGS) for made in (one, other))
    same = first.minus(first, ("accuracy",))
    assert same == (0.0, (0.0, 0.0), 1.0)
    better = second.minus(first, ("accuracy",))
    assert better.value == pytest.approx(second.point["accuracy",] - first.point["accuracy",])
    assert better.interval.low > 0
    assert better.p_value < 0.05
    alone = np.ptp(first.interval(("accuracy",))) + np.ptp(second.interval(("accuracy",)))
    assert np.ptp(better.interval) < alone
    back = first.minus(second, ("accuracy",))
    assert back.p_value == better.p_value
    assert back.interval == pytest.approx((-better.interval.high, -better.interval.low), abs=0.02)


def test_what_cannot_be_compared_or_given_is_said():
    predictions = skilled(40, seed=6)
    units = np.arange(40)
    made = bootstrap(predictions, units, SETTINGS)
    other = bootstrap(predictions, units // 2, SETTINGS)
    with pytest.raises(DataError, match="different images or different draws"):
        made.minus(other, ("accuracy",))
    with pytest.raises(DataError, match="40 images need one unit each"):
        bootstrap(predictions, units[:-1], SETTINGS)
    lonely = Predictions(predictions.ids, (*predictions.classes, "absent"),
                         np.pad(predictions.probabilities, ((0, 0), (0, 1))),
                         predictions.labels)  # fmt: skip
    without = bootstrap(lonely, units, SETTINGS)
    key = ("per_class", "absent", "sensitivity")
    assert without.interval(key) is without.minus(without, key) is None


def test_the_same_seed_gives_the_same_draws():
    predictions, units = skilled(50, seed=8), np.arange(50)
    one, again, other = (bootstrap(predictions, units, SETTINGS, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.draws["macro_auc",], again.draws["macro_auc",])
    assert not np.array_equal(one.draws["macro_auc",], other.draws["macro_auc",])

"""Calibration by loops over its definitions, and scalings that undo a known distortion."""

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss

from dermdistill.errors import DataError
from dermdistill.evaluate.calibration import (
    calibration_metrics,
    fit_temperature,
    fit_vector,
    reliability,
)
from dermdistill.evaluate.predictions import Predictions
from test_intervals import skilled


def distorted(predictions: Predictions, scale, shift=0.0) -> Predictions:
    """The same images with logits times a scale plus a shift."""
    logits = np.log(predictions.probabilities) * scale + shift
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(predictions.ids, predictions.classes, shares, predictions.labels)


def honest(images: int, seed: int) -> Predictions:
    """Labels drawn from the probabilities themselves: calibrated by construction."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (images, 4))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (shares.cumsum(axis=1) < rng.random((images, 1))).sum(axis=1).clip(max=3)
    return Predictions([f"{row}" for row in range(images)], tuple("abcd"), shares, labels)


def plain_error(confidence, right, bins: int, equal_mass: bool) -> float:
    """Expected calibration error, one image at a time."""
    order = sorted(range(len(confidence)), key=lambda row: confidence[row])
    places: dict[int, list[int]] = {}
    for rank, row in enumerate(order):
        if equal_mass:
            place = rank * bins // len(order)
        else:  # bin m holds ((m - 1) / bins, m / bins]
            place = next(m for m in range(bins) if confidence[row] <= (m + 1) / bins)
        places.setdefault(place, []).append(row)
    gaps = [
        abs(sum(right[row] for row in rows) - sum(confidence[row] for row in rows))
        for rows in places.values()
    ]
    return sum(gaps) / len(confidence)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_calibration_error_equals_loops_over_its_definition(equal_mass):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        confidence, right = rng.random(40), rng.random(40) < 0.6
        got = reliability(confidence, right, 7, equal_mass)
        assert got.error == pytest.approx(plain_error(confidence, right, 7, equal_mass))
        assert got.images.sum() == 40
        if equal_mass:
            assert np.ptp(got.images) <= 1


def test_brier_and_likelihood_are_their_definitions():
    made = skilled(60, seed=1)
    got = calibration_metrics(made)
    rows = zip(made.probabilities.tolist(), made.labels.tolist(), strict=True)
    brier = [sum((p - (k == t)) ** 2 for k, p in enumerate(row)) for row, t in rows]
    assert got["brier"] == pytest.approx(sum(brier) / 60)
    assert got["nll"] == pytest.approx(log_loss(made.labels, made.probabilities))
    never = Predictions(["a"], ("x", "y"), np.array([[0.0, 1.0]]), np.array([0]))
    assert math.isfinite(calibration_metrics(never)["nll"])
    unlabelled = Predictions(["a"], ("x", "y"), np.array([[0.0, 1.0]]), np.array([-1]))
    assert set(calibration_metrics(unlabelled).values()) == {None}


def test_a_calibrated_classifier_has_little_error_and_an_overconfident_one_much():
    made = honest(20_000, seed=2)
    assert calibration_metrics(made)["ece"] < 0.015
    assert calibration_metrics(distorted(made, 3.0))["ece"] > 0.1


def test_temperature_undoes_a_known_temperature():
    made = honest(20_000, seed=3)
    fitted = fit_temperature(distorted(made, 2.5))
    assert fitted.scale == pytest.approx(np.full(4, 1 / 2.5), rel=0.05)
    mended = fitted.apply(distorted(made, 2.5))
    assert np.array_equal(mended.predicted, made.predicted)
    assert calibration_metrics(mended)["nll"] == pytest.approx(
        calibration_metrics(made)["nll"], abs=1e-3
    )


def test_vector_scaling_undoes_a_shift_that_a_temperature_cannot():
    made = honest(20_000, seed=4)
    wrong = distorted(made, 1.5, np.array([0.0, 1.0, -1.0, 0.5]))
    losses = {
        "wrong": calibration_metrics(wrong)["nll"],
        "temperature": calibration_metrics(fit_temperature(wrong).apply(wrong))["nll"],
        "vector": calibration_metrics(fit_vector(wrong).apply(wrong))["nll"],
        "honest": calibration_metrics(made)["nll"],
    }
    assert losses["vector"] < losses["temperature"] < losses["wrong"]
    assert losses["vector"] == pytest.approx(losses["honest"], abs=2e-3)


def test_scaling_survives_certainty_and_an_absent_class():
    sure = Predictions(["a", "b", "c"], ("x", "y", "z"), np.eye(3)[[0, 1, 0]], np.array([0, 1, 1]))
    for fit in (fit_temperature, fit_vector):
        assert np.isfinite(fit(sure).apply(sure).probabilities).all()
    unlabelled = Predictions(["a"], ("x", "y"), np.array([[0.5, 0.5]]), np.array([-1]))
    with pytest.raises(DataError, match="no validation image has a label"):
        fit_temperature(unlabelled)

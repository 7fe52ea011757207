"""Abstaining by loops over its definition; a cascade is its ends at its ends."""

import numpy as np
import pytest

from dermdistill.errors import DataError
from dermdistill.evaluate.metrics import classification_metrics
from dermdistill.evaluate.predictions import Predictions
from dermdistill.evaluate.selective import cascade, least_confidence, risk_coverage
from test_intervals import skilled


def test_risk_equals_a_loop_over_the_surest_images():
    made = skilled(40, seed=1)
    order = np.argsort(-made.probabilities.max(axis=1))
    wrong = (made.predicted != made.labels)[order]
    got = risk_coverage(made)
    assert got.coverage == pytest.approx(np.arange(1, 41) / 40)
    assert got.risk == pytest.approx([wrong[:n].mean() for n in range(1, 41)])
    assert got.area == pytest.approx(np.mean([wrong[:n].mean() for n in range(1, 41)]))


def test_equally_sure_images_share_their_errors_whatever_their_order():
    values = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]] * 2)
    for labels in ([0, 0, 0, 1, 0, 1], [1, 0, 0, 0, 1, 0]):
        made = Predictions(list("abcdef"), ("x", "y"), values, np.array(labels))
        assert risk_coverage(made).risk == pytest.approx([1 / 4] * 4 + [1.5 / 5, 2 / 6])


def test_perfect_confidence_puts_every_error_last():
    labels = np.array([0] * 8 + [1] * 2)
    values = np.array([[0.9, 0.1]] * 8 + [[0.6, 0.4]] * 2)
    curve = risk_coverage(Predictions([str(row) for row in range(10)], ("x", "y"), values, labels))
    assert curve.risk == pytest.approx([0] * 8 + [1 / 9, 2 / 10])
    unlabelled = Predictions(["a"], ("x", "y"), np.array([[1.0, 0.0]]), np.array([-1]))
    with pytest.raises(DataError, match="no image has a label"):
        risk_coverage(unlabelled)


@pytest.mark.parametrize("accuracy", [0.6, 0.75, 0.9, 0.99])
def test_the_least_confidence_is_the_first_that_keeps_the_share(accuracy):
    """By a loop over every confidence there is; answers are those at or above it."""
    for seed in range(8):
        made = skilled(60, seed)
        top, right = made.probabilities.max(axis=1), made.predicted == made.labels
        kept = [level for level in sorted(set(top)) if right[top >= level].mean() >= accuracy]
        wanted = (kept[0], (top >= kept[0]).mean()) if kept else (1.0, 0.0)
        assert least_confidence(made, accuracy) == pytest.approx(wanted)


def test_nothing_is_answered_where_no_confidence_is_enough():
    values = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    made = Predictions(list("abc"), ("x", "y"), values, np.array([0, 1, 0]))
    assert least_confidence(made, 0.9) == (1.0, 0.0)
    assert least_confidence(made, 0.5) == (0.6, 1.0)


def test_a_cascade_begins_as_the_student_and_ends_as_the_teacher():
    student, teacher = skilled(300, seed=2, skill=1.0), skilled(300, seed=2, skill=4.0)
    points = cascade(student, teacher)
    for point, alone in ((points[0], student), (points[-1], teacher)):
        figures = classification_metrics(alone)
        assert point.accuracy == figures["accuracy"]
        assert point.balanced_accuracy == figures["balanced_accuracy"]
    assert (points[0].share, points[-1].share) == (0, 1)
    half = next(point for point in points if point.share == 0.5)
    middle = (points[0].accuracy + points[-1].accuracy) / 2
    assert half.accuracy > middle  # the least sure half gains more than a random half would
    with pytest.raises(DataError, match="same images"):
        cascade(student, skilled(299, seed=2))

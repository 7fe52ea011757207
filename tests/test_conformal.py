"""Conformal sets by loops over their definition; the promise holds over many repetitions."""

import numpy as np
import pytest

from dermdistill.errors import DataError
from dermdistill.evaluate.conformal import (
    conformal_quantile,
    conformal_sets,
    coverage_bounds,
    coverage_by_class,
    first_of_each,
)
from dermdistill.evaluate.predictions import Predictions
from test_intervals import skilled


def plain_sets(calibration: Predictions, asked: Predictions, coverage: float, per_class: bool):
    """A class is in the set unless fewer than the allowed share fit at least as badly."""
    fits = [(int(t), 1 - row[t]) for t, row in
            zip(calibration.labels, calibration.probabilities, strict=True)]  # fmt: skip
    sets = []
    for row in asked.probabilities:
        names = []
        for code, share in enumerate(row):
            rivals = [s for t, s in fits if t == code or not per_class]
            worse = sum(s >= 1 - share for s in rivals)
            names.append((worse + 1) / (len(rivals) + 1) >= 1 - coverage)
        sets.append(names)
    return np.array(sets)


@pytest.mark.parametrize("per_class", [False, True])
def test_sets_equal_loops_over_the_definition(per_class):
    for seed in range(10):
        calibration, asked = skilled(57, seed), skilled(23, 100 + seed)
        got = conformal_sets(calibration, asked, 0.85, per_class)
        assert np.array_equal(got, plain_sets(calibration, asked, 0.85, per_class))


@pytest.mark.parametrize("coverage", [0.5, 0.83, 0.95])
def test_one_number_gives_the_same_sets(coverage):
    """56 images: no coverage here times 57 is whole, where the two may differ by one image."""
    for seed in range(10):
        calibration, asked = skilled(56, seed), skilled(23, 100 + seed)
        sets = 1 - asked.probabilities <= conformal_quantile(calibration, coverage)
        assert np.array_equal(sets, plain_sets(calibration, asked, coverage, False))


def test_too_few_images_leave_no_class_out():
    assert conformal_quantile(skilled(18, 1), 0.95) == 1.0
    assert conformal_quantile(skilled(19, 1), 0.95) < 1.0


@pytest.mark.parametrize("per_class", [False, True])
def test_the_promise_is_kept_over_many_repetitions(per_class):
    """Even for a classifier that knows nothing: its sets are just large."""
    kept = checks = 0
    for seed in range(150):
        calibration, asked = skilled(200, seed, 0.7), skilled(200, 900 + seed, 0.7)
        sets = conformal_sets(calibration, asked, 0.8, per_class)
        rows = coverage_by_class(sets, asked, calibration, 0.8, per_class, chance=0.05)
        assert [row.name for row in rows] == (list(asked.classes) if per_class else ["overall"])
        kept, checks = kept + sum(row.kept for row in rows), checks + len(rows)
    assert kept / checks > 0.91  # 0.95 is promised; 150 repetitions leave this much chance


def test_bounds_are_those_of_repeated_draws():
    """Threshold and test images drawn anew, without any classifier."""
    rng = np.random.default_rng(5)
    calibrated, tested, coverage = 60, 40, 0.9
    counts = []
    for _ in range(4000):
        strange, new = rng.random(calibrated), rng.random(tested)
        p_values = ((strange[None] >= new[:, None]).sum(1) + 1) / (calibrated + 1)
        counts.append((p_values >= 1 - coverage).sum())
    low, high = coverage_bounds(calibrated, tested, coverage, chance=0.1)
    within = np.mean([(low <= count <= high) for count in counts])
    assert 0.9 <= within < 0.97
    assert coverage_bounds(5, 10, 0.9) == (10, 10)  # too few to leave a class out


def test_what_cannot_be_calibrated_is_in_every_set_or_refused():
    made = skilled(50, seed=1)
    without = Predictions(made.ids, made.classes, made.probabilities,
                          np.where(made.labels == 2, 0, made.labels))  # fmt: skip
    assert conformal_sets(without, made, 0.9, per_class=True)[:, 2].all()
    with pytest.raises(DataError, match="no calibration image has a label"):
        conformal_sets(Predictions(made.ids, made.classes, made.probabilities,
                                   np.full(50, -1)), made)  # fmt: skip
    with pytest.raises(DataError, match="both must come from one network"):
        conformal_sets(made, Predictions(["a"], ("x", "y"), np.array([[1.0, 0.0]]), np.array([0])))


def test_one_image_a_lesion():
    assert first_of_each(np.array([3, 1, 3, 0, 1, 2])).tolist() == [0, 1, 3, 5]

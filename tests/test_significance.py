"""DeLong by loops over its equations, McNemar by the binomial, Holm by its definition."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dermdistill.evaluate.significance import delong, holm, mcnemar


def plain_covariance(positive, scores, units) -> np.ndarray:
    """Obuchowski's covariance by loops over pairs and clusters, float64."""

    def won(high: float, low: float) -> float:
        return float(high > low) + 0.5 * (high == low)

    high = [row for row, truth in enumerate(positive) if truth]
    low = [row for row, truth in enumerate(positive) if not truth]
    m, n, models = len(high), len(low), len(scores)
    areas, x, y = [], [], []
    for row in scores:
        x.append({i: sum(won(row[i], row[j]) for j in low) / n for i in high})
        y.append({j: sum(won(row[i], row[j]) for i in high) / m for j in low})
        areas.append(sum(x[-1].values()) / m)
    names = sorted(set(units))
    covariance = np.zeros((models, models))
    for a in range(models):
        for b in range(models):
            s10 = s01 = s11 = 0.0
            for name in names:
                xs = [sum(x[k][i] - areas[k] for i in high if units[i] == name) for k in (a, b)]
                ys = [sum(y[k][j] - areas[k] for j in low if units[j] == name) for k in (a, b)]
                s10, s01 = s10 + xs[0] * xs[1], s01 + ys[0] * ys[1]
                s11 += xs[0] * ys[1] + ys[0] * xs[1]
            i10, i01 = len({units[i] for i in high}), len({units[j] for j in low})
            covariance[a, b] = (s10 * i10 / (i10 - 1) / m**2 + s01 * i01 / (i01 - 1) / n**2
                                + s11 * len(names) / (len(names) - 1) / (m * n))  # fmt: skip
    return covariance


def test_delong_equals_loops_over_its_equations():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        images = int(rng.integers(12, 30))
        positive = rng.permutation(np.arange(images) < images // 3)
        scores = np.round(rng.normal(0, 1, (2, images)) + positive, 1)  # with ties
        units = rng.integers(0, 9, images) if seed % 2 else np.arange(images)
        found = delong(positive, scores, units)
        expected = [roc_auc_score(positive, row) for row in scores]
        assert found.values == pytest.approx(expected)
        assert found.covariance == pytest.approx(plain_covariance(positive, scores, units))


def test_delong_without_lesions_is_delong_of_lesions_of_one_image():
    rng = np.random.default_rng(1)
    positive = rng.random(60) < 0.4
    scores = rng.normal(0, 1, (3, 60)) + positive
    alone, units = delong(positive, scores), delong(positive, scores, rng.permutation(60))
    assert alone.covariance == pytest.approx(units.covariance)
    assert delong(np.zeros(60, bool), scores) is None


def test_delong_tells_a_difference_from_none():
    rng = np.random.default_rng(2)
    positive = rng.random(400) < 0.3
    good, bad = rng.normal(0, 1, 400) + 2 * positive, rng.normal(0, 1, 400)
    found = delong(positive, np.stack([good, bad, good]))
    assert found.p_value(0, 1) < 1e-6
    assert found.p_value(0, 2) == 1
    assert found.interval(1).low < 0.5 < found.interval(1).high
    assert found.interval(0).high <= 1


def test_mcnemar_counts_what_only_one_names_rightly():
    one = np.array([True] * 10 + [False] * 2 + [True] * 30 + [False] * 5)
    other = np.array([False] * 10 + [True] * 2 + [True] * 30 + [False] * 5)
    got = mcnemar(one, other)
    assert got[:2] == (10, 2)
    assert got.p_value == pytest.approx(2 * sum(math.comb(12, k) for k in range(3)) / 2**12)
    assert mcnemar(one, one) == (0, 0, 1.0)


def test_holm_is_its_definition():
    """Hand-worked: 0.01 x 4, then 0.02 x 3, 0.03 x 2 no smaller than that, 0.5 x 1."""
    assert holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []

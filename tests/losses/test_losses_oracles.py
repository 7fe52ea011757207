"""Every loss against plain loops in float64, written from the equations."""

import itertools
import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from dermdistill import losses

IMAGES, VIEWS = 3, 4


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def smooth_l1(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def cross_entropy_oracle(logits, target, weights=None):
    weights = weights or [1.0] * len(logits[0])
    total = sum(
        -weights[y] * math.log(softmax(row)[y]) for row, y in zip(logits, target, strict=True)
    )
    return total / sum(weights[y] for y in target)


def kd_oracle(student, teacher, temperature):
    total = 0.0
    for s_row, t_row in zip(student, teacher, strict=True):
        for s, t in zip(softmax(s_row, temperature), softmax(t_row, temperature), strict=True):
            total += t * math.log(t / s)
    return temperature**2 * total / len(student)


def distances_oracle(rows):
    count = len(rows)
    table = [[0.0] * count for _ in rows]
    for i, j in itertools.permutations(range(count), 2):
        square = sum((a - b) ** 2 for a, b in zip(rows[i], rows[j], strict=True))
        table[i][j] = math.sqrt(max(square, 1e-12))
    positive = [d for row in table for d in row if d > 0]
    mean = sum(positive) / len(positive)
    return [[d / mean for d in row] for row in table]


def rkd_distance_oracle(student, teacher):
    s_table, t_table = distances_oracle(student), distances_oracle(teacher)
    pairs = itertools.product(range(len(student)), repeat=2)
    return sum(smooth_l1(s_table[i][j] - t_table[i][j]) for i, j in pairs) / len(student) ** 2


def cosine_oracle(rows, i, j, k):
    first = [a - b for a, b in zip(rows[j], rows[i], strict=True)]
    second = [a - b for a, b in zip(rows[k], rows[i], strict=True)]
    lengths = math.hypot(*first) * math.hypot(*second)
    return sum(a * b for a, b in zip(first, second, strict=True)) / lengths if lengths > 0 else 0.0


def rkd_angle_oracle(student, teacher):
    total = 0.0
    for triplet in itertools.product(range(len(student)), repeat=3):
        total += smooth_l1(cosine_oracle(student, *triplet) - cosine_oracle(teacher, *triplet))
    return total / len(student) ** 3


def gram_oracle(feature):
    channels, rows, cols = len(feature), len(feature[0]), len(feature[0][0])
    flat = [[value for row in channel for value in row] for channel in feature]
    size = channels * rows * cols
    return [[sum(a * b for a, b in zip(p, q, strict=True)) / size for q in flat] for p in flat]


def channel_gram_oracle(student, teacher):
    squares = []
    for s_feature, t_feature in zip(student, teacher, strict=True):
        for s_row, t_row in zip(gram_oracle(s_feature), gram_oracle(t_feature), strict=True):
            squares += [(s - t) ** 2 for s, t in zip(s_row, t_row, strict=True)]
    return math.sqrt(sum(squares) / len(squares))


def view_similarity_oracle(embeddings):
    rows = []
    for image in embeddings:
        for rotated in image[1:]:
            row = []
            for other in embeddings:
                product = sum(a * b for a, b in zip(rotated, other[0], strict=True))
                row.append(product / (math.hypot(*rotated) * math.hypot(*other[0])))
            rows.append(row)
    return rows


def kept_rows_oracle(scores, target, keep_ratio):
    ranks = []
    for row, own in zip(scores, target, strict=True):
        order = sorted(range(len(row)), key=lambda column: -row[column])  # Python sorts stably
        ranks.append(order.index(own))
    wrong = sum(rank > 0 for rank in ranks)
    kept = len(ranks) - wrong + int(wrong * keep_ratio)
    return sorted(sorted(range(len(ranks)), key=lambda row: ranks[row])[:kept])


@pytest.mark.parametrize("weights", [None, [1.0, 5.5, 0.25]])
def test_cross_entropy_is_the_weighted_mean(weights):
    logits, target = randn(7, 3), torch.tensor([0, 2, 1, 1, 0, 2, 2])
    given = None if weights is None else torch.tensor(weights)
    found = losses.cross_entropy_loss(logits, target, given)
    expected = cross_entropy_oracle(logits.tolist(), target.tolist(), weights)
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_kd(temperature):
    student, teacher = randn(6, 4), randn(6, 4, seed=1)
    expected = kd_oracle(student.tolist(), teacher.tolist(), temperature)
    found = losses.kd_loss(student, teacher, temperature)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_feature_mse():
    student, teacher = randn(2, 3, 2, 2), randn(2, 3, 2, 2, seed=1)
    pairs = list(zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    expected = sum((s - t) ** 2 for s, t in pairs) / len(pairs)
    assert losses.feature_mse_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_feature_mse_refuses_what_torch_would_broadcast():
    with pytest.raises((ValueError, TypeCheckError), match=r"connector|rows"):
        losses.feature_mse_loss(randn(2, 3, 4, 4), randn(2, 3, 1, 1))


def with_equal_rows(rows: Tensor) -> Tensor:
    rows = rows.clone()
    rows[3] = rows[1]
    return rows


@pytest.mark.parametrize("change", [lambda rows: rows, with_equal_rows])
@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle"])
def test_rkd(name, change):
    student, teacher = change(randn(7, 3)), randn(7, 5, seed=1)
    oracle = {"rkd_distance": rkd_distance_oracle, "rkd_angle": rkd_angle_oracle}[name]
    expected = oracle(student.tolist(), teacher.tolist())
    assert losses.LOSSES[name](student, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_rkd_angle_in_many_blocks(monkeypatch):
    student, teacher = randn(7, 3), randn(7, 5, seed=1)
    whole = losses.rkd_angle_loss(student, teacher)
    monkeypatch.setattr("dermdistill.losses.relations.ANGLES_A_BLOCK", 2 * 7**2)
    assert losses.rkd_angle_loss(student, teacher).item() == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize("a_block", [1, 2**22])
@pytest.mark.parametrize("shape", [(3, 5, 2, 2), (3, 2, 3, 4), (5, 4, 1, 1)])
def test_channel_gram(shape, a_block, monkeypatch):
    monkeypatch.setattr("dermdistill.losses.relations.FEATURES_A_BLOCK", a_block)
    student, teacher = randn(*shape), randn(*shape, seed=1)
    expected = channel_gram_oracle(student.tolist(), teacher.tolist())
    assert losses.channel_gram_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_view_similarity_and_contrast():
    embeddings = randn(IMAGES, VIEWS, 5)
    expected = view_similarity_oracle(embeddings.tolist())
    similarity = losses.view_similarity(embeddings)
    torch.testing.assert_close(similarity, torch.tensor(expected, dtype=torch.float64))
    own = [image for image in range(IMAGES) for _ in range(VIEWS - 1)]
    assert losses.own_images(similarity).tolist() == own
    contrast = losses.view_contrast_loss(similarity)
    assert contrast.item() == pytest.approx(cross_entropy_oracle(expected, own), rel=1e-12)


@pytest.mark.parametrize("keep_ratio", [0.0, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("seed", range(10))
def test_kept_rows_with_many_ties(seed, keep_ratio):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 3, (40, 5), generator=generator).double()
    target = torch.randint(0, 5, (40,), generator=generator)
    found = losses.kept_rows(scores, target, keep_ratio)
    assert found.tolist() == kept_rows_oracle(scores.tolist(), target.tolist(), keep_ratio)


def test_trusted_kd_leaves_the_dropped_rows_without_gradient():
    student, teacher = randn(8, 3).requires_grad_(), randn(8, 3, seed=1)
    target = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    loss = losses.trusted_kd_loss(student, teacher, target, temperature=4.0, keep_ratio=0.5)
    kept = kept_rows_oracle(teacher.tolist(), target.tolist(), 0.5)
    assert 0 < len(kept) < len(target)
    rows = [[table[row] for row in kept] for table in (student.tolist(), teacher.tolist())]
    assert loss.item() == pytest.approx(kd_oracle(*rows, 4.0), rel=1e-12)
    loss.backward()
    assert student.grad.abs().sum(1).nonzero().flatten().tolist() == kept


def test_view_kd_is_kd_of_the_kept_similarities():
    tables = [losses.view_similarity(randn(IMAGES, VIEWS, width, seed=width)) for width in (4, 6)]
    own = losses.own_images(tables[1]).tolist()
    kept = kept_rows_oracle(tables[1].tolist(), own, 0.75)
    assert len(kept) < len(own)
    rows = [[table.tolist()[row] for row in kept] for table in tables]
    found = losses.view_kd_loss(*tables, temperature=0.5, keep_ratio=0.75)
    assert found.item() == pytest.approx(kd_oracle(*rows, 0.5), rel=1e-12)


def test_shapes_are_checked_in_tests():
    with pytest.raises(TypeCheckError):
        losses.kd_loss(randn(6, 4), randn(6, 5), 1.0)

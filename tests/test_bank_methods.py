"""CRCKD, UDCD, StAlK against loops from their equations; the bank's draws and updates."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from by_hand import cross_entropy, divergence, softmax
from dermdistill.methods import Lesson, build_method
from dermdistill.methods.relation_bank import EmbeddingBank, bank_contrast_loss, ramp
from dermdistill.types import Batch, Taps, total_loss

CLASSES, WIDTH, IMAGES = 4, 6, 30
POSITIVES, NEGATIVES = 3, 7
LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 0, 2, 0, 0] * 3)
ROWS = torch.tensor([3, 8, 11, 20, 27])
SMALL = {"positive_count": POSITIVES, "negative_count": NEGATIVES}
OPTIONS = {"crckd": SMALL, "udcd": SMALL, "stalk": {}}


def world(name: str, done_ratio: float = 1.0) -> SimpleNamespace:
    """A method with a lesson of random numbers in float64."""
    random = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    torch.manual_seed(5)
    method = build_method(name, OPTIONS[name])
    n = len(ROWS)
    heads = {head: nn.Linear(WIDTH, 128).double() for head in method.heads}
    bank = EmbeddingBank(LABELS, CLASSES).double()
    student = Taps(draw(n, 2, 1, 1), draw(n, WIDTH).requires_grad_(),
                   draw(n, CLASSES).requires_grad_())  # fmt: skip
    teacher = Taps(draw(n, 2, 1, 1), draw(n, WIDTH), 2 * draw(n, CLASSES))
    images = torch.zeros(n, 2, 3, 1, 1)
    lesson = Lesson(
        batch=Batch(images, LABELS[ROWS], list(map(str, range(n))), ROWS, apart=True),
        student=student, teachers=(teacher,), adapters=nn.ModuleDict(heads), pretext=None,
        class_weights=draw(CLASSES).exp(), memory=nn.ModuleDict({"bank": bank}),
        done_ratio=done_ratio,
    )  # fmt: skip
    return SimpleNamespace(method=method, lesson=lesson, bank=bank, student=student,
                           teacher=teacher, heads=heads)  # fmt: skip


# The equations, one sample and one class at a time.


def unit(vector: Tensor) -> Tensor:
    return vector / sum(x**2 for x in vector).sqrt()


def embedded(x: SimpleNamespace, who: str) -> list[Tensor]:
    head = x.heads.get(f"{who}_head", x.heads["student_head"])
    rows = getattr(x, who).embedding
    return [unit(head.weight @ row + head.bias) for row in rows]


def centre(bank: Tensor, k: int) -> Tensor:
    own = [row.clamp_min(0) for row, y in zip(bank, LABELS, strict=True) if y == k]
    return unit(sum(own) / len(own))


def seen_from_classes(x: SimpleNamespace, who: str) -> Tensor:
    centres = [centre(getattr(x.bank, who), k) for k in range(CLASSES)]
    rows = [torch.stack([e @ c / 0.07 for c in centres]) for e in embedded(x, who)]
    return torch.stack(rows).detach() if who == "teacher" else torch.stack(rows)


def contrast(anchors: list[Tensor], bank: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    z = IMAGES * math.exp(1 / (2 * 128 * 0.07**2))
    c = NEGATIVES / IMAGES
    total = 0.0
    for anchor, own, other in zip(anchors, positives, negatives, strict=True):
        for row in own:
            score = (anchor @ bank[row] / 0.07).exp() / z
            total -= (score / (score + c)).log() / POSITIVES
        for row in other:
            score = (anchor @ bank[row] / 0.07).exp() / z
            total -= (c / (score + c)).log()
    return total / len(anchors)


def both_contrasts(x: SimpleNamespace) -> Tensor:
    torch.manual_seed(9)
    positives = x.bank.positives(ROWS, POSITIVES)
    negatives = x.bank.negatives(ROWS, NEGATIVES)
    return contrast(embedded(x, "student"), x.bank.teacher, positives, negatives) + contrast(
        embedded(x, "teacher"), x.bank.student, positives, negatives
    )


def uncertain(first: Tensor, second: Tensor) -> Tensor:
    total = 0.0
    for a, b in zip(first, second, strict=True):
        entropy = -sum(p * p.log() for p in softmax(a)).detach()
        total += entropy / math.log(len(a)) * divergence(b, a)
    return total / len(first)


def spaced(rows: Tensor) -> list[list[Tensor]]:
    n = len(rows)
    pairs = [[(rows[i] - rows[j]).square().sum().sqrt() if i != j else 0.0 for j in range(n)]
             for i in range(n)]  # fmt: skip
    mean = sum(d for line in pairs for d in line) / (n * n - n)
    return [[d / mean for d in line] for line in pairs]


def smooth_l1(x: Tensor) -> Tensor:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def aligned(s: Tensor, t: Tensor) -> Tensor:
    n = len(s)
    a, b = spaced(s), spaced(t)
    distance = sum(smooth_l1(a[i][j] - b[i][j]) for i in range(n) for j in range(n)) / n**2

    def angle(rows, i, j, k):
        first, second = rows[j] - rows[i], rows[k] - rows[i]
        return unit(first) @ unit(second) if i not in (j, k) else torch.zeros(()).double()

    angles = [
        smooth_l1(angle(s, i, j, k) - angle(t, i, j, k))
        for i in range(n) for j in range(n) for k in range(n)
    ]  # fmt: skip
    return 25 * (0.5 * distance + 0.5 * sum(angles) / n**3)


def oracle(name: str, x: SimpleNamespace) -> Tensor:
    rise = math.exp(-5 * (1 - min(x.lesson.done_ratio / 0.375, 1.0)) ** 2)
    pairs = list(zip(x.teacher.logits, x.student.logits, strict=True))
    plain = sum(divergence(t, s) for t, s in pairs) / len(pairs)
    c_s, c_t = seen_from_classes(x, "student"), seen_from_classes(x, "teacher")
    total = cross_entropy(x.student.logits, x.lesson.batch.target, x.lesson.class_weights)
    if name == "stalk":
        return total + rise * plain + aligned(c_s, c_t)
    total = total + 0.1 * both_contrasts(x)
    if name == "udcd":
        own = uncertain(x.teacher.logits, x.student.logits)
        return total + rise * own + 25 * uncertain(c_s, c_t)
    rows = list(zip(c_t, c_s, strict=True))
    return total + rise * plain + sum(divergence(t, s) for t, s in rows) / len(rows)


@pytest.mark.parametrize("done_ratio", [0.26, 1.0])
@pytest.mark.parametrize("name", OPTIONS)
def test_loss_is_its_equation(name, done_ratio):
    x = world(name, done_ratio)
    torch.manual_seed(9)
    found, wanted = total_loss(x.method.terms(x.lesson)), oracle(name, x)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)
    leaves = (x.student.embedding, x.student.logits, *x.lesson.adapters.parameters())
    for got, expected in zip(
        torch.autograd.grad(found, leaves), torch.autograd.grad(wanted, leaves), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", OPTIONS)
def test_only_labels_count_before_the_start(name):
    terms = world(name, 0.2499).method.terms(world(name, 0.2499).lesson)
    assert set(terms) == {"cross_entropy"}


def test_the_ramp_rises_from_e_to_the_minus_5_to_1():
    assert ramp(0.0, 0.375) == pytest.approx(math.exp(-5))
    assert ramp(0.375, 0.375) == ramp(0.9, 0.375) == ramp(0.0, 0.0) == 1.0


def test_draws_are_of_the_own_class_and_of_others_and_reach_all():
    bank = EmbeddingBank(LABELS, CLASSES)
    torch.manual_seed(0)
    rows = torch.arange(IMAGES)
    positives, negatives = bank.positives(rows, 200), bank.negatives(rows, 400)
    assert torch.equal(positives[:, 0], rows)
    for row in range(IMAGES):
        own = set((LABELS[row] == LABELS).nonzero().flatten().tolist())
        assert set(positives[row].tolist()) == own
        assert set(negatives[row].tolist()) == set(range(IMAGES)) - own


def test_draws_are_even():
    bank = EmbeddingBank(LABELS, CLASSES)
    torch.manual_seed(0)
    draws = 40_000
    count = torch.bincount(bank.negatives(torch.tensor([1]), draws)[0], minlength=IMAGES)
    others = count[LABELS[1] != LABELS] / draws
    share = 1 / len(others)
    assert (others - share).abs().max() < 5 * math.sqrt(share / draws)


def test_one_class_has_no_negatives_and_a_finite_contrast():
    bank = EmbeddingBank(torch.zeros(5, dtype=torch.int64), 3)
    rows = torch.arange(2)
    negatives = bank.negatives(rows, 9)
    assert negatives.shape == (2, 0)
    anchors = nn.functional.normalize(torch.randn(2, 128)).requires_grad_()
    loss = bank_contrast_loss(anchors, bank.student, bank.positives(rows, 4), negatives, 0.07)
    loss.backward()
    assert loss.isfinite()
    assert anchors.grad.isfinite().all()
    assert bank.centres().student[1:].abs().max() == 0


def test_the_bank_moves_half_way_and_keeps_length_1():
    x = world("crckd")
    before = x.bank.student.clone()
    x.method.remember(x.lesson)
    for row, new in zip(ROWS.tolist(), embedded(x, "student"), strict=True):
        torch.testing.assert_close(x.bank.student[row], unit(0.5 * before[row] + 0.5 * new))
    rest = [row for row in range(IMAGES) if row not in ROWS.tolist()]
    assert torch.equal(x.bank.student[rest], before[rest])


def test_the_expected_normaliser_is_that_of_a_random_bank():
    torch.manual_seed(0)
    bank = EmbeddingBank(torch.arange(20_000) % 2, 2).double().student
    anchors = nn.functional.normalize(torch.randn(50, 128).double())
    measured = (anchors @ bank.T / 0.07).exp().mean()
    assert measured.item() == pytest.approx(math.exp(1 / (2 * 128 * 0.07**2)), rel=0.02)


def test_distances_and_angles_reach_the_student():
    """In the public code this term has no gradient at all."""
    x = world("stalk")
    terms = x.method.terms(x.lesson)
    (weight, value) = terms["rkd_distance"]
    (gradient,) = torch.autograd.grad(weight * value, x.student.embedding)
    assert gradient.abs().sum() > 0

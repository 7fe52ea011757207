"""NoRD and TSS-KD against loops from their equations, and TSS-KD's own change of views."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from by_hand import softmax
from dermdistill.methods import Lesson, build_method
from dermdistill.methods.nord import noise_robust_loss
from dermdistill.methods.tss_kd import GAMMA, rectangle_gamma
from dermdistill.types import Batch, Taps, total_loss
from test_methods import kl, lesson, random_inputs, turned, view_kd


def robust(logits, target):
    """10 NGCE + 0.1 (K - 1)/4 RCE, one sample at a time."""
    total, classes = 0.0, logits.shape[1]
    for row, y in zip(logits, target, strict=True):
        p = softmax(row)
        ngce = (1 - p[y] ** 0.7) / (classes - sum(x**0.7 for x in p))
        rce = -sum(x * math.log(1e-4) for k, x in enumerate(p) if k != y)
        total += 10 * ngce + 0.1 * (classes - 1) / 4 * rce
    return total / len(logits)


@pytest.mark.parametrize("seed", range(3))
def test_nord_is_its_equation(seed):
    x = random_inputs(seed)
    for tensor in (x.s_pool, x.s_logits):
        tensor.requires_grad_()
    found = total_loss(build_method("nord").terms(lesson(x)))
    wanted = (
        0.5 * robust(x.s_logits[::4], x.target)
        + 0.5 * kl(x.s_logits[::4], x.t_logits[::4], 4.0)
        + 2.7 * kl(turned(x.s_logits), turned(x.t_logits), 4.0)
        + 21.0 * view_kd(x)
    )
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)
    for leaf in (x.s_pool, x.s_logits):
        got = torch.autograd.grad(found, leaf, retain_graph=True)[0]
        expected = torch.autograd.grad(wanted, leaf, retain_graph=True)[0]
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0])
def test_the_robust_loss_is_finite_and_bounded(scale, exponent):
    """A wrong label costs at most so much: that is what makes it robust."""
    logits = (scale * torch.eye(4)[[0, 1, 2, 3, 0]]).requires_grad_()
    loss = noise_robust_loss(logits, torch.tensor([1, 1, 1, 1, 0]), 10.0, exponent, 0.1)
    loss.backward()
    assert loss.isfinite()
    assert 0 <= loss < 10 + 0.1 * 3 / 4 * 9.22
    assert logits.grad.isfinite().all()


def test_the_robust_loss_of_right_answers_is_0():
    logits = 100 * torch.eye(4)
    assert noise_robust_loss(logits, torch.arange(4), 10.0, 0.7, 0.1) < 1e-6


def apart(seed: int):
    """A student's and its own other logits on two views apart."""
    random = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 6, 5, generator=random, dtype=torch.float64)
    target = torch.tensor([0, 4, 2, 2, 1, 3])
    student.requires_grad_()
    nothing = torch.zeros(6, 1, 1, 1), torch.zeros(6, 1)
    batch = Batch(torch.zeros(6, 2, 3, 1, 1), target, [""] * 6, torch.arange(6), apart=True)
    return Lesson(batch, Taps(*nothing, student), (Taps(*nothing, 3 * teacher),), nn.ModuleDict(),
                  None, torch.rand(5, generator=random))  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_tss_kd_is_its_equation(seed):
    given = apart(seed)
    student, teacher, target = given.student.logits, given.teacher.logits, given.batch.target
    wanted = 0.0
    for s, t, y in zip(student, teacher, target, strict=True):
        tau = [4.0 if k == y else 0.4 for k in range(5)]
        q = softmax([value / tau[k] for k, value in enumerate(s)])
        p = softmax([value / tau[k] for k, value in enumerate(t)])
        wanted -= softmax(s)[y].log()
        wanted += 16 * sum(a * (a / b).log() for a, b in zip(p, q, strict=True))
    wanted = wanted / len(student)
    found = total_loss(build_method("tss_kd").terms(given))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)
    got, expected = (torch.autograd.grad(value, student)[0] for value in (found, wanted))
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


def test_gamma_changes_one_rectangle_of_each_image_by_one_power():
    torch.manual_seed(0)
    images = torch.rand(200, 3, 16, 24) * 0.8 + 0.1
    made = rectangle_gamma(images)
    powers, areas = [], []
    for before, after in zip(images, made, strict=True):
        changed = (before != after).all(0)
        assert torch.equal(changed, (before != after).any(0))
        rows, cols = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
        if len(rows) == 0:
            continue
        assert changed[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].all()
        assert changed.sum() == len(rows) * len(cols)
        power = (after[:, changed].log() / before[:, changed].log()).double()
        assert power.std() < 1e-3
        powers.append(power.mean().item())
        areas.append(changed.float().mean().item())
    assert GAMMA[0] - 1e-3 < min(powers) < 0.6 < 1.9 < max(powers) < GAMMA[1] + 1e-3
    assert 0.3 < max(areas) <= 0.55
    assert len(powers) > 150


def test_gamma_follows_the_seed_and_keeps_range_and_borders():
    images = torch.cat((torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8), torch.rand(6, 3, 8, 8)))
    torch.manual_seed(1)
    first = rectangle_gamma(images)
    torch.manual_seed(1)
    assert torch.equal(first, rectangle_gamma(images))
    assert torch.equal(first[:2], images[:2])
    assert 0 <= first.min() <= first.max() <= 1


def test_tss_kd_varies_training_views_alone():
    method = build_method("tss_kd")
    images = torch.rand(4, 2, 3, 8, 8)
    torch.manual_seed(0)
    made = method.vary(images)
    assert made.shape == images.shape
    assert not torch.equal(made, images)
    assert F.mse_loss(build_method("kd").vary(images), images) == 0

"""Methods with two students against loops from their equations."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from by_hand import cross_entropy, kd, mse
from dermdistill.methods import Lesson, build_method
from dermdistill.types import Batch, Taps, Widths, total_loss

SAMPLES, CLASSES, WIDTH = 5, 4, 6
TARGET = torch.tensor([0, 3, 2, 2, 1])
SIZES = Widths(WIDTH, 3, WIDTH, CLASSES)


def lesson(name: str, teachers: int) -> tuple[Lesson, list[Tensor]]:
    """Random numbers in float64 as a lesson, and the leaves that gradients are compared at."""
    random = torch.Generator().manual_seed(0)

    def taps():
        shapes = ((SAMPLES, WIDTH, 3, 3), (SAMPLES, WIDTH), (SAMPLES, CLASSES))
        return Taps(*(torch.randn(*s, generator=random, dtype=torch.float64) for s in shapes))

    first, second, teacher = taps(), taps(), taps()
    torch.manual_seed(0)
    adapters = nn.ModuleDict(build_method(name).adapters(SIZES, *[SIZES] * teachers)).double()
    leaves = [t.requires_grad_() for t in (*first[:3], *second[:3])] + list(adapters.parameters())
    weights = torch.rand(CLASSES, generator=random, dtype=torch.float64) + 0.5
    batch = Batch(torch.zeros(SAMPLES, 1, 3, 1, 1), TARGET, [""] * SAMPLES, torch.arange(SAMPLES))
    return Lesson(batch, first, (teacher,) * teachers, adapters, None, weights,
                  peers=(second,)), leaves  # fmt: skip


def check(name: str, given: Lesson, leaves: list[Tensor], wanted: Tensor) -> None:
    found = total_loss(build_method(name).terms(given))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)
    options = {"allow_unused": True, "materialize_grads": True}
    for got, expected in zip(
        torch.autograd.grad(found, leaves, **options),
        torch.autograd.grad(wanted, leaves, **options),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


def attended(module: nn.Module, embedding: Tensor) -> Tensor:
    """A batch attention with the samples as one sequence, by its formula."""
    layer, heads, width = module.layer, 4, 32
    h = embedding @ module.token.weight.T + module.token.bias
    n = F.layer_norm(h, (128,), layer.norm1.weight, layer.norm1.bias)
    q, k, v = (n @ layer.self_attn.in_proj_weight.T + layer.self_attn.in_proj_bias).chunk(3, 1)
    parts = []
    for j in range(heads):
        of = slice(width * j, width * (j + 1))
        scores = torch.stack([
            torch.stack([a @ b / math.sqrt(width) for b in k[:, of]]) for a in q[:, of]
        ])  # fmt: skip
        parts.append(torch.softmax(scores, dim=1) @ v[:, of])
    out = layer.self_attn.out_proj
    h = h + torch.cat(parts, dim=1) @ out.weight.T + out.bias
    n = F.layer_norm(h, (128,), layer.norm2.weight, layer.norm2.bias)
    inner = (n @ layer.linear1.weight.T + layer.linear1.bias).clamp_min(0)
    h = h + inner @ layer.linear2.weight.T + layer.linear2.bias
    return h @ module.classifier.weight.T + module.classifier.bias


def both_ways(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    forth = kd(first, second.detach(), temperature)
    return forth + kd(second, first.detach(), temperature)


def test_mutual():
    given, leaves = lesson("mutual", teachers=0)
    pair = (given.student, *given.peers)
    plain = [taps.logits for taps in pair]
    shared = [
        attended(given.adapters[f"attention_{who}"], taps.embedding)
        for who, taps in enumerate(pair, start=1)
    ]
    wanted = sum(cross_entropy(z, TARGET, given.class_weights) for z in (*plain, *shared))
    check("mutual", given, leaves, wanted + both_ways(*plain, 1.0) + both_ways(*shared, 1.0))


def test_learning_styles():
    given, leaves = lesson("learning_styles", teachers=1)
    first, (second,), teacher = given.student, given.peers, given.teacher
    conv, bn, _ = given.adapters["connector"]
    mapped = F.batch_norm(
        F.conv2d(second.map, conv.weight, conv.bias), None, None, bn.weight, bn.bias, training=True
    ).clamp_min(0)
    wanted = (
        sum(cross_entropy(t.logits, TARGET, given.class_weights) for t in (first, second))
        + kd(first.logits, teacher.logits, 4.0)
        + mse(mapped, teacher.map)
        + both_ways(first.logits, second.logits, 4.0)
        + mse(first.map, second.map.detach())
        + mse(second.map, first.map.detach())
    )
    check("learning_styles", given, leaves, wanted)


def test_two_students_that_agree_have_nothing_to_exchange():
    given, _ = lesson("mutual", teachers=0)
    given = replace(given, peers=(given.student,))
    assert build_method("mutual").terms(given)["mutual"][1].item() == pytest.approx(0, abs=1e-12)

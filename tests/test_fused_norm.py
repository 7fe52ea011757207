"""Norm and cut as one: the numbers of float64 as near as torch's own, and no other state."""

import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn

from dermdistill.config import NetworkConfig
from dermdistill.models import build_backbone, compile_learning
from dermdistill.models.fused_norm import FusedBatchNorm, FusedBatchNormAct, fuse_norms

ACTIVATIONS = {"none": None, "relu": nn.ReLU, "relu6": nn.ReLU6, "silu": nn.SiLU}
# Fewer channels than a run has numbers, as many, more, none of which fills whole runs; one place.
SIZES = [(3, 5, 7, 9), (2, 24, 8, 8), (4, 256, 3, 3), (2, 300, 4, 5), (40, 16, 31, 1), (5, 8, 1, 1)]


def norm_of(channels: int, activation: str) -> BatchNormAct2d:
    """A norm with weights of its own, some below 0."""
    made = BatchNormAct2d(channels, eps=1e-3, act_layer=ACTIVATIONS[activation],
                          apply_act=activation != "none")  # fmt: skip
    nn.init.normal_(made.weight)
    nn.init.normal_(made.bias)
    return made.train()


def activated(answer: torch.Tensor, activation: str) -> torch.Tensor:
    """The activation from its definition."""
    if activation in ("none", "silu"):
        return answer if activation == "none" else answer / (1 + (-answer).exp())
    return answer.clamp(0.0, 6.0 if activation == "relu6" else torch.inf)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_is_as_near_to_float64_as_torchs_own(activation, size):
    """Answer, gradients and what is remembered; channels far off 0, where sums would cancel."""
    torch.manual_seed(0)
    plain = norm_of(size[1], activation)
    fused = fuse_norms(copy.deepcopy(plain))
    assert type(fused) is FusedBatchNormAct
    offset = 30 * torch.randn(size[1])[:, None, None]
    rows = (offset + 3 * torch.randn(size)).bfloat16()
    grad = torch.randn(size).bfloat16()

    exact = [t.detach().double().requires_grad_() for t in (rows, plain.weight, plain.bias)]
    axes, places = (0, 2, 3), rows.numel() // size[1]
    mean, variance = exact[0].mean(axes), exact[0].var(axes, unbiased=False)
    normed = F.batch_norm(exact[0], None, None, *exact[1:], True, eps=plain.eps)
    right = activated(normed, activation)
    right.backward(grad.double())
    unbiased = variance * (places / (places - 1))
    truth = [right, *(t.grad for t in exact), 0.1 * mean, 0.9 + 0.1 * unbiased]

    found = []
    for module in (fused, plain):
        leaf = rows.clone().requires_grad_()
        answer = module(leaf * 1)
        answer.backward(grad)
        found.append([answer, leaf.grad, module.weight.grad, module.bias.grad,
                      module.running_mean, module.running_var])  # fmt: skip
        assert module.num_batches_tracked == 1
    for ours, theirs, exact in zip(*found, truth, strict=True):
        assert ours.dtype == theirs.dtype
        off, plain_off = ((x.double() - exact).norm() for x in (ours, theirs))
        assert off <= 1.1 * plain_off + 1e-6 * exact.norm(), (off, plain_off)


def test_torchs_own_norm_is_fused_too_and_nothing_else_is():
    plain = nn.BatchNorm2d(4)
    others = [nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, track_running_stats=False),
              nn.BatchNorm2d(4, momentum=None), nn.BatchNorm1d(4), nn.GroupNorm(2, 4)]  # fmt: skip
    fused = fuse_norms(nn.Sequential(plain, *others))
    assert [type(m) for m in fused] == [FusedBatchNorm, *map(type, others)]
    x = torch.randn(3, 4, 5, 5)
    reference = nn.BatchNorm2d(4)
    assert torch.equal(plain(x), reference(x))  # fp32 is torch's
    assert torch.equal(plain.eval()(x.bfloat16()), reference.eval()(x.bfloat16()))


def test_neither_threads_nor_the_layout_change_a_bit():
    torch.manual_seed(0)
    norm = fuse_norms(norm_of(24, "relu6"))
    maps, grad = (torch.randn(9, 24, 33, 17).bfloat16() for _ in range(2))
    found, threads = [], torch.get_num_threads()
    for number, memory_format in ((1, torch.contiguous_format), (3, torch.channels_last)):
        torch.set_num_threads(number)
        leaf = maps.clone(memory_format=memory_format).requires_grad_()
        norm.zero_grad()
        answer = norm(leaf)
        answer.backward(grad.contiguous(memory_format=memory_format))
        found.append([answer, leaf.grad, norm.weight.grad, norm.bias.grad])
    torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_channel_without_variance_and_one_of_a_lost_number_are_as_torchs():
    maps = torch.randn(4, 3, 5, 5)
    maps[:, 0], maps[1, 1, 2, 2] = 7.0, torch.nan
    found = []
    for module in (norm_of(3, "relu6"), fuse_norms(norm_of(3, "relu6"))):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
        leaf = maps.bfloat16().requires_grad_()
        answer = module(leaf * 1)
        answer.sum().backward()
        found.append([answer[:, 0], answer[:, 1], leaf.grad[:, 0]])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["mobilenetv2_035", "resnet18", "test_efficientnet"])
def test_a_network_learns_as_near_to_fp32_and_keeps_its_state(name):
    torch.manual_seed(0)
    plain = build_backbone(NetworkConfig(name, "none"), 5)
    plain = plain.to(memory_format=torch.channels_last).train()
    fused, exact = compile_learning(copy.deepcopy(plain)), copy.deepcopy(plain)
    images = torch.rand(8, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    gradients = []
    for network, half in ((exact, False), (fused, True), (plain, True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = network(images).logits
        F.cross_entropy(logits.float(), torch.arange(8) % 5).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    truth, ours, theirs = gradients
    assert (ours - truth).norm() < 1.25 * (theirs - truth).norm()
    assert list(fused.state_dict()) == list(plain.state_dict())
    fused.load_state_dict(plain.state_dict())
    plain.eval(), fused.eval()
    assert torch.equal(plain(images).logits, fused(images).logits)


def test_without_a_compiler_it_says_what_to_do(tmp_path):
    code = "from dermdistill.models.kernels import compiled_kernels; compiled_kernels()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=os.environ | {"CXX": str(tmp_path / "none")})  # fmt: skip
    assert done.returncode != 0
    assert "set compile_student to false" in done.stderr.splitlines()[-1]

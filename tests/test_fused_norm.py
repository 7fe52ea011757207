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
from dermdistill.models import build_backbone, fuse_norms
from dermdistill.models.fused_norm import FusedBatchNorm, FusedBatchNormAct

ACTIVATIONS = {"none": None, "relu": nn.ReLU, "relu6": nn.ReLU6}
# Fewer channels than a run has numbers, as many, more, none of which fills whole runs; one place.
SIZES = [(3, 5, 7, 9), (2, 24, 8, 8), (4, 256, 3, 3), (2, 300, 4, 5), (40, 16, 31, 1), (5, 8, 1, 1)]


def norm_of(channels: int, activation: str) -> BatchNormAct2d:
    """A norm with weights of its own, some below 0."""
    made = BatchNormAct2d(channels, eps=1e-3, act_layer=ACTIVATIONS[activation],
                          apply_act=activation != "none")  # fmt: skip
    nn.init.normal_(made.weight)
    nn.init.normal_(made.bias)
    return made.train()


def cut(answer: torch.Tensor, activation: str) -> torch.Tensor:
    """The activation from its definition."""
    if activation == "none":
        return answer
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
    right = cut(normed, activation)
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

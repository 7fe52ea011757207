"""Batch norm and the ReLU or ReLU6 behind it as one operation, in machine code.

Maps of tens of megabytes leave the processor's caches, so what these two cost is how often they
read or write one. torch does it fourteen times a step: three times for mean, variance and answer
and once to write it, twice to cut it; backwards three times for the cut and five for the norm. The
kernels of `fused_norm.cpp` do it eight times: mean and variance from one reading, an answer that is
cut before it is written, and backwards no map of what the cut lets through, as its input tells.

They are for bf16 on the CPU in training. Everywhere else the modules are what they were.
"""

import ctypes
import math
from collections.abc import Sequence
from ctypes import c_float, c_int64, c_void_p

import torch
from jaxtyping import Float
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dermdistill.models.kernels import compiled_kernels, pointers
from dermdistill.models.relu6 import TOP, LeanReLU6

# What an activation lets through: the numbers between these two.
UNCUT = (-math.inf, math.inf)
BOUNDS = {
    nn.Identity: UNCUT,
    nn.ReLU: (0.0, math.inf),
    nn.ReLU6: (0.0, TOP),
    LeanReLU6: (0.0, TOP),
}


class _Maps(ctypes.Structure):
    _fields_ = [("places", c_int64), ("channels", c_int64), ("threads", c_int64)]


class _Norm(ctypes.Structure):
    _fields_ = [
        ("mean", c_void_p), ("scale", c_void_p), ("bias", c_void_p),
        ("low", c_float), ("high", c_float),
    ]  # fmt: skip


class _NormedAndCut(torch.autograd.Function):
    """The answer [samples channels rows cols], and the mean and variance [channels] behind it."""

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float, low: float, high: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        kernels, maps = compiled_kernels(), _maps(x)
        # From any value of the channel, as a mean far off 0 would cancel in the mean square.
        base = x[0, :, 0, 0].float()
        sums = torch.empty(2, maps.channels, dtype=torch.float64)
        kernels.moments(maps, *pointers(x, base, *sums))
        off, square = sums / maps.places
        mean = (base + off).float()
        variance = (square - off.square()).clamp(min=0.0)
        inverse = (variance + eps).rsqrt()
        kept = (mean, (weight * inverse).float(), bias)
        answer = torch.empty_like(x)
        kernels.answer(maps, _norm(kept, low, high), *pointers(x, answer))
        ctx.save_for_backward(x, inverse, *kept)
        ctx.low, ctx.high = low, high
        variance = variance.float()
        ctx.mark_non_differentiable(mean, variance)
        return answer, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, *_: Tensor):
        x, inverse, *kept = ctx.saved_tensors
        kernels, maps, norm = compiled_kernels(), _maps(x), _norm(kept, ctx.low, ctx.high)
        grad = grad.contiguous(memory_format=torch.channels_last)
        sums = torch.empty(2, maps.channels, dtype=torch.float64)
        kernels.gradient_sums(maps, norm, *pointers(grad, x, *sums))
        shift = (sums[0] / maps.places).float()
        slope = (sums[1] * inverse.square() / maps.places).float()
        back = torch.empty_like(x)
        kernels.gradient(maps, norm, *pointers(grad, x, shift, slope, back))
        return back, (sums[1] * inverse).float(), sums[0].float(), None, None, None


def _maps(x: Tensor) -> _Maps:
    return _Maps(x.numel() // x.shape[1], x.shape[1], torch.get_num_threads())


def _norm(by_channel: Sequence[Tensor], low: float, high: float) -> _Norm:
    return _Norm(*(values.data_ptr() for values in by_channel), low, high)


class _Fused:
    """What a batch norm does in training in bf16 on the CPU, the cut behind it included."""

    def forward(self, x: Float[Tensor, "samples channels rows cols"]) -> Tensor:
        """As the class that this is mixed into."""
        fast = self.training and x.device.type == "cpu" and x.dtype == torch.bfloat16
        if not fast or self.weight.dtype != torch.float32:
            return super().forward(x)
        x = x.contiguous(memory_format=torch.channels_last)
        bounds = self._bounds()
        given = (x, self.weight, self.bias, self.eps, *(bounds or UNCUT))
        answer, mean, variance = _NormedAndCut.apply(*given)
        self._remember(mean, variance, x.numel() // x.shape[1])
        return self.act(self.drop(answer)) if bounds is None else answer

    def _bounds(self) -> tuple[float, float] | None:
        """Where the answer is cut; None where what follows is no cut."""
        return UNCUT

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, places: int) -> None:
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (places / max(places - 1, 1)), self.momentum)


class FusedBatchNorm(_Fused, nn.BatchNorm2d):
    """torch's."""


class FusedBatchNormAct(_Fused, BatchNormAct2d):
    """timm's, with dropout and activation of its own."""

    def _bounds(self) -> tuple[float, float] | None:
        return BOUNDS.get(type(self.act)) if isinstance(self.drop, nn.Identity) else None


FUSED_CLASS = {nn.BatchNorm2d: FusedBatchNorm, BatchNormAct2d: FusedBatchNormAct}


def fuse_norms(module: nn.Module) -> nn.Module:
    """Let every batch norm of maps inside a module be computed by the kernels.

    Only the modules' classes change: names, weights and copies stay what they were. A norm without
    weights or memory, or that averages all it has seen, stays as it is.
    """
    for norm in module.modules():
        plain = type(norm) in FUSED_CLASS and norm.affine and norm.track_running_stats
        if plain and norm.momentum is not None:
            norm.__class__ = FUSED_CLASS[type(norm)]
    return module

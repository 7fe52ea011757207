"""Batch norm over the images of all processes."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class GlobalBatchNorm(nn.Module):
    """Batch norm whose statistics are those of all processes' images, in equal shares.

    So the number of processes changes no result. torch's SyncBatchNorm does the same, on GPUs
    alone. Names and values of the state are the replaced module's, so checkpoints and weights do
    not know it was there.

    Args:
        norm: the module to replace; its parameters and buffers are taken over, and in timm's
            combined module its activation too.
    """

    def __init__(self, norm: _BatchNorm):
        super().__init__()
        self.eps, self.momentum = norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        if isinstance(norm, BatchNormAct2d):
            self.drop, self.act = norm.drop, norm.act
        self.training = norm.training

    def forward(self, rows: Float[Tensor, "samples channels ..."]) -> Tensor:
        """Normalise; in training by the statistics of all processes, which it remembers."""
        if self.training:
            normed = self._by_batch(rows)
        else:
            normed = F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias,
                                  eps=self.eps)  # fmt: skip
        return self.act(self.drop(normed)) if hasattr(self, "act") else normed

    def _by_batch(self, rows: Tensor) -> Tensor:
        wide = rows if rows.dtype == torch.float64 else rows.float()
        over = [0, *range(2, rows.ndim)]
        mean = _Sum.apply(wide.mean(over, keepdim=True)) / dist.get_world_size()
        centred = wide - mean
        # From the differences: the mean square minus the squared mean would cancel.
        square = _Sum.apply(centred.square().mean(over, keepdim=True)) / dist.get_world_size()
        self._remember(mean, square, dist.get_world_size() * rows.numel() // rows.shape[1])
        normed = centred * (square + self.eps).rsqrt()
        shape = mean.shape
        return (normed * self.weight.view(shape) + self.bias.view(shape)).to(rows.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, square: Tensor, count: int) -> None:
        self.num_batches_tracked += 1
        unbiased = square * (count / max(count - 1, 1))
        for average, value in ((self.running_mean, mean), (self.running_var, unbiased)):
            average.lerp_(value.flatten().to(average), self.momentum)


class _Sum(torch.autograd.Function):
    """The sum over all processes, which all of them continue from, so gradients sum up as well."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        value = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient


def globalise(module: nn.Module) -> None:
    """Replace every batch norm inside a module, in place."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, GlobalBatchNorm(child))
        else:
            globalise(child)

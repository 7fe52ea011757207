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
        count = dist.get_world_size() * rows.numel() // rows.shape[1]
        mean, square = _moments(rows, count)
        self._remember(mean, square, count)
        inverse = (square.double() + self.eps).rsqrt().to(square)
        return _Normalised.apply(rows, self.weight, self.bias, mean, inverse, count)

    @torch.no_grad()
    def _remember(self, mean: Tensor, square: Tensor, count: int) -> None:
        self.num_batches_tracked += 1
        unbiased = square * (count / max(count - 1, 1))
        for average, value in ((self.running_mean, mean), (self.running_var, unbiased)):
            average.lerp_(value.to(average), self.momentum)


class _Normalised(torch.autograd.Function):
    """Rows less mean, times inverse deviation and weight, plus bias.

    Mean and deviation come from every process's rows, so a row's gradient takes sums over all of
    them. Weight and bias get the own rows' part, as every other parameter does.
    """

    @staticmethod
    def forward(ctx, rows, weight, bias, mean, inverse, count):
        ctx.save_for_backward(rows, weight, mean, inverse)
        ctx.count = count
        # torch's kernel, which with the variance 1 rounds as it does in training.
        scale, shift = weight * inverse, bias.to(inverse)
        return F.batch_norm(rows, mean, torch.ones_like(mean), scale, shift, eps=0.0)

    @staticmethod
    def backward(ctx, gradient):
        rows, weight, mean, inverse = ctx.saved_tensors
        gradient, centred = gradient.to(mean), rows - _along(mean, rows)
        own = torch.stack([_sums(gradient, rows), _sums(gradient * centred, rows)])
        shift, slope = (_over_processes(own) / ctx.count).to(mean)
        back = gradient - _along(shift, rows) - centred * _along(slope * inverse.square(), rows)
        back *= _along(weight * inverse, rows)
        return back.to(rows), (own[1] * inverse).to(weight), own[0].to(weight), None, None, None


@torch.no_grad()
def _moments(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean, and mean squared difference from it, by channel over all processes.

    From the differences, as the mean square minus the squared mean would cancel; and rounded where
    torch's own kernel rounds. In fp32 on the CPU a map is then the same to the bit in one process
    and in several, which losses need that compare nearly equal maps.
    """
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    mean = (_over_processes(_sums(wide, rows)) / count).to(wide)
    squares = _over_processes(_sums((wide - _along(mean, rows)).square(), rows))
    return mean, squares.to(wide) / count


def _sums(values: Tensor, rows: Tensor) -> Tensor:
    """Sums by channel: in float64 where the rows are float32, in float32 where they are half."""
    wide = torch.float64 if rows.dtype.itemsize >= 4 else torch.float32
    return values.sum([0, *range(2, values.ndim)], dtype=wide)


def _over_processes(sums: Tensor) -> Tensor:
    summed = sums.clone()
    dist.all_reduce(summed)
    return summed


def _along(values: Tensor, rows: Tensor) -> Tensor:
    """Values by channel, to be combined with rows."""
    return values.view(1, -1, *[1] * (rows.ndim - 2))


def globalise(module: nn.Module) -> None:
    """Replace every batch norm inside a module, in place."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, GlobalBatchNorm(child))
        else:
            globalise(child)

"""A network that computes as 8-bit runtimes do, on the weights and maps that it has anyway.

Whoever is trained so learns to answer alike in 8 bits and in fp32 (Jacob et al., Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018). No module
is exchanged: torch's own functions round what they read, so that any network can be asked.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

STEPS = 127  # of a signed byte, either way; no runtime here uses the 128th
LEVELS = 255  # steps of an unsigned byte
TINY = torch.finfo(torch.float32).tiny
WEIGHTED = {F.conv2d, F.linear}
# What reads maps beside these. Clipping activations do not: they are part of what is before them.
READING = {
    torch.add, Tensor.add, Tensor.add_, torch.mul, Tensor.mul, Tensor.mul_, torch.cat, torch.mean,
    Tensor.mean, F.adaptive_avg_pool2d, F.avg_pool2d, F.hardswish, F.hardsigmoid,
    F.silu,
}  # fmt: skip


def on_weight_grid(weight: Float[Tensor, "outputs *rest"]) -> Float[Tensor, "outputs *rest"]:
    """Weights as whole numbers of steps, an output's largest being 127 of them, 0 at the middle.

    A batch norm behind them scales an output and its grid alike, so it need not be folded first.
    The gradient goes straight through.
    """
    largest = weight.detach().flatten(1).abs().amax(1)
    step = (largest / STEPS).clamp_min(TINY)
    middle = torch.zeros(len(step), dtype=torch.int32, device=step.device)
    return torch.fake_quantize_per_channel_affine(weight, step, middle, 0, -STEPS, STEPS)


def on_range_grid(values: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
    """Activations at the 256 places between their smallest and their largest, 0 being one.

    The gradient goes straight through.
    """
    low, high = values.detach().aminmax()
    low, high = low.clamp_max(0), high.clamp_min(0)
    step = ((high - low) / LEVELS).clamp_min(TINY)
    zero = (-low / step).round().int()
    return torch.fake_quantize_per_tensor_affine(values, step, zero, 0, LEVELS)


class EightBits(TorchFunctionMode):
    """While it is entered, convolutions and what lies between them compute in 8 bits.

    Weights have a grid a channel; whatever a convolution, a sum, a product or a mean reads has one
    a tensor, from the least to the largest in the batch (of several processes, each in its share),
    and is rounded once for all readers. What an activation is about to cut off is not rounded. The
    first convolution's input stays as it is, as in `dermdistill.export`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._read: dict[int, tuple[Tensor, Tensor]] = {}  # keeps both, so that no id comes again
        self._first = True

    def read(self, values: Any) -> Any:
        """A tensor, or each of several, as its readers see it; anything else as it is."""
        if isinstance(values, list | tuple):
            return type(values)(map(self.read, values))
        if not isinstance(values, Tensor) or not values.is_floating_point() or values.ndim < 2:
            return values
        if id(values) not in self._read:
            rounded = on_range_grid(values)
            self._read |= {id(values): (values, rounded), id(rounded): (rounded, rounded)}
        return self._read[id(values)][1]

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call one of torch's functions."""
        if function in WEIGHTED:
            values, weight, *rest = args
            values, self._first = values if self._first else self.read(values), False
            return function(values, on_weight_grid(weight), *rest, **kwargs or {})
        if function not in READING:
            return function(*args, **kwargs or {})
        result = function(*self.read(args), **kwargs or {})
        self._read.pop(id(result), None)  # `x += y` gives x itself, which nobody has read yet
        return result


@torch.no_grad()
def settle_on_grid(network: nn.Module) -> None:
    """Move the weights of every convolution to where 8 bits hold them, in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.copy_(on_weight_grid(module.weight))

"""A network that computes as 8-bit runtimes do, on the weights and maps that it has anyway.

Whoever is trained so learns to answer alike in 8 bits and in fp32 (Jacob et al., Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018). No module
is exchanged: torch's own functions round what they read, so that any network can be asked.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# From maps of an eighth of the image's side on; a sixth, as padding adds a rim. Rounding finer ones
# costs most of what 8 bits cost in answers (docs/log.md, 2026-11-26), and they have few weights.
COARSE = 6
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


def is_coarse(side_px: int, image_px: int) -> bool:
    """Whether a map of this side, of an image of that, is what 8 bits begin with."""
    return side_px * COARSE <= image_px


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
    """While it is entered, convolutions on coarse maps and what lies between compute in 8 bits.

    Weights have a grid a channel; whatever a convolution, a sum, a product or a mean reads has one
    a tensor, from the least to the largest in the batch (of several processes, each in its share),
    and is rounded once for all readers. What an activation is about to cut off is not rounded.

    Args:
        image_px: side of the images; whoever reads maps that are fine beside it stays in fp32, as
            in `dermdistill.export`.
    """

    def __init__(self, image_px: int) -> None:
        super().__init__()
        self._image_px = image_px
        self._read: dict[int, tuple[Tensor, Tensor]] = {}  # keeps both, so that no id comes again

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
        if function not in READING | WEIGHTED or not self._on_coarse(args):
            return function(*args, **kwargs or {})
        if function in WEIGHTED:
            values, weight, *rest = args
            return function(self.read(values), on_weight_grid(weight), *rest, **kwargs or {})
        result = function(*self.read(args), **kwargs or {})
        self._read.pop(id(result), None)  # `x += y` gives x itself, which nobody has read yet
        return result

    def _on_coarse(self, read: Iterable[Any]) -> bool:
        """Whether all maps that something reads are coarse; tokens and embeddings are."""
        nested = [one if isinstance(one, list | tuple) else [one] for one in read]
        maps = [one for some in nested for one in some if isinstance(one, Tensor) and one.ndim == 4]
        return all(is_coarse(one.shape[2], self._image_px) for one in maps)


@torch.no_grad()
def settle_on_grid(network: nn.Module, images: Float[Tensor, "samples 3 rows cols"]) -> None:
    """Move the weights of convolutions on coarse maps to where 8 bits hold them, in place.

    Args:
        network: in evaluation mode.
        images: any of the side that it is trained on.
    """
    for_each_coarse(network, images, lambda conv, _: conv.weight.copy_(on_weight_grid(conv.weight)))


def for_each_coarse(
    network: nn.Module,
    images: Float[Tensor, "samples 3 rows cols"],
    do: Callable[[nn.Conv2d, Tensor], Any],
) -> None:
    """Show images to a network, and do something before each convolution that 8 bits are for.

    Args:
        network: in evaluation mode.
        images: in [0, 1].
        do: is given the convolution and the maps that it is about to read.
    """

    def before(conv: nn.Conv2d, inputs: tuple[Tensor]) -> None:
        if is_coarse(inputs[0].shape[2], images.shape[2]):
            do(conv, inputs[0])

    hooks = [module.register_forward_pre_hook(before) for module in network.modules()
             if isinstance(module, nn.Conv2d)]  # fmt: skip
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()

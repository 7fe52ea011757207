"""A network that computes as 8-bit runtimes do, on the weights and maps that it has anyway.

Whoever is trained so learns to answer alike in 8 bits and in fp32 (Jacob et al., Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018). No module
is exchanged: torch's own convolution rounds what it reads, so that any network can be asked.

In 8 bits are the weights of dense convolutions on coarse maps, which are nearly all of a small
network's, and what these convolutions read, each image in a range of its own. What they give,
sums, depthwise convolutions and fine maps are in fp32: rounding those cost most of the answers
that 8 bits cost, and saved little (docs/log.md, 2026-11-26).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

COARSE = 6  # an image's side over a map's: an eighth of it, and a rim that padding may add
STEPS = 127  # of a signed byte, either way; no runtime here uses the 128th
LEVELS = 255  # steps of an unsigned byte
TINY = torch.finfo(torch.float32).tiny


def is_coarse(side_px: int, image_px: int) -> bool:
    """Whether a map of this side, of an image of that, is what 8 bits begin with."""
    return side_px * COARSE <= image_px


def weight_steps(weight: Float[Tensor, "outputs *rest"]) -> Float[Tensor, " outputs"]:
    """The step of each output's grid: its largest weight is STEPS of them."""
    return (weight.flatten(1).abs().amax(1) / STEPS).clamp_min(TINY)


def on_weight_grid(weight: Float[Tensor, "outputs *rest"]) -> Float[Tensor, "outputs *rest"]:
    """Weights as whole numbers of steps, an output's largest being 127 of them, 0 at the middle.

    A batch norm behind them scales an output and its grid alike, so it need not be folded first.
    The gradient goes straight through.
    """
    step = weight_steps(weight.detach())
    middle = torch.zeros(len(step), dtype=torch.int32, device=step.device)
    return torch.fake_quantize_per_channel_affine(weight, step, middle, 0, -STEPS, STEPS)


def on_range_grid(values: Float[Tensor, "samples *rest"]) -> Float[Tensor, "samples *rest"]:
    """Each sample at the 256 places between its least and its largest value, 0 being one.

    The gradient goes straight through.
    """
    flat = values.detach().flatten(1)
    low, high = flat.amin(1).clamp_max(0), flat.amax(1).clamp_min(0)
    step = ((high - low) / LEVELS).clamp_min(TINY)
    zero = (-low / step).round().int()
    return torch.fake_quantize_per_channel_affine(values, step, zero, 0, 0, LEVELS)


class EightBits(TorchFunctionMode):
    """While it is entered, dense convolutions on coarse maps compute in 8 bits.

    Args:
        image_px: side of the images, beside which a map is coarse or fine.
    """

    def __init__(self, image_px: int) -> None:
        super().__init__()
        self._image_px = image_px

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call one of torch's functions."""
        if function is F.conv2d:
            maps, weight, *rest = args
            dense = weight.shape[1] == maps.shape[1]
            if dense and is_coarse(maps.shape[2], self._image_px):
                args = (on_range_grid(maps), on_weight_grid(weight), *rest)
        return function(*args, **kwargs or {})


@torch.no_grad()
def settle_on_grid(network: nn.Module, images: Float[Tensor, "samples 3 rows cols"]) -> None:
    """Move the weights of dense convolutions on coarse maps to where 8 bits hold them, in place.

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
        if conv.groups == 1 and is_coarse(inputs[0].shape[2], images.shape[2]):
            do(conv, inputs[0])

    hooks = [module.register_forward_pre_hook(before) for module in network.modules()
             if isinstance(module, nn.Conv2d)]  # fmt: skip
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()

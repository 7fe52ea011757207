"""Weights that 8 bits hold, chosen so that every layer's answers move least.

Rounding each weight to its nearest step is what costs an 8-bit network its answers (docs/log.md,
2026-11-25): a filter that takes differences sums to nothing, and its rounded self does not. So the
weights are moved onto their channel's grid here, once, with each one's error made up for by those
still to come; the quantisers of all runtimes, which use the very same grid, find nothing to round.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dermdistill.models.eight_bits import STEPS, for_each_coarse, weight_steps
from dermdistill.models.equalising import equalise

DAMPING = 0.01  # of the mean square of a layer's inputs, so that unused ones leave it solvable
IMAGES, PATCHES = 64, 256  # that a layer's inputs are taken from; of each image


def spread(count: int, most: int) -> slice:
    """Places of at most so many of a count, spread over them all."""
    return slice(None, None, -(-count // most))


def fit_to_8_bits(network: nn.Module, images: Float[Tensor, "samples 3 rows cols"]) -> None:
    """Give a network channels and weights that 8 bits hold well, in place; its answers hardly move.

    Args:
        network: in evaluation mode.
        images: in [0, 1], a few hundred of all kinds.
    """
    equalise(network, images)
    round_weights(network, images[spread(len(images), IMAGES)])


@torch.no_grad()
def round_weights(network: nn.Module, images: Float[Tensor, "samples 3 rows cols"]) -> None:
    """Move the weights of dense convolutions on coarse maps onto their channels' grids, in place.

    One after the other as they run, so that each makes the best of what the rounded ones before it
    give. A batch norm behind one scales a whole channel and its grid alike, so it does not matter
    that converters fold it in later.

    Args:
        network: in evaluation mode.
        images: in [0, 1], some dozens.
    """
    for_each_coarse(network, images, _round)


def on_grid(
    weight: Float[Tensor, "outputs inputs"], moments: Float[Tensor, "inputs inputs"]
) -> Float[Tensor, "outputs inputs"]:
    """The weights as whole numbers of steps, an output's largest being 127 of them.

    Args:
        weight: of a linear map.
        moments: mean of x x^T over its inputs x.

    Source: Frantar, Ashkboos, Hoefler and Alistarh, GPTQ, ICLR 2023, algorithm 1 without its
        blocks; the largest weight is never moved, so that whoever looks for the grid finds it.
    """
    largest = weight.abs() == weight.abs().amax(1, keepdim=True)
    step = weight_steps(weight)
    mean_square = moments.diagonal().mean().clamp_min(1e-12)
    damping = DAMPING * mean_square * torch.eye(len(moments)).to(moments)
    after = torch.linalg.cholesky(torch.linalg.inv(moments + damping), upper=True)
    left, found = weight.clone(), torch.empty_like(weight)
    for place in range(weight.shape[1]):
        wanted = torch.where(largest[:, place], weight[:, place], left[:, place])
        found[:, place] = (wanted / step).round().clamp(-STEPS, STEPS) * step
        error = (left[:, place] - found[:, place]) / after[place, place]
        left[:, place + 1 :] -= error[:, None] * after[place, place + 1 :]
    return found


def _round(conv: nn.Conv2d, read: Tensor) -> None:
    rounded = on_grid(conv.weight.flatten(1).double(), _moments(conv, read))
    conv.weight.copy_(rounded.reshape(conv.weight.shape))


def _moments(conv: nn.Conv2d, images: Tensor) -> Float[Tensor, "inputs inputs"]:
    """Mean of x x^T over patches x of what a convolution reads."""
    half = [rate * (side - 1) // 2
            for rate, side in zip(conv.dilation, conv.kernel_size, strict=True)]  # fmt: skip
    total = 0
    for image in images.split(1):  # all patches of all images at once would fill the memory
        patches = F.unfold(image, conv.kernel_size, conv.dilation, half)[0]
        x = patches[:, :: max(1, patches.shape[1] // PATCHES) | 1].double()
        total = total + x @ x.mT / x.shape[1]
    return total / len(images)

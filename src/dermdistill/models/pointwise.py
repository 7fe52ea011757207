"""1x1 convolutions of small maps as matrix products, in bf16 training on the CPU.

oneDNN is slower at such a convolution than at the product that it is: at 1280 to 2048 channels of
7x7 places 56 against 32 ms forward and backward, and down from 14x14 places nearly always; with
more places it is as fast or faster (docs/log.md). Elsewhere nothing changes.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from dermdistill.models.depthwise import trains_in_bf16

MOST_PLACES = 14 * 14  # of a map, for the product to be faster


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution with stride 1."""

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv2d."""
        if not trains_in_bf16(x) or x.shape[-2] * x.shape[-1] > MOST_PLACES:
            return super().forward(x)
        places = x.permute(0, 2, 3, 1)
        # As rows, since of more dimensions the bias is added to what is rounded already.
        answer = F.linear(places.flatten(0, 2), self.weight.flatten(1), self.bias)
        return answer.unflatten(0, places.shape[:3]).permute(0, 3, 1, 2)


def speed_up_pointwise(module: nn.Module) -> nn.Module:
    """Let every plain 1x1 convolution be a product where that is faster.

    Only the modules' classes change: names, weights and copies stay what they were.
    """
    for conv in module.modules():
        if type(conv) is nn.Conv2d and _is_plain_pointwise(conv):
            conv.__class__ = PointwiseConv
    return module


def _is_plain_pointwise(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == conv.stride == (1, 1)
        and conv.padding in ((0, 0), "valid", "same")
        and conv.groups == 1
    )

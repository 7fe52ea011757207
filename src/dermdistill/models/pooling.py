"""Whether a network embeds an image by the mean of its last map."""

import torch
from jaxtyping import Float
from torch import Tensor

from dermdistill.models.backbone import Backbone
from dermdistill.types import Metadata

MEAN_TOLERANCE = 1e-4  # of the embedding's largest value: fp32 sums in another order


@torch.no_grad()
def pools_by_mean(network: Backbone, input_px: int) -> bool:
    """Whether a network in evaluation mode embeds by the map's mean: then its CAM is exact.

    True of MobileNetV2, EfficientNet and ResNet; false of networks that widen the embedding after
    pooling (MobileNetV3, V4, GhostNet), normalise it (ConvNeXt) or read a token (ViT). Asked of
    an image of noise, on which no two channels are equal by chance.
    """
    taps = network.given(Metadata.missing(1))(noise_image(network, input_px))
    mean = taps.map.mean((2, 3))
    if mean.shape != taps.embedding.shape:
        return False
    largest = float(taps.embedding.abs().max())
    return bool((mean - taps.embedding).abs().max() <= MEAN_TOLERANCE * max(largest, 1e-12))


def noise_image(network: Backbone, input_px: int) -> Float[Tensor, "1 3 rows cols"]:
    """One image of noise, always the same, on the network's device."""
    noise = torch.rand(1, 3, input_px, input_px, generator=torch.Generator().manual_seed(0))
    return noise.to(next(network.parameters()).device)

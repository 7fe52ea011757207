"""What a network's batch norms see, beside what they remember of the training images."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dermdistill.models.backbone import Backbone
from dermdistill.types import Taps


def remembering_norms(network: nn.Module) -> list[nn.Module]:
    """The batch norms of maps that keep running statistics; transformers have none."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    return [norm for norm in norms if norm.running_mean is not None]


def with_norms(
    network: Backbone, images: Float[Tensor, "samples 3 rows cols"], stages: bool = False
) -> Taps:
    """A network's taps, and in `norms` the moments of every batch norm's input.

    Only hooks see these inputs. They live as long as this call.
    """
    moments: list[Tensor] = []
    hooks = [
        norm.register_forward_pre_hook(lambda norm, args: moments.append(norm_gaps(norm, *args)))
        for norm in remembering_norms(network)
    ]
    try:
        return network(images, stages)._replace(norms=tuple(moments))
    finally:
        for hook in hooks:
            hook.remove()


def norm_gaps(
    norm: nn.Module, features: Float[Tensor, "samples channels *places"]
) -> Float[Tensor, "samples 2 channels"]:
    """How far each sample's first two moments are from those that a batch norm remembers.

    With d = (x - running mean) / s, where s^2 is the mean of the running variances over the
    channels: d averaged over places, and d^2 less running variance / s^2. Sums over samples stay
    possible, so a batch may lie on several processes: the batch's mean gap is the mean of the first
    row, its variance gap the mean of the second less the square of the first's.
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32)).flatten(2)
    unit = norm.running_var.mean().clamp_min(norm.eps).to(features)
    centred = (features - norm.running_mean.to(features)[:, None]) / unit.sqrt()
    square = centred.square().mean(2) - norm.running_var.to(features) / unit
    return torch.stack((centred.mean(2), square), dim=1)

"""Layers that become one, in networks that are trained no more and answer as before.

In evaluation a batch norm is a scale and a shift of every channel, so the convolution before it can
do both: one pass less over every map, which is a good part of a teacher's time on a CPU. Networks
that learn in several branches side by side (MobileOne, RepViT, FastViT) need one of them then.
"""

import copy
import warnings

import torch
from timm.layers import BatchNormAct2d
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dermdistill.models.backbone import Backbone
from dermdistill.models.pooling import noise_image
from dermdistill.types import Metadata

MOST_DIFFERENCE = 1e-4  # of an answer in fp32, relative to its largest number


@torch.no_grad()
def fold_norms(network: Backbone, input_px: int) -> Backbone:
    """A copy whose batch norms are part of its convolutions, if it answers alike.

    Which norm follows which convolution is seen from one forward pass, so no network has to be
    known. Where the copy answers otherwise (a map with a second reader), or where there is nothing
    to fold, the network itself is returned.

    Args:
        network: in evaluation mode.
        input_px: side of an image of noise that it is asked about before and after.

    Returns:
        A network in evaluation mode, its answers as before to rounding.
    """
    probe = noise_image(network, input_px)
    pairs = _pairs(network, probe)
    if not pairs:
        return network
    folded = copy.deepcopy(network)
    for conv, norm in pairs:
        merged = fuse_conv_bn_eval(folded.get_submodule(conv), folded.get_submodule(norm))
        folded.set_submodule(conv, merged)
        folded.set_submodule(norm, _what_is_left(folded.get_submodule(norm)))
    if not _answer_alike(network, folded, probe):
        _warn_of(network, "its batch norms folded")
        return network
    return folded


@torch.no_grad()
def merge_branches(network: Backbone, input_px: int) -> Backbone:
    """A copy whose layers that learn in parallel branches have one convolution each.

    timm knows how, of its networks that do so. Of others the network itself is returned, and where
    the copy does not answer alike, too.

    Args:
        network: in evaluation mode.
        input_px: side of an image of noise that it is asked about before and after.

    Returns:
        A network in evaluation mode, its answers as before to rounding.

    Source: Ding et al., RepVGG: Making VGG-style ConvNets Great Again, CVPR 2021, section 3.3.
    """
    merged = copy.deepcopy(network)
    reparameterize_model(merged.network, inplace=True)
    if len(list(merged.modules())) == len(list(network.modules())):
        return network
    try:
        alike = _answer_alike(network, merged.eval(), noise_image(network, input_px))
    except AttributeError:  # timm's fused classifiers of LeViT and its kin are none
        alike = False
    if not alike:
        _warn_of(network, "its branches merged")
        return network
    return merged


def _answer_alike(network: Backbone, changed: Backbone, probe: Tensor) -> bool:
    return all(
        (before - after).abs().max() <= MOST_DIFFERENCE * before.abs().max()
        for before, after in zip(_asked(network, probe), _asked(changed, probe), strict=True)
    )


def _warn_of(network: Backbone, how: str) -> None:
    warnings.warn(
        f"{type(network.network).__name__} answers otherwise with {how}; it is asked as it is, "
        "which is slower and as right",
        stacklevel=3,
    )


def _asked(network: Backbone, probe: Tensor) -> tuple[Tensor, ...]:
    """Map, embedding and logits of an image of nobody known."""
    return network.given(Metadata.missing(1))(probe)[:3]


def _pairs(network: Backbone, probe: Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and of the norms that read their answers, each called once."""
    made: list[tuple[Tensor, str]] = []  # keeps the answers, so that no other takes their place
    read: list[tuple[Tensor, str]] = []
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(
                lambda _, __, answer, name=name: made.append((answer, name))
            ))  # fmt: skip
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(
                lambda _, given, name=name: read.append((given[0], name))
            ))  # fmt: skip
    _asked(network, probe)
    for hook in hooks:
        hook.remove()
    makers = {id(answer): name for answer, name in made}
    pairs = [(makers[id(given)], name) for given, name in read if id(given) in makers]
    once = _called_once(made) | _called_once(read)
    return [(conv, norm) for conv, norm in pairs if {conv, norm} <= once]


def _called_once(calls: list[tuple[Tensor, str]]) -> set[str]:
    names = [name for _, name in calls]
    return {name for name in names if names.count(name) == 1}


def _what_is_left(norm: nn.Module) -> nn.Module:
    """What a norm does beside norming: timm's combined one has dropout and activation."""
    if isinstance(norm, BatchNormAct2d):
        return nn.Sequential(norm.drop, norm.act)
    return nn.Identity()

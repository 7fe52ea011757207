"""Networks with fewer channels than timm builds them with.

A pruned network is timm's own with narrower tensors: their shapes, in the file of its weights, say
all there is to know about it, so that only who prunes needs the library that does.
"""

import copy
import importlib.util
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dermdistill.errors import ConfigError, ToolchainError

LIBRARY = "torch_pruning"
MULTIPLE = 8  # of channels that a layer keeps: what kernels of 8 and 16 bits are made for


def require_pruner() -> None:
    """Refuse to prune without the library.

    Raises:
        ToolchainError: it is not installed.
    """
    if importlib.util.find_spec(LIBRARY) is None:
        raise ToolchainError(
            "prune_ratio is above 0, and pruning needs torch-pruning, which is not installed: "
            "pip install 'dermdistill[prune]'"
        )


def prune(network: nn.Module, ratio: float) -> None:
    """Take a share of its channels out of a timm network, in place; the classifier's outputs stay.

    Every group of layers that must agree on their channels loses the ones whose weights are
    smallest over the whole group, as many of each group.

    Args:
        network: convolutional, with the weights that tell which channels matter.
        ratio: of the channels of each layer, in (0, 1); what is left is rounded to a multiple of
            MULTIPLE. A share r leaves about (1 - r)^2 of weights and products.

    Raises:
        ToolchainError: torch-pruning is not installed.
        ConfigError: it cannot prune this network.

    Source: Fang, Ma, Song, Mi and Wang, DepGraph: Towards Any Structural Pruning, CVPR 2023, with
        the group's L2 norm as importance.
    """
    require_pruner()
    import torch_pruning

    side = network.pretrained_cfg["input_size"][-1]
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    less = copy.deepcopy(network).eval()
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parameters outside of layers; compared below
            torch_pruning.pruner.BasePruner(
                less, images[:1], torch_pruning.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=ratio, ignored_layers=[less.get_classifier()], round_to=MULTIPLE,
            ).step()  # fmt: skip
        narrow(network, less.state_dict())
        network.load_state_dict(less.state_dict())
        note_width(network)
        with torch.no_grad():
            wanted, found = less(images), _in_evaluation(network, network.forward, images)
        same = torch.allclose(found, wanted, atol=1e-4)
    except Exception as error:  # the library has no base class for its errors
        raise ConfigError(
            f"{type(network).__name__} cannot be pruned: {type(error).__name__}: "
            f"{str(error)[:200]}. Set prune_ratio to 0, or choose another network (mobile nets, "
            "EfficientNets and resnets can be pruned)"
        ) from error
    if not same:
        raise ConfigError(
            f"{type(network).__name__} cannot be pruned: its channels are wired in a way that the "
            "shapes of its tensors do not tell. Set prune_ratio to 0, or choose another network"
        )


def narrow(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a module's tensors the shapes in a state where these are smaller, values undefined.

    Tensors that the state lacks, or has larger or with other dimensions, are left alone.
    """
    for name, tensor in list(module.state_dict().items()):
        shape = state[name].shape if name in state else tensor.shape
        if len(shape) == tensor.ndim and _is_within(shape, tensor.shape):
            path, _, own = name.rpartition(".")
            _resize(module.get_submodule(path), own, shape)


def note_width(network: nn.Module) -> None:
    """Correct timm's own record of the width of a narrowed network's last map."""
    side = network.pretrained_cfg["input_size"][-1]
    images = torch.zeros(1, 3, side, side)
    network.num_features = _in_evaluation(network, network.forward_features, images).shape[1]


@torch.no_grad()
def _in_evaluation(network: nn.Module, ask: Callable, images: Tensor) -> Tensor:
    """An answer that leaves the network's statistics alone."""
    was_training = network.training
    network.eval()
    answer = ask(images)
    network.train(was_training)
    return answer


def _is_within(shape: torch.Size, other: torch.Size) -> bool:
    return shape != other and all(a <= b for a, b in zip(shape, other, strict=True))


def _resize(layer: nn.Module, name: str, shape: torch.Size) -> None:
    """Another shape for one tensor of a layer, and what the layer notes of it."""
    old = getattr(layer, name)
    new = old.new_empty(shape)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(layer, name, new)
    if name != "weight":
        return
    if isinstance(layer, nn.Conv2d):
        if layer.groups == layer.out_channels:  # depthwise
            layer.groups = shape[0]
        layer.in_channels, layer.out_channels = shape[1] * layer.groups, shape[0]
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = shape
    elif hasattr(layer, "num_features"):
        layer.num_features = shape[0]
    elif hasattr(layer, "normalized_shape"):
        layer.normalized_shape = tuple(shape)

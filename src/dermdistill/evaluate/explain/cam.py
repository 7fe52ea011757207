"""Where in an image a network sees a class: the exact map, and Grad-CAM where there is none."""

import importlib

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dermdistill.errors import ConfigError, unknown_name
from dermdistill.models import Backbone, noise_image, pools_by_mean
from dermdistill.types import Metadata

EXACT, BEST = "cam", "auto"
# Names here -> classes of the grad-cam library that need one forward and one backward pass.
LIBRARY = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
}
MAPS = (BEST, EXACT, *LIBRARY)


def class_activation_map(
    features: Float[Tensor, "samples channels rows cols"],
    weight: Float[Tensor, "classes channels"],
) -> Float[Tensor, "samples classes rows cols"]:
    """Every class's evidence at every place: the classifier applied before the mean, not after.

    Where the embedding is the map's mean, this loses nothing: the mean of a class's map plus the
    class's bias is its logit. It is a 1x1 convolution, so an export can give it beside the logits
    at no cost that one could measure. Where the embedding is not the map's mean
    (`pools_by_mean`), it means nothing.

    Args:
        features: the map of `Taps`.
        weight: the classifier's weight.

    Returns:
        Evidence in logits, of either sign; one map a class.

    Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, eq. 2.
    """
    return F.conv2d(features, weight[:, :, None, None])


def _reads_its_map(network: Backbone, input_px: int) -> bool:
    """Whether the last map has a gradient: a transformer that reads a token leaves it without."""
    split = _Split(network.given(Metadata.missing(1)))
    features = split.features(noise_image(network, input_px)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(split.head(features)[0, 0], features)
    return bool(network.as_map(gradient).any())


def choose_map(
    network: Backbone, input_px: int, asked: str, name: str, stride: int | None = None
) -> str:
    """The kind of map that a network is explained by.

    Args:
        network: the network.
        input_px: side of its images.
        asked: one of `MAPS`; "auto" is the exact map where there is one, else Grad-CAM.
        name: what an error calls the network.
        stride: as in `evidence_maps`; the exact map has none.

    Raises:
        ConfigError: no such kind, the exact map of a network that has none, or a network whose
            answer does not depend on its last map at all.
    """
    if asked not in MAPS:
        raise unknown_name("map", asked, MAPS)
    if stride is not None:
        if asked not in LIBRARY:
            raise ConfigError(f"stride is {stride}, which the map {asked!r} cannot have; choose "
                              f"one of {', '.join(LIBRARY)}")  # fmt: skip
        _stage(network, stride, name)
    exact = asked in (BEST, EXACT) and pools_by_mean(network, input_px)
    if asked == EXACT and not exact:
        raise ConfigError(
            f"{name} has no exact class activation map: its embedding is not the mean of its last "
            f"feature map. Choose one of {', '.join(LIBRARY)}, which estimate it from gradients"
        )
    if not exact and not _reads_its_map(network, input_px):
        raise ConfigError(
            f"{name} reads a class token, so no map of its last features explains it; choose a "
            "network that pools over places"
        )
    return EXACT if exact else ("gradcam" if asked == BEST else asked)


def evidence_maps(
    network: Backbone,
    images: Float[Tensor, "samples 3 rows cols"],
    classes: Int64[Tensor, " samples"],
    kind: str,
    stride: int | None = None,
) -> Float[Tensor, "samples rows cols"]:
    """How much each place of each image speaks for one class, at the image's own size.

    Args:
        network: a frozen network.
        images: RGB in [0, 1], of the patients that the network was given.
        classes: the class to explain, one an image.
        kind: what `choose_map` chose.
        stride: look at the last stage whose map is so many times smaller than the image, instead
            of the last map. In small images the last map is so coarse, and each of its places
            sees so much of the image, that a finer one is the better witness.

    Returns:
        For "cam" evidence in logits, of either sign; for the library's kinds 0 to 1 an image.

    Raises:
        ConfigError: the grad-cam library is not installed.
    """
    if kind != EXACT:
        return _library_maps(network, images, classes, kind, stride)
    with torch.no_grad():
        features = network(images).map
        weight = network.classifier.weight
        maps = class_activation_map(features, weight)[torch.arange(len(images)), classes]
        return F.interpolate(
            maps[:, None].float(), images.shape[2:], mode="bilinear", align_corners=False
        )[:, 0]


class _Features(nn.Module):
    """The part of a network before its map: the layer that the library looks at."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.features(images)


class _Split(nn.Module):
    """A network as the library wants it: a layer whose output is the map, logits at the end."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.features = _Features(backbone)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def head(self, features: Tensor) -> Tensor:
        return self.features.backbone.answer(features).logits


def _stage(network: Backbone, stride: int, name: str) -> nn.Module:
    """The last stage of a stride, by timm's own list of stages."""
    stages = list(getattr(network.network, "feature_info", []))
    modules = [stage["module"] for stage in stages if stage["reduction"] == stride]
    if not modules:
        known = sorted({stage["reduction"] for stage in stages})
        raise ConfigError(f"stride is {stride}; {name} has stages of stride {known}")
    return network.network.get_submodule(modules[-1])


def _library_maps(
    network: Backbone, images: Tensor, classes: Tensor, kind: str, stride: int | None
) -> Tensor:
    try:
        library = importlib.import_module("pytorch_grad_cam")
        targets = importlib.import_module("pytorch_grad_cam.utils.model_targets")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the map {kind!r} needs the grad-cam library: pip install 'dermdistill[explain]'"
        ) from error
    split = _Split(network).eval()
    wanted = [targets.ClassifierOutputTarget(code) for code in classes.tolist()]
    layer = split.features if stride is None else _stage(network, stride, "the network")
    with getattr(library, LIBRARY[kind])(
        model=split, target_layers=[layer], reshape_transform=network.as_map
    ) as explainer:
        # A frozen network has no gradient of its own: the images must ask for one.
        maps = explainer(input_tensor=images.detach().clone().requires_grad_(), targets=wanted)
    return torch.from_numpy(maps).to(images.device)

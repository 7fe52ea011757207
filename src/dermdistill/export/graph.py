"""The network as an integrator meets it: pixels in; probabilities, logits and class maps out."""

import copy

import numpy as np
import torch
from jaxtyping import Real
from torch import Tensor, nn

from dermdistill.evaluate.ood.scores import Fitted
from dermdistill.models import Backbone, pools_by_mean

WHITE = 255  # of 8-bit pixels
TINY = 1e-12


class DeployedGraph(nn.Module):
    """A backbone between 8-bit pixels and calibrated probabilities; nothing is left to do outside.

    Where the classifier is linear and reads the mean of the last map, it is applied to the map
    before the mean is taken: the same logits, and on the way the exact class activation maps.

    Args:
        network: the network; its weights are copied.
        input_px: side of the square images.
        temperature: what the logits are divided by before the softmax, > 0.
        prototypes: what the score of unlikeness knows, of `fit_prototypes`; None for no score.

    Source: class activation mapping, Zhou et al., CVPR 2016, eq. 2 (here with the bias, so that
        a map's mean is the logit).
    """

    def __init__(
        self,
        network: Backbone,
        input_px: int,
        temperature: float = 1.0,
        prototypes: Fitted | None = None,
    ):
        super().__init__()
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.input_px = input_px
        self.temperature = temperature
        head = self.network.classifier
        exact = (
            isinstance(head, nn.Linear)
            and head.bias is not None
            and pools_by_mean(self.network, input_px)
        )
        self.class_maps = _pointwise(head) if exact else None
        self.prototypes = None if prototypes is None else nn.Sequential(
            _linear(prototypes["axes"]), _linear(prototypes["prototypes"])
        )  # fmt: skip

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs in their order."""
        there = {"cam": self.class_maps, "ood_score": self.prototypes}
        return ("probabilities", "logits", *(name for name, part in there.items() if part))

    def forward(self, pixels: Real[Tensor, "samples rows cols 3"]) -> tuple[Tensor, ...]:
        """Probabilities and logits [samples classes]; then, where they exist, the class maps
        [samples classes map_rows map_cols] and the score of unlikeness [samples 1]. Pixels are RGB
        from 0 to 255, of any number type.
        """
        taps = self.network(pixels.permute(0, 3, 1, 2).float() / WHITE)
        cam = () if self.class_maps is None else (self.class_maps(taps.map),)
        logits = cam[0].mean((2, 3)) if cam else taps.logits
        score = () if self.prototypes is None else (self._ood_score(taps.embedding),)
        return self._probabilities(logits), logits, *cam, *score

    def _probabilities(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits / self.temperature, dim=1)

    def _ood_score(self, embedding: Tensor) -> Tensor:
        """As `prototype_score`; the length is divided out last, in one number an image."""
        length = embedding.square().sum(1, keepdim=True).sqrt()
        return 1 - self.prototypes(embedding).amax(1, keepdim=True) / (length + TINY)


def _linear(weight: np.ndarray) -> nn.Linear:
    """A product with a constant matrix [out in]."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight))
    return linear.eval().requires_grad_(False)


def _pointwise(classifier: nn.Linear) -> nn.Conv2d:
    """A linear layer as a 1x1 convolution with copies of its weights."""
    conv = nn.Conv2d(classifier.in_features, classifier.out_features, 1)
    with torch.no_grad():
        conv.weight.copy_(classifier.weight[:, :, None, None])
        conv.bias.copy_(classifier.bias)
    return conv.eval().requires_grad_(False)

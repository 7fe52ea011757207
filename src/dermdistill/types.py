"""The values that pass between data, networks, methods and the loop."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor


class Batch(NamedTuple):
    """Images with their views as an axis; view 0 is upright.

    Attributes:
        images: RGB in [0, 1], `[batch views 3 rows cols]`.
        target: class index of each image, `[batch]`.
        ids: the images' ids, in the same order.
    """

    images: Float[Tensor, "batch views 3 rows cols"]
    target: Int64[Tensor, " batch"]
    ids: list[str]

    @property
    def views(self) -> int:
        """How many views each image has."""
        return self.images.shape[1]

    def flat(self) -> Float[Tensor, "samples 3 rows cols"]:
        """All views as one stack, image-major: row `i * views + v` is view v of image i."""
        return self.images.flatten(0, 1)


class Taps(NamedTuple):
    """What a network exposes of one forward pass.

    The map is the last spatial feature map, the embedding what the classifier reads (for most
    networks the map's mean; MobileNetV3 and V4 widen it first), the logits its answer.
    """

    map: Float[Tensor, "samples channels rows cols"]
    embedding: Float[Tensor, "samples width"]
    logits: Float[Tensor, "samples classes"]


@dataclass(frozen=True)
class Widths:
    """A network's sizes, which adapters are built from."""

    map_channels: int
    map_px: int
    embedding: int
    classes: int


Terms = dict[str, tuple[float, Tensor]]
"""A method's answer: name -> (weight, unweighted value); the loss is their weighted sum."""


def total_loss(terms: Terms) -> Float[Tensor, ""]:
    """The weighted sum of a method's terms."""
    return torch.stack([weight * value for weight, value in terms.values()]).sum()


def upright(rows: Shaped[Tensor, "samples *rest"], views: int) -> Shaped[Tensor, "batch *rest"]:
    """View 0 of every image, from image-major rows."""
    return rows.unflatten(0, (-1, views))[:, 0]


def rotated(rows: Shaped[Tensor, "samples *rest"], views: int) -> Shaped[Tensor, "others *rest"]:
    """All views but the upright one, from image-major rows, in the same order."""
    return rows.unflatten(0, (-1, views))[:, 1:].flatten(0, 1)

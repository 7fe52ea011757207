"""The values that pass between data, networks, methods and the loop."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor


class Views(NamedTuple):
    """The views of every image that a method asks for.

    Attributes:
        count: how many.
        turned: view v is turned by v quarter turns; else all are upright, each varied by itself.
        apart: the student sees view 0 alone and whoever teaches view 1; else all see all.
    """

    count: int = 1
    turned: bool = False
    apart: bool = False


class Metadata(NamedTuple):
    """What is known of the patients in some images, as it comes: what is missing stays missing.

    Attributes:
        age: years, NaN where not known, `[images]`.
        sex: a lower-case name, None where not known, `[images]`.
        site: likewise, where on the body the lesion is.
    """

    age: Float[np.ndarray, " images"]
    sex: Shaped[np.ndarray, " images"]
    site: Shaped[np.ndarray, " images"]

    @classmethod
    def missing(cls, images: int) -> "Metadata":
        """Of images about which nothing is known."""
        nobody = np.full(images, None, object)
        return cls(np.full(images, np.nan), nobody, nobody)

    def of(self, rows: Int64[np.ndarray, " chosen"]) -> "Metadata":
        """Of some of the images, in the order of `rows`."""
        return Metadata(*(column[rows] for column in self))


class Batch(NamedTuple):
    """Images with their views as an axis; view 0 is upright.

    Attributes:
        images: RGB in [0, 1], `[batch views 3 rows cols]`.
        target: class index of each image, `[batch]`.
        ids: the images' ids, in the same order.
        rows: their positions in the part that they come from, for what a method remembers.
        apart: the student sees view 0 alone and whoever teaches view 1; else all see all.
        metadata: what is known of each image's patient, for networks that read it.
    """

    images: Float[Tensor, "batch views 3 rows cols"]
    target: Int64[Tensor, " batch"]
    ids: list[str]
    rows: Int64[Tensor, " batch"]
    apart: bool = False
    metadata: Metadata | None = None

    @property
    def views(self) -> int:
        """How many views of each image the student sees."""
        return 1 if self.apart else self.images.shape[1]

    def for_student(self) -> Float[Tensor, "samples 3 rows cols"]:
        """What the student sees, image-major: row `i * views + v` is view v of image i."""
        return self.images[:, 0] if self.apart else self.images.flatten(0, 1)

    def for_teacher(self) -> Float[Tensor, "samples 3 rows cols"]:
        """What whoever teaches sees, in the same order."""
        return self.images[:, 1] if self.apart else self.images.flatten(0, 1)

    def last_of_each(self) -> Int64[Tensor, " distinct"]:
        """Where every distinct image stands last: a sampler may draw one twice into a batch."""
        distinct, place = self.rows.unique(return_inverse=True)
        here = torch.arange(len(place), device=place.device)
        return torch.zeros_like(distinct).scatter_reduce_(0, place, here, "amax")


class Taps(NamedTuple):
    """What a network exposes of one forward pass.

    The map is the last spatial feature map, the embedding what the classifier reads (for most
    networks the map's mean; MobileNetV3 and V4 widen it first), the logits its answer. The stages
    are the network's own feature maps from shallow to deep, where a method asks for them. The norms
    say of every batch norm how far its input is from what it remembers, where images are made.
    """

    map: Float[Tensor, "samples channels rows cols"]
    embedding: Float[Tensor, "samples width"]
    logits: Float[Tensor, "samples classes"]
    stages: tuple[Tensor, ...] = ()
    norms: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Widths:
    """A network's sizes, which adapters are built from."""

    map_channels: int
    map_px: int
    embedding: int
    classes: int
    stages: tuple[tuple[int, int], ...] = ()  # channels and pixels of each, if a method asks


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

"""How far a map can be trusted: agreement, insertion and deletion, share inside the lesion."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from kornia.filters import gaussian_blur2d
from torch import Tensor

Predict = Callable[[Tensor], Tensor]  # images -> probabilities
STEPS = 16  # of insertion and deletion; a map of 4x4 places has no more to say
DELETED = 0.5  # grey: what most networks' normalisation turns into 0
BLUR_RATIO = 0.1  # deviation of the blur that insertion starts from, as a share of the image
CENTRE_RATIO = 0.25  # deviation of the middle blob, as a share of the image
TINY = 1e-12


def agreement_score(
    first: Float[Tensor, "samples rows cols"], second: Float[Tensor, "samples rows cols"]
) -> Float[Tensor, " samples"]:
    """Pearson's correlation of two maps of each image, -1 to 1; 0 where a map is constant.

    It asks whether two networks look at the same places, not whether those are the right ones.
    As lesions lie in the middle, maps of different images agree too: compare with that.

    Source: "CC" in Bylinskii et al., What Do Different Evaluation Metrics Tell Us About Saliency
    Models?, IEEE TPAMI 41(3), 2019.
    """
    first, second = (maps.flatten(1).double() for maps in (first, second))
    first, second = (maps - maps.mean(1, keepdim=True) for maps in (first, second))
    scale = first.norm(dim=1) * second.norm(dim=1)
    return torch.where(scale > TINY, (first * second).sum(1) / scale.clamp_min(TINY), 0.0).float()


def inside_score(
    maps: Float[Tensor, "samples rows cols"], masks: Bool[Tensor, "samples rows cols"]
) -> Float[Tensor, " samples"]:
    """Share of a map's positive evidence that lies inside the lesion, 0 to 1; NaN without any.

    A map that is equal everywhere gets the lesion's share of the image, so compare with that.

    Source: the energy-based pointing game of Wang et al., Score-CAM, CVPR Workshops 2020, eq. 8,
    with an outline instead of a box.
    """
    evidence = maps.clamp_min(0).flatten(1).double()
    inside = (evidence * masks.flatten(1)).sum(1)
    return (inside / evidence.sum(1)).float()


def centre_maps(images: Float[Tensor, "samples 3 rows cols"]) -> Float[Tensor, "samples rows cols"]:
    """A blob in the middle of every image: the map of whoever never looked, to compare with."""
    rows, cols = (
        torch.exp(-0.5 * ((torch.arange(size) + 0.5) / size - 0.5) ** 2 / CENTRE_RATIO**2)
        for size in images.shape[2:]
    )
    return (rows[:, None] * cols).to(images.device).expand(len(images), -1, -1)


def deletion_score(
    predict: Predict,
    images: Float[Tensor, "samples 3 rows cols"],
    maps: Float[Tensor, "samples rows cols"],
    classes: Int64[Tensor, " samples"],
) -> Float[Tensor, " samples"]:
    """Mean probability of the class while its strongest places turn grey first; low is better.

    Source: Petsiuk et al., RISE, BMVC 2018, section 3.3 ("deletion": area under the curve).
    """
    return _area(predict, images, torch.full_like(images, DELETED), maps, classes)


def insertion_score(
    predict: Predict,
    images: Float[Tensor, "samples 3 rows cols"],
    maps: Float[Tensor, "samples rows cols"],
    classes: Int64[Tensor, " samples"],
) -> Float[Tensor, " samples"]:
    """Mean probability of the class while a blurred image gets its strongest places back first.

    High is better.

    Source: Petsiuk et al., RISE, BMVC 2018, section 3.3 ("insertion": area under the curve).
    """
    sigma = BLUR_RATIO * images.shape[-1]
    size = min(2 * round(3 * sigma) + 1, 2 * (images.shape[-1] // 2) - 1)
    blurred = gaussian_blur2d(images, size, (sigma, sigma))
    return _area(predict, blurred, images, maps, classes)


@torch.no_grad()
def _area(predict: Predict, first: Tensor, last: Tensor, maps: Tensor, classes: Tensor) -> Tensor:
    """Area under the class's probability as `first` turns into `last`, strongest places first.

    By the trapezoidal rule over equal steps of the share of pixels.
    """
    places = maps.flatten(1)
    order = places.argsort(dim=1, descending=True, stable=True)
    ranks = order.argsort(dim=1).view_as(maps)
    rows = torch.arange(len(classes), device=classes.device)
    curve = []
    for step in range(STEPS + 1):
        turned = (ranks < round(step / STEPS * places.shape[1]))[:, None]
        curve.append(predict(torch.where(turned, last, first))[rows, classes])
    return torch.trapezoid(torch.stack(curve), dim=0) / STEPS

"""Dermoscopy's own corruptions at five severities, on batches of stored pixels."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dermdistill.errors import ConfigError, unknown_name
from dermdistill.evaluate.robustness import objects, optics
from dermdistill.runtime import derived_seed

CORRUPTIONS: dict[str, Callable] = {
    "hair": objects.hair,
    "ruler": objects.ruler,
    "ink": objects.ink,
    "bubbles": objects.bubbles,
    "vignette": optics.vignette,
    "uneven_light": optics.uneven_light,
    "colour_cast": optics.colour_cast,
    "blur": optics.blur,
    "jpeg": optics.jpeg,
    "low_resolution": optics.low_resolution,
    "moire": optics.moire,
}
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(
    pixels: UInt8[Tensor, "batch rows cols 3"],
    ids: Sequence[str],
    name: str,
    severity: int,
    seed: int,
) -> UInt8[Tensor, "batch rows cols 3"]:
    """The same images, each corrupted by its own draw.

    What is drawn depends on the seed, the corruption and the image's id alone: not on the batch,
    and not on the severity, which shows more of the same.

    Args:
        pixels: stored images.
        ids: their ids.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: another seed, other hairs.

    Raises:
        ConfigError: no such corruption or severity.

    Source: severities and their use are those of Hendrycks and Dietterich, Benchmarking Neural
    Network Robustness to Common Corruptions and Perturbations, ICLR 2019; the corruptions are ours.
    """
    if name not in CORRUPTIONS:
        raise unknown_name("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise ConfigError(f"severity is {severity}; it must be 1 to {SEVERITIES[-1]}")
    changed = np.empty(pixels.shape, np.uint8)
    for row, (image, who) in enumerate(zip(pixels.cpu().numpy(), ids, strict=True)):
        rng = np.random.default_rng(derived_seed(seed, "corruption", name, who))
        picture = CORRUPTIONS[name](rng, image.astype(np.float32) / 255, severity)
        changed[row] = np.rint(np.clip(picture, 0, 1) * 255)
    return torch.from_numpy(changed)

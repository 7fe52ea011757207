"""Adversarial images: the smallest changes that mislead a network, in its own input space.

Written here and not taken from a library: it is a dozen lines, and the one maintained library with
a fitting licence that was looked at (torchattacks) has had no release since 2023.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

Logits = Callable[[Tensor], Tensor]  # images in [0, 1] -> logits, differentiable
STEP_RATIO = 2.5  # of epsilon over the steps: far enough to reach every corner of the ball and back


def fgsm(
    logits_of: Logits,
    images: Float[Tensor, "samples 3 rows cols"],
    target: Int64[Tensor, " samples"],
    epsilon: float,
) -> Float[Tensor, "samples 3 rows cols"]:
    """One step of size epsilon up the loss's sign; pixels stay in [0, 1].

    Source: Goodfellow et al., Explaining and Harnessing Adversarial Examples, ICLR 2015, section 4.
    """
    return (images + epsilon * _ascent(logits_of, images, target, 1).sign()).clamp(0, 1)


def pgd(
    logits_of: Logits,
    images: Float[Tensor, "samples 3 rows cols"],
    target: Int64[Tensor, " samples"],
    epsilon: float,
    steps: int,
    generator: torch.Generator,
    draws: int = 1,
) -> Float[Tensor, "samples 3 rows cols"]:
    """The loss's ascent within epsilon of every pixel, from a random start; pixels in [0, 1].

    Args:
        logits_of: what is attacked, with all that stands before it.
        images: RGB in [0, 1].
        target: their true classes.
        epsilon: largest change of a pixel.
        steps: of size 2.5 epsilon / steps.
        generator: of the start.
        draws: gradients to average in a step where what is attacked draws noise (Athalye et al.,
            Obfuscated Gradients, ICML 2018, "expectation over transformation").

    Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018.
    """
    noise = torch.rand(images.shape, generator=generator).to(images)
    found = (images + epsilon * (2 * noise - 1)).clamp(0, 1)
    for _ in range(steps):
        ascent = _ascent(logits_of, found, target, draws).sign()
        found = found + STEP_RATIO * epsilon / steps * ascent
        found = found.clamp(images - epsilon, images + epsilon).clamp(0, 1)
    return found


def _ascent(logits_of: Logits, images: Tensor, target: Tensor, draws: int) -> Tensor:
    """The gradient of the cross entropy with respect to the images."""
    images = images.detach().requires_grad_()
    loss = sum(F.cross_entropy(logits_of(images), target, reduction="sum") for _ in range(draws))
    return torch.autograd.grad(loss, images)[0]


def straight_through(change: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """A change whose gradient is taken for the identity's ("BPDA").

    Source: Athalye et al., Obfuscated Gradients Give a False Sense of Security, ICML 2018, 4.1.
    """
    return images + (change(images) - images).detach()

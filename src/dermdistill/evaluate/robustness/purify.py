"""Purification: blur an attack away with noise and total-variation denoising at several scales.

A defence that only ever met attacks made without it says nothing, so every step is differentiable
and the attacks go through it. That is why the denoiser is written here: scikit-image's gives the
same values (a test compares them) but no gradient.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

STEP = 0.25  # of the dual variable: below 1/4 it is proved to converge, at 1/4 it does in practice
TINY = 1e-24  # under the root: an even image has a gradient


@dataclass(frozen=True)
class Purification:
    """A pyramid of scales; each gets noise, is denoised, and all are averaged at the first size.

    Args:
        scales: sides of the pyramid's images, as shares of the image's.
        noise_std: deviation of the noise, on pixels in [0, 1].
        tv_weight: strength of the denoising.
        tv_steps: of the denoiser.

    Source: our reading of the abstract and the figure's caption of Wang et al., Reversing Skin
    Cancer Adversarial Examples by Multiscale Diffusive and Denoising Aggregation Mechanism,
    Computers in Biology and Medicine 164:107310, 2023 (its numbers could not be read).
    """

    scales: tuple[float, ...] = (1.0, 0.5, 0.25)
    noise_std: float = 0.03
    tv_weight: float = 0.06
    tv_steps: int = 12

    def __call__(
        self, images: Float[Tensor, "samples 3 rows cols"], generator: torch.Generator
    ) -> Float[Tensor, "samples 3 rows cols"]:
        """The images without what neither noise nor denoising leaves standing, in [0, 1]."""
        size = images.shape[2:]
        purified = []
        for scale in self.scales:
            small = _resized(images, tuple(max(1, round(side * scale)) for side in size))
            noise = torch.randn(small.shape, generator=generator).to(small)
            smooth = tv_denoised(small + self.noise_std * noise, self.tv_weight, self.tv_steps)
            purified.append(_resized(smooth, size))
        return torch.stack(purified).mean(0).clamp(0, 1)


def _resized(images: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def tv_denoised(
    images: Float[Tensor, "samples channels rows cols"], weight: float, steps: int
) -> Float[Tensor, "samples channels rows cols"]:
    """The minimiser u of |u - image|^2 / 2 + weight TV(u), each channel alone, after some steps.

    Args:
        images: what to denoise.
        weight: of the total variation; above 0.
        steps: of the fixed point; 0 gives the images back.

    Source: Chambolle, An Algorithm for Total Variation Minimization and Applications, JMIV 20,
    2004, eq. 9, in the primal variable.
    """
    dual = torch.zeros(2, *images.shape, dtype=images.dtype, device=images.device)
    for _ in range(steps):
        slope = _gradient(images - weight * _divergence(dual))
        size = (slope.pow(2).sum(0) + TINY).sqrt()
        dual = (dual - STEP / weight * slope) / (1 + STEP / weight * size)
    return images - weight * _divergence(dual)


def _gradient(images: Tensor) -> Tensor:
    """Forward differences along rows and columns, 0 at the last."""
    down = F.pad(images.diff(dim=-2), (0, 0, 0, 1))
    right = F.pad(images.diff(dim=-1), (0, 1))
    return torch.stack([down, right])


def _divergence(field: Tensor) -> Tensor:
    """Minus the transpose of `_gradient`."""
    down, right = field[0][..., :-1, :], field[1][..., :-1]
    return (F.pad(down, (0, 0, 0, 1)) - F.pad(down, (0, 0, 1, 0))) + (
        F.pad(right, (0, 1)) - F.pad(right, (1, 0))
    )

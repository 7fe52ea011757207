"""Noise-resilient self-distillation: SSKD with a loss on labels that forgives wrong ones."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dermdistill.losses.precision import at_least_single
from dermdistill.methods.base import Lesson
from dermdistill.methods.sskd import SSKD
from dermdistill.types import upright

LOG_OF_NO_LABEL = math.log(1e-4)  # what reverse cross entropy takes for log 0


@dataclass(frozen=True)
class NoRD(SSKD):
    """For labels of which some are wrong; the paper's teacher has the student's architecture.

    L = w_ce (s_g NGCE + s_r (K - 1) / 4 RCE) + w_kd T^2 KL(upright) + w_r T^2 KL(turned) + w_ss SS

    NGCE = (1 - p_y^q) / (K - sum_j p_j^q), RCE = -log(1e-4) (1 - p_y), over the upright views.
    """

    source = "Sharma et al. 2025, Applied Intelligence (NoRD); public code without its cosine term"

    ce_weight: float = 0.5
    kd_weight: float = 0.5
    ss_weight: float = 21.0
    ngce_scale: float = 10.0
    ngce_exponent_ratio: float = 0.7
    rce_scale: float = 0.1

    def view_terms(self, lesson: Lesson) -> dict[str, tuple[float, Callable[[], Tensor]]]:
        """SSKD's terms with another loss on the labels."""
        terms = super().view_terms(lesson)
        del terms["cross_entropy"]
        logits, target = upright(lesson.student.logits, lesson.views), lesson.batch.target
        return terms | {
            "noise_robust": (self.ce_weight, lambda: noise_robust_loss(
                logits, target, self.ngce_scale, self.ngce_exponent_ratio, self.rce_scale
            )),
        }  # fmt: skip


def noise_robust_loss(
    logits: Float[Tensor, "samples classes"],
    target: Int[Tensor, " samples"],
    ngce_scale: float,
    exponent_ratio: float,
    rce_scale: float,
) -> Float[Tensor, ""]:
    """Normalised generalised cross entropy and reverse cross entropy, mean over samples.

    Args:
        logits: unnormalised scores of at least 2 classes.
        target: class of each sample.
        ngce_scale: factor of the first.
        exponent_ratio: its exponent q in [0, 1].
        rce_scale: factor of the second, times (classes - 1) / 4.

    Returns:
        At least 0; 0 where every sample is certain and right.

    Source: Ma et al. 2020 (arXiv:2006.13554) for both; factors of NoRD's public code.
    """
    (logits,) = at_least_single(logits)
    classes = logits.shape[1]
    log_p = F.log_softmax(logits, dim=1)
    powers = (exponent_ratio * log_p).exp()  # of the logarithm, so that the slope at 0 is finite
    own = target[:, None]
    # At exponent 0 both parts of the fraction are 0.
    below = (classes - powers.sum(1)).clamp_min(1e-6)
    ngce = (1 - powers.gather(1, own)[:, 0]) / below
    rce = -LOG_OF_NO_LABEL * -log_p.gather(1, own)[:, 0].expm1()
    return (ngce_scale * ngce + rce_scale * (classes - 1) / 4 * rce).mean()

"""Several teachers, heard the more on an image the more they agree with the others."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dermdistill.losses import cross_entropy_loss, kd_loss
from dermdistill.losses.precision import double
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.types import Terms


@dataclass(frozen=True)
class MultiKD(Method):
    """The student matches a mixture of the teachers' softened outputs, weighted by agreement.

    L = w_ce CE(z_S, y) + w_kd T^2 KL(sum_k a_k p_k || softmax(z_S / T)),
        p_k = softmax(z_k / T), a_k ~ exp(-KL(mean p || p_k) / A), sum_k a_k = 1 on every image

    A large agreement temperature A gives the plain mean of all teachers.
    """

    teacher = "several"
    sure = "reading"
    source = (
        "MTAKD 2025 (doi 10.1038/s41598-025-27038-1), its agreement-weighted outputs: our reading, "
        "by its abstract; how agreement is measured is our own"
    )

    ce_weight: float = 0.5
    kd_weight: float = 0.5
    kd_temperature: float = 5.0
    agreement_temperature: float = 0.1

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy and the mixture's softened outputs."""
        logits = lesson.student.logits
        return weigh({
            "cross_entropy": (self.ce_weight, lambda: cross_entropy_loss(
                logits, lesson.targets, lesson.class_weights
            )),
            "kd": (self.kd_weight, lambda: kd_loss(
                # Whose softmax at this temperature is the mixture.
                logits, self.kd_temperature * self._mixture(lesson), self.kd_temperature
            )),
        })  # fmt: skip

    def _mixture(self, lesson: Lesson) -> Float[Tensor, "samples classes"]:
        """Log-probabilities of the weighted mixture."""
        stacked = torch.stack([double(taps.logits) for taps in lesson.teachers])
        log_p = F.log_softmax(stacked / self.kd_temperature, dim=-1)
        weights = agreement(log_p, self.agreement_temperature)
        return torch.logsumexp(log_p + weights.log()[..., None], dim=0)


def agreement(
    log_p: Float[Tensor, "teachers samples classes"], temperature: float
) -> Float[Tensor, "teachers samples"]:
    """How much each teacher is to be believed on each sample; positive, sums to 1 over teachers."""
    mean = log_p.logsumexp(0) - math.log(len(log_p))
    apart = (mean.exp() * (mean - log_p)).sum(-1)
    # A teacher that is sure of what all others deny keeps a weight above 0, so its log is finite.
    return F.softmax(-apart / temperature, dim=0).clamp_min(1e-30)

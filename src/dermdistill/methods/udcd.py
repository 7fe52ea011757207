"""Uncertainty-guided contrastive distillation: CRCKD with divergences weighted by entropy."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dermdistill.losses.precision import at_least_single, double
from dermdistill.methods.base import Lesson
from dermdistill.methods.crckd import CRCKD


@dataclass(frozen=True)
class UDCD(CRCKD):
    """CRCKD in which every sample counts by how undecided one side is about it.

    L = w_ce CE(z_S, y) + w_kd r U(z_T, z_S) + w_c (NCE(e_S, bank_T) + NCE(e_T, bank_S))
        + w_r U(c_S, c_T),  U(a, b) = mean(H(softmax a) / log K * KL(softmax b || softmax a))

    The entropy H has no gradient; K columns; the other letters as in CRCKD.
    """

    source = "Sharma et al. MICCAI 2024 (Confidence Matters); the public code, embeddings trained"

    relation_weight: float = 25.0

    def consistency(self, lesson: Lesson) -> Tensor:
        """The student's divergence, weighted by the teacher's entropy."""
        return uncertainty_loss(lesson.teacher.logits, lesson.student.logits)

    def relation(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The relations' divergence, weighted by the student's entropy."""
        return uncertainty_loss(student, teacher)


def uncertainty_loss(
    first: Float[Tensor, "samples classes"], second: Float[Tensor, "samples classes"]
) -> Float[Tensor, ""]:
    """Mean divergence of the first's softmax from the second's, times the first's entropy.

    Args:
        first: scores; their entropy, as a share of the largest possible, weights each sample.
        second: scores.

    Returns:
        At least 0, in nats; 0 where both agree up to a constant a sample.
    """
    p, q = (F.log_softmax(double(x), dim=1) for x in (first, second))
    share = -(p.exp() * p).sum(1).detach() / max(math.log(first.shape[1]), 1e-12)
    divergence = (q.exp() * (q - p)).sum(1)
    loss = (share * divergence).sum() / max(len(share), 1)
    return loss.to(at_least_single(first, second)[0].dtype)

"""Orthogonal projections: the projector may turn the student's embedding, not reshape it."""

from dataclasses import dataclass

from torch import nn

from dermdistill.losses import kd_loss, normalised_l1_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy, logit_pair
from dermdistill.models import orthogonal_projector
from dermdistill.types import Terms, Widths


@dataclass(frozen=True)
class VkD(Method):
    """The student's embedding, turned to the teacher's width, matches the normalised teacher's.

    L = w_ce CE(z_S, y) + w_f smooth L1(V f_S, layer norm(f_T)) + w_kd T^2 KL, where V is orthogonal
    """

    source = (
        "Miles et al. 2024 (arXiv:2403.06213), orthogonal projection and normalised teacher;"
        " weights and T of its public code"
    )

    ce_weight: float = 1.0
    feature_weight: float = 1.0
    kd_weight: float = 1.0
    kd_temperature: float = 1.0
    standardise_ratio: float = 0.0

    def adapters(self, student: Widths, teacher: Widths) -> dict[str, nn.Module]:
        """The orthogonal projector to the teacher's width."""
        if not self.feature_weight:
            return {}
        return {"projector": orthogonal_projector(student.embedding, teacher.embedding)}

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy, embeddings and softened outputs, over all views."""
        student, teacher = logit_pair(lesson, self.standardise_ratio)
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "normalised_l1": (self.feature_weight, lambda: normalised_l1_loss(
                lesson.adapters["projector"](lesson.student.embedding), lesson.teacher.embedding
            )),
            "kd": (self.kd_weight, lambda: kd_loss(student, teacher, self.kd_temperature)),
        })  # fmt: skip

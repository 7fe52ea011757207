"""A simple recipe for distillation: a linear projector, batch norm, and a soft maximum."""

from dataclasses import dataclass

from torch import nn

from dermdistill.losses import kd_loss, log_power_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy, logit_pair
from dermdistill.types import Terms, Widths


@dataclass(frozen=True)
class SRD(Method):
    """The student's embedding, projected, matches the teacher's after both are normalised.

    L = w_ce CE(z_S, y) + w_f log(1 + sum |n(W f_S + b) - n(f_T)|^4) + w_kd T^2 KL, where n
    normalises every feature over the batch and the sum is over batch and features
    """

    source = (
        "Miles and Mikolajczyk 2024 (arXiv:2303.11098), the log-sum distance behind batch norm;"
        " weights, power and T of its public code"
    )

    ce_weight: float = 1.0
    feature_weight: float = 2.0
    kd_weight: float = 1.0
    kd_temperature: float = 1.0
    standardise_ratio: float = 0.0

    def adapters(self, student: Widths, teacher: Widths) -> dict[str, nn.Module]:
        """The projector to the teacher's width."""
        if not self.feature_weight:
            return {}
        return {"projector": nn.Linear(student.embedding, teacher.embedding)}

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy, embeddings and softened outputs, over all views."""
        student, teacher = logit_pair(lesson, self.standardise_ratio)
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "log_power": (self.feature_weight, lambda: log_power_loss(
                lesson.adapters["projector"](lesson.student.embedding), lesson.teacher.embedding
            )),
            "kd": (self.kd_weight, lambda: kd_loss(student, teacher, self.kd_temperature)),
        })  # fmt: skip

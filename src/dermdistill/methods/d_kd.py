"""Diverse knowledge distillation: outputs, relations between images, relations inside an image."""

from dataclasses import dataclass

from torch import nn

from dermdistill.losses import (
    channel_gram_loss,
    kd_loss,
    rkd_angle_loss,
    rkd_distance_loss,
)
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy, logit_pair
from dermdistill.models import connector
from dermdistill.types import Terms, Widths


@dataclass(frozen=True)
class DKD(Method):
    """SSD-KD without its self-supervised part, at the weights the official code gives it.

    L = w_ce CE(z_S, y) + w_kd T^2 KL + w_d D(f_S, f_T) + w_a A(f_S, f_T) + w_g G(F_S, F_T)
    """

    source = "Wang et al. 2023, section 3.2; official code"

    ce_weight: float = 0.5
    kd_weight: float = 0.5
    kd_temperature: float = 5.0
    distance_weight: float = 25.0
    angle_weight: float = 50.0
    gram_weight: float = 1000.0
    standardise_ratio: float = 0.0

    def adapters(self, student: Widths, teacher: Widths) -> dict[str, nn.Module]:
        """The connector that brings the student's map to the teacher's channels."""
        return {"connector": connector(student, teacher)} if self.gram_weight else {}

    def terms(self, lesson: Lesson) -> Terms:
        """All terms over all views."""
        student, teacher = lesson.student, lesson.teacher
        logits = logit_pair(lesson, self.standardise_ratio)
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "kd": (self.kd_weight, lambda: kd_loss(*logits, self.kd_temperature)),
            "rkd_distance": (self.distance_weight, lambda: rkd_distance_loss(
                student.embedding, teacher.embedding
            )),
            "rkd_angle": (self.angle_weight, lambda: rkd_angle_loss(
                student.embedding, teacher.embedding
            )),
            "channel_gram": (self.gram_weight, lambda: channel_gram_loss(
                lesson.adapters["connector"](student.map), teacher.map
            )),
        })  # fmt: skip

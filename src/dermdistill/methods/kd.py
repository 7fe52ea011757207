"""Knowledge distillation from softened outputs."""

from dataclasses import dataclass

from dermdistill.losses import cross_entropy_loss, kd_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.types import Terms


@dataclass(frozen=True)
class KD(Method):
    """The student matches the teacher's softened class probabilities.

    L = w_ce CE(z_S, y) + w_kd T^2 KL(softmax(z_T / T) || softmax(z_S / T))
    """

    source = "Hinton et al. 2015; weights of Wang et al. 2023 (BLKD), official code"

    ce_weight: float = 0.5
    kd_weight: float = 0.5
    kd_temperature: float = 5.0

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy and softened outputs of all views."""
        student, teacher = lesson.student, lesson.teacher
        return weigh({
            "cross_entropy": (self.ce_weight, lambda: cross_entropy_loss(
                student.logits, lesson.targets, lesson.class_weights
            )),
            "kd": (self.kd_weight, lambda: kd_loss(
                student.logits, teacher.logits, self.kd_temperature
            )),
        })  # fmt: skip

"""Nobody teaches: the baseline that every distillation must beat, and how teachers are made."""

from dataclasses import dataclass

from dermdistill.losses import cross_entropy_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.types import Terms


@dataclass(frozen=True)
class Supervised(Method):
    """Class-weighted cross entropy alone.

    L = w_ce CE(z_S, y)
    """

    teacher = "none"
    source = "Wang et al. 2023, the student trained alone"

    ce_weight: float = 1.0

    def terms(self, lesson: Lesson) -> Terms:
        """The cross entropy of all views."""
        return weigh({
            "cross_entropy": (self.ce_weight, lambda: cross_entropy_loss(
                lesson.student.logits, lesson.targets, lesson.class_weights
            )),
        })  # fmt: skip

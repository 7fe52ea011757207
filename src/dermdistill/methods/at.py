"""Attention transfer: the student looks where the teacher looks."""

from dataclasses import dataclass

from dermdistill.losses import attention_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy
from dermdistill.types import Terms


@dataclass(frozen=True)
class AttentionTransfer(Method):
    """The student's attention map matches the teacher's, whatever their widths.

    L = w_ce CE(z_S, y) + w_at mean (a(F_S) - a(F_T))^2, where a is the mean over the channels of
    F^2, as a vector of length 1
    """

    source = (
        "Zagoruyko and Komodakis 2017 (arXiv:1612.03928), equation 2, on the last map alone; weight"
        " of public benchmarks (mdistiller)"
    )
    sure = "paper"

    ce_weight: float = 1.0
    attention_weight: float = 1000.0

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy and attention of all views."""
        student, teacher = lesson.student, lesson.teacher
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "attention": (self.attention_weight, lambda: attention_loss(
                student.map, teacher.map
            )),
        })  # fmt: skip

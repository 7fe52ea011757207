"""Variational information distillation: the student's map predicts the teacher's as a Gaussian."""

from dataclasses import dataclass

from torch import Tensor, nn

from dermdistill.losses import same_size, variational_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy
from dermdistill.models import VariationalHead
from dermdistill.types import Terms, Widths


@dataclass(frozen=True)
class VID(Method):
    """The student's map tells as much as it can of the teacher's.

    L = w_ce CE(z_S, y) + w_vid mean ((F_T - m(F_S))^2 / (2 v) + log(v) / 2), where m are three 1x1
    convolutions and v is a variance of each channel, both trained

    The likelihood may fall below 0 as v does.
    """

    source = (
        "Ahn et al. 2019 (arXiv:1904.05835), the Gaussian likelihood, on the last map alone;"
        " weights and start of public benchmarks (mdistiller)"
    )
    sure = "paper"

    ce_weight: float = 1.0
    variational_weight: float = 1.0

    def adapters(self, student: Widths, teacher: Widths) -> dict[str, nn.Module]:
        """What predicts the teacher's map from the student's."""
        if not self.variational_weight:
            return {}
        return {"predictor": VariationalHead(student.map_channels, teacher.map_channels)}

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy and the likelihood of all views."""
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "variational": (self.variational_weight, lambda: self._variational(lesson)),
        })  # fmt: skip

    def _variational(self, lesson: Lesson) -> Tensor:
        student, teacher = same_size(lesson.student.map, lesson.teacher.map)
        mean, variance = lesson.adapters["predictor"](student)
        return variational_loss(mean, variance, teacher)

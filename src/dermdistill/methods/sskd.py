"""Self-supervised knowledge distillation: the teacher's view of rotated images as a lesson."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from dermdistill.data.views import QUARTER_TURNS
from dermdistill.losses import (
    cross_entropy_loss,
    kd_loss,
    trusted_kd_loss,
    view_kd_loss,
    view_similarity,
)
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import logit_pair
from dermdistill.methods.view_pretext import ViewPretext
from dermdistill.models import ProjectionHead
from dermdistill.types import Terms, Widths, rotated, upright


@dataclass(frozen=True)
class SSKD(Method):
    """Softened outputs of upright and of turned views, and the similarities between views.

    L = w_ce CE(upright, y) + w_kd T^2 KL(upright) + w_r T^2 KL(turned) + w_ss SS
    """

    views = QUARTER_TURNS
    source = "Xu et al. 2020, equations 6 to 10; weights of Wang et al. 2023, official code"

    ce_weight: float = 0.1
    kd_weight: float = 0.9
    kd_temperature: float = 4.0
    rotated_weight: float = 2.7
    rotated_keep_ratio: float = 1.0
    ss_weight: float = 10.0
    ss_temperature: float = 0.5
    ss_keep_ratio: float = 0.75
    standardise_ratio: float = 0.0

    def adapters(self, student: Widths, teacher: Widths) -> dict[str, nn.Module]:
        """The student's projection head; the teacher's comes from the pretext stage."""
        return {"student_head": ProjectionHead(student.embedding)} if self.ss_weight else {}

    def pretext(self) -> Method | None:
        """The teacher's projection head is fitted first, unless nothing asks for it."""
        return ViewPretext() if self.ss_weight else None

    def class_weights(self, lesson: Lesson) -> Tensor | None:
        """SSKD leaves its cross entropy unweighted."""
        return None

    def terms(self, lesson: Lesson) -> Terms:
        """The method's terms on the four views of a batch."""
        return weigh(self.view_terms(lesson))

    def view_terms(self, lesson: Lesson) -> dict[str, tuple[float, Callable[[], Tensor]]]:
        """Every term as weight and deferred value."""
        views, target = lesson.views, lesson.batch.target
        student, teacher = logit_pair(lesson, self.standardise_ratio)
        return {
            "cross_entropy": (self.ce_weight, lambda: cross_entropy_loss(
                upright(lesson.student.logits, views), target, self.class_weights(lesson)
            )),
            "kd_upright": (self.kd_weight, lambda: kd_loss(
                upright(student, views), upright(teacher, views), self.kd_temperature
            )),
            "kd_rotated": (self.rotated_weight, lambda: trusted_kd_loss(
                rotated(student, views), rotated(teacher, views),
                target.repeat_interleave(views - 1), self.kd_temperature, self.rotated_keep_ratio,
            )),
            "view_kd": (self.ss_weight, lambda: self._view_kd(lesson)),
        }  # fmt: skip

    def _view_kd(self, lesson: Lesson) -> Tensor:
        def similarity(head: nn.Module, embedding: Tensor) -> Tensor:
            return view_similarity(head(embedding).unflatten(0, (-1, lesson.views)))

        return view_kd_loss(
            similarity(lesson.adapters["student_head"], lesson.student.embedding),
            similarity(lesson.pretext["teacher_head"], lesson.teacher.embedding),
            self.ss_temperature,
            self.ss_keep_ratio,
        )

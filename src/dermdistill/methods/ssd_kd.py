"""Self-supervised diverse knowledge distillation: SSKD with the dual relational term."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from dermdistill.losses import channel_gram_loss, rkd_angle_loss, rkd_distance_loss
from dermdistill.methods.base import Lesson
from dermdistill.methods.sskd import SSKD
from dermdistill.models import connector
from dermdistill.types import Widths


@dataclass(frozen=True)
class SSDKD(SSKD):
    """SSKD with class weights, and relations between and inside images over all views.

    L = L_SSKD + w_d D(f_S, f_T) + w_a A(f_S, f_T) + w_g G(F_S, F_T)
    """

    source = "Wang et al. 2023, section 3.3; official code, stage 2"

    distance_weight: float = 25.0
    angle_weight: float = 50.0
    gram_weight: float = 1000.0

    def adapters(self, student: Widths, teacher: Widths) -> dict[str, nn.Module]:
        """The student's projection head, and the connector of the maps."""
        built = super().adapters(student, teacher)
        return built | ({"connector": connector(student, teacher)} if self.gram_weight else {})

    def class_weights(self, lesson: Lesson) -> Tensor:
        """SSD-KD weights its cross entropy by class."""
        return lesson.class_weights

    def view_terms(self, lesson: Lesson) -> dict[str, tuple[float, Callable[[], Tensor]]]:
        """SSKD's terms and the three relational ones."""
        student, teacher = lesson.student, lesson.teacher
        return super().view_terms(lesson) | {
            "rkd_distance": (self.distance_weight, lambda: rkd_distance_loss(
                student.embedding, teacher.embedding
            )),
            "rkd_angle": (self.angle_weight, lambda: rkd_angle_loss(
                student.embedding, teacher.embedding
            )),
            "channel_gram": (self.gram_weight, lambda: channel_gram_loss(
                lesson.adapters["connector"](student.map), teacher.map
            )),
        }  # fmt: skip

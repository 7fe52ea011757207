"""Relations between images: distances of pairs and angles of triplets."""

from dataclasses import dataclass

from dermdistill.losses import rkd_angle_loss, rkd_distance_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy
from dermdistill.types import Terms


@dataclass(frozen=True)
class RKD(Method):
    """The student keeps the teacher's geometry of a batch, whatever its own width.

    L = w_ce CE(z_S, y) + w_d D(f_S, f_T) + w_a A(f_S, f_T)
    """

    source = "Park et al. 2019, equations 3 to 7; weights of Wang et al. 2023, official code"

    ce_weight: float = 3.0
    distance_weight: float = 25.0
    angle_weight: float = 50.0

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy, distances and angles over all views."""
        student, teacher = lesson.student, lesson.teacher
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "rkd_distance": (self.distance_weight, lambda: rkd_distance_loss(
                student.embedding, teacher.embedding
            )),
            "rkd_angle": (self.angle_weight, lambda: rkd_angle_loss(
                student.embedding, teacher.embedding
            )),
        })  # fmt: skip

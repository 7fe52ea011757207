"""Structural alignment: the geometry of a batch in its relations to the classes."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dermdistill.losses import kd_loss, rkd_angle_loss, rkd_distance_loss
from dermdistill.methods.base import Lesson
from dermdistill.methods.relation_bank import Pair, RelationBankMethod, relations


@dataclass(frozen=True)
class StAlK(RelationBankMethod):
    """The average's outputs, and distances and angles between images seen from the classes.

    L = w_ce CE(z_S, y) + w_kd r KL(p_T || p_S) + w_d D(c_S, c_T) + w_a A(c_S, c_T)

    c: cosines of the unit embedding to the class centres of the bank / temperature; D and A are
    RKD's; r = exp(-5 (1 - t)^2), t = share done / ramp_ratio. All but CE begin at start_ratio.
    """

    source = "Sharma et al. 2024, Knowledge-Based Systems; the public code with its gradient mended"

    distance_weight: float = 12.5
    angle_weight: float = 12.5

    @property
    def heads(self) -> tuple[str, ...]:
        """One for both: no term would train the teacher's."""
        return ("student_head",) if self.distance_weight or self.angle_weight else ()

    def consistency(self, lesson: Lesson) -> Tensor:
        """KL of the outputs."""
        return kd_loss(lesson.student.logits, lesson.teacher.logits, 1.0)

    def bank_terms(self, lesson: Lesson) -> dict[str, tuple[float, Callable[[], Tensor]]]:
        """Distances and angles of the relations."""

        def pair() -> Pair:
            return relations(lesson, self.bank_temperature)

        return {
            "rkd_distance": (self.distance_weight, lambda: rkd_distance_loss(*pair())),
            "rkd_angle": (self.angle_weight, lambda: rkd_angle_loss(*pair())),
        }

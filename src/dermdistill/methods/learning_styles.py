"""Two students with two learning styles: one is told the answers, the other shown the maps."""

from dataclasses import dataclass

from torch import nn

from dermdistill.losses import cross_entropy_loss, feature_mse_loss, kd_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.models import connector
from dermdistill.types import Terms, Widths


@dataclass(frozen=True)
class LearningStyles(Method):
    """The first student gets the teacher's outputs, the second its maps, and they exchange both.

    L = w_ce (CE_1 + CE_2) + w_kd T^2 KL(p_T || p_1) + w_map MSE(connector(F_2), F_T)
        + w_x T^2 (KL(p_2 || p_1) + KL(p_1 || p_2)) + w_xm (MSE(F_1, F_2) + MSE(F_2, F_1))

    In the exchange each is a constant for the other. The first student is kept.
    """

    peers = 1
    sure = "reading"
    source = "Niyaz et al. 2022 (arXiv:2212.02931): our reading, by its abstract; weights our own"

    ce_weight: float = 1.0
    kd_weight: float = 1.0
    kd_temperature: float = 4.0
    map_weight: float = 1.0
    exchange_weight: float = 1.0
    exchange_map_weight: float = 1.0

    def adapters(self, student: Widths, teacher: Widths) -> dict[str, nn.Module]:
        """The connector of the second student's map."""
        return {"connector": connector(student, teacher)} if self.map_weight else {}

    def terms(self, lesson: Lesson) -> Terms:
        """Labels, each style, and the exchange."""
        first, (second,), teacher = lesson.student, lesson.peers, lesson.teacher
        targets, weights, temperature = lesson.targets, lesson.class_weights, self.kd_temperature
        return weigh({
            "cross_entropy": (self.ce_weight, lambda: (
                cross_entropy_loss(first.logits, targets, weights)
                + cross_entropy_loss(second.logits, targets, weights)
            )),
            "kd": (self.kd_weight, lambda: kd_loss(first.logits, teacher.logits, temperature)),
            "feature_mse": (self.map_weight, lambda: feature_mse_loss(
                lesson.adapters["connector"](second.map), teacher.map
            )),
            "exchange": (self.exchange_weight, lambda: (
                kd_loss(first.logits, second.logits, temperature)
                + kd_loss(second.logits, first.logits, temperature)
            )),
            "exchange_maps": (self.exchange_map_weight, lambda: (
                feature_mse_loss(first.map, second.map) + feature_mse_loss(second.map, first.map)
            )),
        })  # fmt: skip

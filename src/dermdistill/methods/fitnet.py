"""Hints: the student's last map, through a connector, matches the teacher's."""

from dataclasses import dataclass

from torch import nn

from dermdistill.losses import feature_mse_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy
from dermdistill.models import connector
from dermdistill.types import Terms, Widths


@dataclass(frozen=True)
class FitNet(Method):
    """One joint loss, as in the official SSD-KD code; the paper of FitNets has two stages.

    L = w_ce CE(z_S, y) + w_map MSE(connector(F_S), F_T)
    """

    source = "Romero et al. 2015; weights of Wang et al. 2023, official code"

    ce_weight: float = 0.01
    map_weight: float = 1.0

    def adapters(self, student: Widths, teacher: Widths) -> dict[str, nn.Module]:
        """The connector between the two maps."""
        return {"connector": connector(student, teacher)} if self.map_weight else {}

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy and the maps' squared difference, over all views."""
        student, teacher = lesson.student, lesson.teacher
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "feature_mse": (self.map_weight, lambda: feature_mse_loss(
                lesson.adapters["connector"](student.map), teacher.map
            )),
        })  # fmt: skip

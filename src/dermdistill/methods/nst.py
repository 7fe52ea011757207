"""Neuron selectivity transfer: what places the channels select, as a distribution."""

from dataclasses import dataclass

from dermdistill.losses import selectivity_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy
from dermdistill.types import Terms


@dataclass(frozen=True)
class NeuronSelectivity(Method):
    """The student's channels are distributed over the places as the teacher's.

    L = w_ce CE(z_S, y) + w_mmd MMD^2({c_S}, {c_T}), where c are the channels of the last map as
    unit vectors over the places, and the kernel is (a b)^2
    """

    source = (
        "Huang and Wang 2017 (arXiv:1707.01219), polynomial kernel; weight of public benchmarks"
        " (mdistiller)"
    )
    sure = "paper"

    ce_weight: float = 1.0
    selectivity_weight: float = 50.0

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy and selectivity of all views."""
        student, teacher = lesson.student, lesson.teacher
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "selectivity": (self.selectivity_weight, lambda: selectivity_loss(
                student.map, teacher.map
            )),
        })  # fmt: skip

"""Probabilistic knowledge transfer: who is whose neighbour, as a probability."""

from dataclasses import dataclass

from dermdistill.losses import pkt_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy
from dermdistill.types import Terms


@dataclass(frozen=True)
class PKT(Method):
    """The student's neighbourhoods in a batch match the teacher's.

    L = w_ce CE(z_S, y) + w_pkt mean_ij p_T(j|i) log(p_T(j|i) / p_S(j|i)), where p(j|i) goes with
    (1 + cos(f_i, f_j)) / 2
    """

    source = (
        "Passalis and Tefas 2018 (arXiv:1803.10837), cosine kernel; weight of public benchmarks"
        " (mdistiller)"
    )
    sure = "paper"

    ce_weight: float = 1.0
    pkt_weight: float = 30000.0

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy and neighbourhoods, over all views."""
        student, teacher = lesson.student, lesson.teacher
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "pkt": (self.pkt_weight, lambda: pkt_loss(student.embedding, teacher.embedding)),
        })  # fmt: skip

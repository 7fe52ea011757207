"""Correlation congruence: the correlations between images, through a Gaussian kernel."""

from dataclasses import dataclass

from dermdistill.losses import correlation_congruence_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy
from dermdistill.types import Terms


@dataclass(frozen=True)
class CorrelationCongruence(Method):
    """The student's correlations in a batch match the teacher's.

    L = w_ce CE(z_S, y) + w_cc mean_ij (k(f_S,i, f_S,j) - k(f_T,i, f_T,j))^2, where k is the Taylor
    series to order 2 of exp(-gamma |u - v|^2) of the embeddings at length 1

    The paper adds softened outputs and a trained linear map; both are left out.
    """

    source = (
        "Peng et al. 2019 (arXiv:1904.01802), Gaussian kernel, gamma and order of public code;"
        " the paper's weights could not be read: our choice"
    )
    sure = "paper"

    ce_weight: float = 1.0
    congruence_weight: float = 100.0
    gamma: float = 0.4

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy and correlations, over all views."""
        student, teacher = lesson.student, lesson.teacher
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "congruence": (self.congruence_weight, lambda: correlation_congruence_loss(
                student.embedding, teacher.embedding, self.gamma
            )),
        })  # fmt: skip

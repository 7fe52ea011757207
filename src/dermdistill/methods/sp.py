"""Similarity-preserving distillation: images alike to the teacher are alike to the student."""

from dataclasses import dataclass

from dermdistill.losses import similarity_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy
from dermdistill.types import Terms


@dataclass(frozen=True)
class SimilarityPreserving(Method):
    """The student's similarities between the images of a batch match the teacher's.

    L = w_ce CE(z_S, y) + w_sp mean (G_S - G_T)^2, where G = Q Q' of the flattened last maps Q, each
    row at length 1
    """

    source = (
        "Tung and Mori 2019 (arXiv:1907.09682), row-normalised similarities; weight of public"
        " benchmarks (mdistiller)"
    )
    sure = "paper"

    ce_weight: float = 1.0
    similarity_weight: float = 3000.0

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy and similarities, over all views."""
        student, teacher = lesson.student, lesson.teacher
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "similarity": (self.similarity_weight, lambda: similarity_loss(
                student.map, teacher.map
            )),
        })  # fmt: skip

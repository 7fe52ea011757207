"""Distillation from a stronger teacher: correlations of probabilities instead of their values."""

from dataclasses import dataclass

from dermdistill.losses import inter_class_loss, intra_class_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy, logit_pair
from dermdistill.types import Terms


@dataclass(frozen=True)
class DIST(Method):
    """The student ranks classes in a sample, and samples in a class, as the teacher does.

    L = w_ce CE(z_S, y) + w_b T^2 mean_i d(p_S(i), p_T(i)) + w_a T^2 mean_c d(p_S(c), p_T(c)),
    where d is 1 minus Pearson's correlation, i a sample's row and c a class's column
    """

    source = (
        "Huang et al. 2022 (arXiv:2205.10536), L_inter and L_intra; defaults of its"
        " public loss (1, 1, T = 1)"
    )

    ce_weight: float = 1.0
    inter_weight: float = 1.0
    intra_weight: float = 1.0
    kd_temperature: float = 1.0
    standardise_ratio: float = 0.0

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy and both correlations, over all views."""
        student, teacher = logit_pair(lesson, self.standardise_ratio)
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "inter_class": (self.inter_weight, lambda: inter_class_loss(
                student, teacher, self.kd_temperature
            )),
            "intra_class": (self.intra_weight, lambda: intra_class_loss(
                student, teacher, self.kd_temperature
            )),
        })  # fmt: skip

"""Decoupled knowledge distillation: the true class and the others, each with its own weight."""

from dataclasses import dataclass

from dermdistill.losses import nontarget_kd_loss, target_kd_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy, logit_pair
from dermdistill.types import Terms


@dataclass(frozen=True)
class DecoupledKD(Method):
    """What the teacher says of the wrong classes counts also where it is sure of the true one.

    L = w_ce CE(z_S, y) + w_t T^2 TCKD + w_n T^2 NCKD, where KL = TCKD + (1 - p_T(y)) NCKD

    The public code lets both grow from 0 over the first epochs (20 of 240); here they are whole
    from the start.
    """

    source = (
        "Zhao et al. 2022 (arXiv:2203.08679), equation 7; weights of its public code for CIFAR-100"
        " (nontarget_weight 2 and T = 1 for ResNet-50 to MobileNet on ImageNet)"
    )

    ce_weight: float = 1.0
    target_weight: float = 1.0
    nontarget_weight: float = 8.0
    kd_temperature: float = 4.0
    standardise_ratio: float = 0.0

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy and both parts of the softened outputs, over all views."""
        student, teacher = logit_pair(lesson, self.standardise_ratio)
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "target_kd": (self.target_weight, lambda: target_kd_loss(
                student, teacher, lesson.targets, self.kd_temperature
            )),
            "nontarget_kd": (self.nontarget_weight, lambda: nontarget_kd_loss(
                student, teacher, lesson.targets, self.kd_temperature
            )),
        })  # fmt: skip

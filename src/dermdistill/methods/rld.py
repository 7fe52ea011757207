"""Refined logit distillation: the teacher's confidence and order, without its mistakes."""

from dataclasses import dataclass

from dermdistill.losses import confidence_kd_loss, masked_kd_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy, logit_pair
from dermdistill.types import Terms


@dataclass(frozen=True)
class RLD(Method):
    """What a wrong teacher says is corrected by the label before the student hears it.

    L = w_ce CE(z_S, y) + w_c T_c^2 SCD + w_m T^2 MCD

    SCD = KL((max p_T, rest) || (p_S(y), rest)), and MCD is the KL among the classes that the
    teacher ranks below y. The public code lets both grow from 0 over the first epochs (20 of 240);
    here they are whole from the start.
    """

    source = (
        "Sun et al. 2024 (arXiv:2408.07703), SCD and MCD; weights of its public code for CIFAR-100"
        " (masked_weight 2 and T = 1 for ResNet-50 to MobileNet on ImageNet)"
    )

    ce_weight: float = 1.0
    confidence_weight: float = 1.0
    confidence_temperature: float = 1.0
    masked_weight: float = 8.0
    kd_temperature: float = 4.0
    standardise_ratio: float = 0.0

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy and both refined terms, over all views."""
        student, teacher = logit_pair(lesson, self.standardise_ratio)
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "confidence_kd": (self.confidence_weight, lambda: confidence_kd_loss(
                student, teacher, lesson.targets, self.confidence_temperature
            )),
            "masked_kd": (self.masked_weight, lambda: masked_kd_loss(
                student, teacher, lesson.targets, self.kd_temperature
            )),
        })  # fmt: skip

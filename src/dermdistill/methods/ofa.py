"""One-for-all distillation, its term on logits: the true class enhanced in the teacher's answer."""

from dataclasses import dataclass

from dermdistill.losses import enhanced_kd_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy, logit_pair
from dermdistill.types import Terms


@dataclass(frozen=True)
class OFALogit(Method):
    """The student matches the teacher's probabilities with the true class enhanced.

    L = w_ce CE(z_S, y) + w_kd T^2 W KL(w / W || p_S), where w = (p_T + [c = y])^power - [c = y] and
    W is its sum; power 1 is plain distillation

    The paper's branches at the stages are not part of it.
    """

    source = (
        "Hao et al. 2023 (arXiv:2310.19444), adaptive target enhancement as in its public code;"
        " power of the code's example for ImageNet (1 elsewhere)"
    )

    ce_weight: float = 1.0
    kd_weight: float = 1.0
    kd_temperature: float = 1.0
    enhancement_power: float = 1.5
    standardise_ratio: float = 0.0

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy and the enhanced outputs, over all views."""
        student, teacher = logit_pair(lesson, self.standardise_ratio)
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "enhanced_kd": (self.kd_weight, lambda: enhanced_kd_loss(
                student, teacher, lesson.targets, self.enhancement_power, self.kd_temperature
            )),
        })  # fmt: skip

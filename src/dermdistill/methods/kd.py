"""Knowledge distillation from softened outputs."""

from dataclasses import dataclass

from dermdistill.losses import kd_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy, logit_pair
from dermdistill.types import Terms


@dataclass(frozen=True)
class KD(Method):
    """The student matches the teacher's softened class probabilities.

    L = w_ce CE(z_S, y) + w_kd T^2 KL(softmax(z_T / T) || softmax(z_S / T))

    With standardise_ratio 1, z is each sample's z-score: logit standardisation (Sun et al. 2024),
    whose public code takes T = 2, w_ce 1 and w_kd 9.
    """

    source = "Hinton et al. 2015; weights of Wang et al. 2023 (BLKD), official code"

    ce_weight: float = 0.5
    kd_weight: float = 0.5
    kd_temperature: float = 5.0
    standardise_ratio: float = 0.0

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy and softened outputs of all views."""
        student, teacher = logit_pair(lesson, self.standardise_ratio)
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "kd": (self.kd_weight, lambda: kd_loss(student, teacher, self.kd_temperature)),
        })  # fmt: skip

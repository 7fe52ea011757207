"""Multi-level logit distillation: samples, batch and classes at several temperatures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dermdistill.losses import batch_correlation_loss, class_correlation_loss, kd_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy, logit_pair
from dermdistill.types import Terms


@dataclass(frozen=True)
class MLKD(Method):
    """Probabilities, their correlations between images and between classes, at T = 2 to 6.

    L = w_ce CE(z_S, y) + sum over T of w_i T^2 KL + w_b |P_S P_S' - P_T P_T'|^2 / N
        + w_c |P_S' P_S - P_T' P_T|^2 / C, where P are the N x C probabilities at T

    One view an image; the public code adds a strongly varied one.
    """

    source = (
        "Jin et al. 2023 (CVPR, Multi-Level Logit Distillation), instance, batch and class"
        " alignment; weights and temperatures of the public code, without its masks"
    )
    temperatures: ClassVar[tuple[float, ...]] = (2.0, 3.0, 4.0, 5.0, 6.0)

    ce_weight: float = 0.1
    instance_weight: float = 0.9
    batch_weight: float = 0.9
    class_weight: float = 0.9
    standardise_ratio: float = 0.0

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy and the three levels, over all views."""
        logits = logit_pair(lesson, self.standardise_ratio)
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "instance": (self.instance_weight, lambda: self._at_all(kd_loss, *logits)),
            "batch": (self.batch_weight, lambda: self._at_all(batch_correlation_loss, *logits)),
            "classes": (self.class_weight, lambda: self._at_all(class_correlation_loss, *logits)),
        })  # fmt: skip

    def _at_all(self, loss: Callable[..., Tensor], student: Tensor, teacher: Tensor) -> Tensor:
        return sum(loss(student, teacher, temperature) for temperature in self.temperatures)

"""SimKD: the student answers through a projector and the teacher's own classifier."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from dermdistill.losses import feature_mse_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.models import Backbone, bridged
from dermdistill.types import Terms


@dataclass(frozen=True)
class SimKD(Method):
    """The student's projected map matches the teacher's; the teacher's classifier does the rest.

    L = w_map MSE(P(F_S), F_T), z = W_T mean(P(F_S)) + b_T

    The projector P (1x1, 3x3, 1x1 convolutions) and the classifier stay at test. Labels are not
    looked at: they went into the teacher's classifier.
    """

    source = "Chen et al. 2022 (arXiv:2203.14001), equation 3; official code, reduction factor 2"

    map_weight: float = 1.0

    def enrol(self, student: Backbone, *teachers: Backbone) -> Backbone:
        """The student's body, a projector, and a frozen copy of the teacher's classifier."""
        return bridged(student, teachers[0])

    def terms(self, lesson: Lesson) -> Terms:
        """The maps at the smaller one's size."""
        return weigh({
            "feature_mse": (self.map_weight, lambda: feature_mse_loss(*same_size(
                lesson.student.map, lesson.teacher.map
            ))),
        })  # fmt: skip


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps, averaged to the size of the smaller."""
    size = min(student.shape[-1], teacher.shape[-1])
    return F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)

"""What many methods' terms begin with."""

from collections.abc import Callable

from torch import Tensor

from dermdistill.losses import cross_entropy_loss, standardise_logits
from dermdistill.methods.base import Lesson


def cross_entropy(weight: float, lesson: Lesson) -> tuple[float, Callable[[], Tensor]]:
    """The term of the labels: the class-weighted cross entropy of all views."""
    return weight, lambda: cross_entropy_loss(
        lesson.student.logits, lesson.targets, lesson.class_weights
    )


def logit_pair(lesson: Lesson, standardise_ratio: float) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's logits, both standardised by a ratio (0: as they are)."""
    return (
        standardise_logits(lesson.student.logits, standardise_ratio),
        standardise_logits(lesson.teacher.logits, standardise_ratio),
    )

"""Boosted distillation: the harder an image is for the student's stages, the more it is taught."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from dermdistill.losses import cross_entropy_loss, softened_divergences
from dermdistill.losses.precision import at_least_single, double, like_inputs
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.types import Terms, Widths

STEPS_REMEMBERED = 0.9  # of a stage's error, what stays at every step


class Boosting(nn.Module):
    """AdaBoost's weights of every training image before each stage and after the last.

    Args:
        images: training images.
        stages: weak learners.
        classes: classes.
    """

    def __init__(self, images: int, stages: int, classes: int):
        super().__init__()
        self.register_buffer("log_weight", torch.zeros(images, stages + 1))
        # A guess's error, at which SAMME gives a learner no say.
        self.register_buffer("error", torch.full((stages,), 1 - 1 / classes))


@dataclass(frozen=True)
class VAdaKD(Method):
    """The student's stages, each with a classifier, are AdaBoost's weak learners.

    L = w_ce CE(z_S, y) + w_aux mean_m sum_i w_im CE_i(h_m(pool F_m), y) + w_kd T^2 sum_i w_iM KL_i

    w_im: weight of image i before stage m, sum 1 over the batch; SAMME multiplies it by exp(s a_m)
    where stage m is wrong, a_m = log((1 - e_m) / e_m) + log(K - 1), e_m its weighted error so far.
    """

    sure = "reading"
    source = (
        "VAdaKD 2024 (doi 10.1007/s40747-024-01501-4): our reading, by its introduction; SAMME: "
        "Zhu et al. 2009, algorithm 2. Its variational part could not be read and is left out"
    )
    stages = True

    ce_weight: float = 1.0
    auxiliary_weight: float = 0.5
    kd_weight: float = 1.0
    kd_temperature: float = 4.0
    boost_scale: float = 0.5

    def adapters(self, student: Widths, teacher: Widths) -> dict[str, nn.Module]:
        """A linear classifier a stage; without the auxiliary term nothing would train them."""
        if not self.auxiliary_weight:
            return {}
        return {
            f"stage_{index}": nn.Linear(channels, student.classes)
            for index, (channels, _) in enumerate(student.stages)
        }

    def memory(self, student: Widths, labels: Int64[Tensor, " images"]) -> dict[str, nn.Module]:
        """The images' weights and the stages' errors; all equal without the auxiliary term."""
        stages = len(student.stages) if self.auxiliary_weight else 0
        return {"boosting": Boosting(len(labels), stages, student.classes)}

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy, that of the stages, and the outputs, the last two by weight."""
        return weigh({
            "cross_entropy": (self.ce_weight, lambda: cross_entropy_loss(
                lesson.student.logits, lesson.targets, lesson.class_weights
            )),
            "auxiliary": (self.auxiliary_weight, lambda: self._auxiliary(lesson)),
            "kd": (self.kd_weight, lambda: weighted_kd_loss(
                lesson.student.logits, lesson.teacher.logits, self.kd_temperature,
                self._weights(lesson)[:, -1],
            )),
        })  # fmt: skip

    def remember(self, lesson: Lesson) -> None:
        """SAMME's step for the images of this batch, stage after stage."""
        boosting, last = lesson.memory["boosting"], lesson.batch.last_of_each()
        wrong = [logits.argmax(1) != lesson.targets for logits in self._stage_logits(lesson)]
        if wrong:
            classes = lesson.student.logits.shape[1]
            moved = samme(torch.stack(wrong, dim=1), boosting.error, classes, self.boost_scale)
            boosting.log_weight[lesson.batch.rows[last]] = moved[last]

    def _weights(self, lesson: Lesson) -> Float[Tensor, "samples learners"]:
        return lesson.memory["boosting"].log_weight[lesson.batch.rows].softmax(0)

    def _stage_logits(self, lesson: Lesson) -> list[Tensor]:
        return [
            lesson.adapters[f"stage_{index}"](stage.mean((2, 3)))
            for index, stage in enumerate(lesson.student.stages)
            if f"stage_{index}" in lesson.adapters
        ]

    def _auxiliary(self, lesson: Lesson) -> Tensor:
        weights = self._weights(lesson)
        losses = [
            (weights[:, m] * F.cross_entropy(*at_least_single(z), lesson.targets, reduction="none"))
            for m, z in enumerate(self._stage_logits(lesson))
        ]
        return torch.stack(losses).sum(1).mean()


def samme(
    wrong: Bool[Tensor, "samples stages"],
    error: Float[Tensor, " stages"],
    classes: int,
    scale: float,
) -> Float[Tensor, "samples stages+1"]:
    """Log-weights of a batch before every stage and after the last; brings the errors up to date.

    Args:
        wrong: where a stage's answer is wrong.
        error: each stage's weighted error over the past steps; changed in place.
        classes: how many.
        scale: shrinks every learner's say, as a learning rate of boosting does.
    """
    log_weight = [error.new_zeros(len(wrong))]
    for stage, missed in enumerate(wrong.unbind(1)):
        now = (log_weight[-1].softmax(0) * missed).sum()
        error[stage] = STEPS_REMEMBERED * error[stage] + (1 - STEPS_REMEMBERED) * now
        bounded = error[stage].clamp(1e-3, 1 - 1e-3)
        say = (1 / bounded - 1).log() + math.log(max(classes - 1, 1))
        # A learner worse than guessing has no say.
        log_weight.append(log_weight[-1] + scale * say.clamp_min(0) * missed)
    return torch.stack(log_weight, dim=1)


def weighted_kd_loss(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    temperature: float,
    weights: Float[Tensor, " samples"],
) -> Float[Tensor, ""]:
    """`kd_loss` with a weight a sample; the weights sum to 1. At least 0, in nats."""
    each = softened_divergences(student_logits, teacher_logits, temperature)
    loss = temperature**2 * (each * double(weights)).sum()
    return like_inputs(loss, student_logits, teacher_logits)

"""Dual-stage progressive distillation: first maps, made from masked ones, then outputs."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dermdistill.losses import cross_entropy_loss
from dermdistill.losses.precision import at_least_single, double
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.types import Terms, Widths


@dataclass(frozen=True)
class DSPKD(Method):
    """Early in the training the maps are taught, later the outputs, target and others apart.

    L = w_ce CE(z_S, y) + w_f |G(M * align(F_S)) - F_T|^2 / N                    in the first stage,
    L = w_ce CE(z_S, y) - w_t t_y log s_y - w_o sum_{i != y} N(t)_i log N(s)_i   in the second.

    M masks channels at random, G = conv3-ReLU-conv3; s, t: probabilities, N(x)_i = x_i / (1 - x_y).
    """

    sure = "reading"
    source = (
        "Zeng et al. 2024, Bioengineering 11:70: our reading, without its fusion of shallow maps "
        "into the mask; stage 1 is MGD (arXiv:2205.01529), stage 2 NKD (arXiv:2303.13005)"
    )

    ce_weight: float = 1.0
    feature_weight: float = 7e-5
    mask_ratio: float = 0.15
    target_weight: float = 1.0
    others_weight: float = 1.5
    first_ratio: float = 0.5

    def adapters(self, student: Widths, teacher: Widths) -> dict[str, nn.Module]:
        """The alignment to the teacher's channels and the generator G."""
        if not self.feature_weight:
            return {}
        channels = teacher.map_channels
        return {
            "align": nn.Conv2d(student.map_channels, channels, 1),
            "generator": nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1),
            ),
        }  # fmt: skip

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy, and what the current stage teaches."""
        student, teacher, targets = lesson.student, lesson.teacher, lesson.targets
        terms = {
            "cross_entropy": (self.ce_weight, lambda: cross_entropy_loss(
                student.logits, targets, lesson.class_weights
            )),
        }  # fmt: skip
        if self._in_first_stage(lesson.done_ratio):
            terms["masked_maps"] = (self.feature_weight, lambda: self._masked_maps(lesson))
        else:
            pair = (student.logits, teacher.logits, targets)
            terms["target_kd"] = (self.target_weight, lambda: target_kd_loss(*pair))
            terms["others_kd"] = (self.others_weight, lambda: others_kd_loss(*pair))
        return weigh(terms)

    def _in_first_stage(self, done_ratio: float) -> bool:
        later = self.ce_weight or self.target_weight or self.others_weight
        return bool(self.feature_weight) and (done_ratio < self.first_ratio or not later)

    def _masked_maps(self, lesson: Lesson) -> Tensor:
        wanted = lesson.teacher.map
        aligned = lesson.adapters["align"](lesson.student.map)
        if aligned.shape[-2:] != wanted.shape[-2:]:
            aligned = F.interpolate(aligned, wanted.shape[-2:], mode="bilinear")
        kept = torch.rand(*aligned.shape[:2], 1, 1, device=aligned.device) >= self.mask_ratio
        made, wanted = at_least_single(lesson.adapters["generator"](aligned * kept), wanted)
        return (made - wanted).square().sum() / len(wanted)


def target_kd_loss(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    target: Int[Tensor, " samples"],
) -> Float[Tensor, ""]:
    """-t_y log s_y, mean over samples: cross entropy as hard as the teacher is sure. At least 0."""
    student, teacher = at_least_single(student_logits, teacher_logits)
    own = target[:, None]
    sure = teacher.softmax(1).gather(1, own)
    return -(sure * student.log_softmax(1).gather(1, own)).mean()


def others_kd_loss(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    target: Int[Tensor, " samples"],
) -> Float[Tensor, ""]:
    """Cross entropy between the probabilities of the wrong classes, each side's scaled to sum 1.

    Returns:
        At least the teacher's entropy over them, mean over samples, in nats.
    """
    others = ~F.one_hot(target, student_logits.shape[1]).bool()
    student, teacher = (double(z)[others].unflatten(0, (len(target), -1))
                        for z in (student_logits, teacher_logits))  # fmt: skip
    loss = -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
    return loss.to(at_least_single(student_logits, teacher_logits)[0].dtype)

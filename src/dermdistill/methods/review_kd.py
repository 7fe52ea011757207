"""Knowledge review: deep stages of the student help shallow ones to match the teacher's."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dermdistill.losses import cross_entropy_loss
from dermdistill.losses.precision import at_least_single
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.types import Terms, Widths

MOST_CHANNELS = 512  # of what is handed from stage to stage
POOLED = (4, 2, 1)


class Fusion(nn.Module):
    """Attention-based fusion of a student's stage with what came from the deeper ones.

    Args:
        student: channels of the student's stage.
        middle: channels of what is handed on.
        teacher: channels of the teacher's stage.
        deepest: nothing comes from below.
    """

    def __init__(self, student: int, middle: int, teacher: int, deepest: bool):
        super().__init__()
        self.enter = nn.Sequential(
            nn.Conv2d(student, middle, 1, bias=False), nn.BatchNorm2d(middle)
        )
        self.leave = nn.Sequential(
            nn.Conv2d(middle, teacher, 3, padding=1, bias=False), nn.BatchNorm2d(teacher)
        )
        self.gates = None if deepest else nn.Conv2d(2 * middle, 2, 1)

    def forward(
        self, stage: Tensor, deeper: Tensor | None, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """The fused stage at the teacher's channels and size, and what is handed on."""
        own = self.enter(stage)
        if deeper is not None:
            deeper = F.interpolate(deeper, own.shape[-2:], mode="nearest")
            gate = self.gates(torch.cat((own, deeper), dim=1)).sigmoid()
            own = own * gate[:, :1] + deeper * gate[:, 1:]
        fused = own if own.shape[-2:] == size else F.interpolate(own, size, mode="nearest")
        return self.leave(fused), own


@dataclass(frozen=True)
class ReviewKD(Method):
    """Every stage of the student, fused with its deeper ones, matches the teacher's stage.

    L = w_ce CE(z_S, y) + w_r r sum_m HCL(fused_m, F_Tm),
        HCL(a, b) = sum_l 2^-l MSE(pool_l a, pool_l b) / sum_l 2^-l

    over the whole stage and its averages on 4x4, 2x2 and 1x1 (where it is larger); r rises from 0
    to 1 over ramp_ratio of the training.
    """

    source = "Chen et al. 2021 (arXiv:2104.09044), equations 4 to 7; official code, up to 4 stages"
    stages = True

    ce_weight: float = 1.0
    review_weight: float = 1.0
    ramp_ratio: float = 20 / 240

    def adapters(self, student: Widths, teacher: Widths) -> dict[str, nn.Module]:
        """A fusion for every pair of stages, counted from the deepest."""
        if not self.review_weight:
            return {}
        middle = min(MOST_CHANNELS, student.stages[-1][0])
        pairs = zip(reversed(student.stages), reversed(teacher.stages), strict=False)
        return {
            f"fusion_{depth}": Fusion(own, middle, other, deepest=depth == 0)
            for depth, ((own, _), (other, _)) in enumerate(pairs)
        }

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy and the review."""
        rise = min(lesson.done_ratio / self.ramp_ratio, 1.0) if self.ramp_ratio else 1.0
        return weigh({
            "cross_entropy": (self.ce_weight, lambda: cross_entropy_loss(
                lesson.student.logits, lesson.targets, lesson.class_weights
            )),
            # Without labels there is nothing else to begin with.
            "review": (self.review_weight * (rise if self.ce_weight else 1.0), lambda: (
                self._review(lesson)
            )),
        })  # fmt: skip

    def _review(self, lesson: Lesson) -> Tensor:
        deeper, losses = None, []
        pairs = zip(reversed(lesson.student.stages), reversed(lesson.teacher.stages), strict=False)
        for depth, (own, wanted) in enumerate(pairs):
            fusion = lesson.adapters[f"fusion_{depth}"]
            fused, deeper = fusion(own, deeper, wanted.shape[-2:])
            losses.append(hierarchical_loss(fused, wanted))
        return torch.stack(losses).sum()


def hierarchical_loss(
    student: Float[Tensor, "samples channels rows cols"],
    teacher: Float[Tensor, "samples channels rows cols"],
) -> Float[Tensor, ""]:
    """Mean squared difference of two maps and of their averages on ever coarser grids.

    Every grid counts half of the one before. At least 0; 0 where the maps are equal.
    """
    student, teacher = at_least_single(student, teacher)
    losses, weights = [F.mse_loss(student, teacher)], [1.0]
    for side in POOLED:
        if side < student.shape[-2]:
            weights.append(weights[-1] / 2)
            pooled = (F.adaptive_avg_pool2d(x, side) for x in (student, teacher))
            losses.append(weights[-1] * F.mse_loss(*pooled))
    return torch.stack(losses).sum() / sum(weights)

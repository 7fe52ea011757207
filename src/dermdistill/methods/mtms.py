"""Multiple teachers, meticulous student: the teachers' features fused by a small transformer."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dermdistill.losses import cross_entropy_loss
from dermdistill.losses.precision import at_least_single
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.types import Terms, Widths

TOKEN, HEADS, HIDDEN = 512, 16, 1024  # the public code's


class Aggregator(nn.Module):
    """One token a teacher, a transformer layer over them, their mean at the student's width.

    Args:
        teachers: the widths of their embeddings.
        student: the width of its.
    """

    def __init__(self, teachers: list[int], student: int):
        super().__init__()
        self.tokens = nn.ModuleList(nn.Linear(width, TOKEN) for width in teachers)
        self.layer = nn.TransformerEncoderLayer(
            TOKEN, HEADS, HIDDEN, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.out = nn.Sequential(nn.LayerNorm(TOKEN), nn.Linear(TOKEN, student))

    def forward(
        self, embeddings: list[Tensor], right: list[Bool[Tensor, " samples"]]
    ) -> Float[Tensor, "samples width"]:
        """Fuse the embeddings; the token of a teacher that is wrong on a sample is 0."""
        stacked = torch.stack([
            token(embedding) * keep[:, None]
            for token, embedding, keep in zip(self.tokens, embeddings, right, strict=True)
        ], dim=1)  # fmt: skip
        return self.out(self.layer(stacked).mean(1))


@dataclass(frozen=True)
class MTMS(Method):
    """The student's embedding matches what an aggregator makes of all teachers that are right.

    L = w_ce CE(z_S, y) + w_f |f_S - A(f_1 .. f_n)|^2 / width + w_a CE(h(A(f_1 .. f_n)), y)

    A learns from its own classifier h, not from the distance (unless w_a is 0). Both are dropped.
    """

    teacher = "several"
    source = "Nabavi et al. 2024 (arXiv:2403.11226); public code, in one stage, all images labelled"

    ce_weight: float = 1.0
    feature_weight: float = 1.0
    aggregator_weight: float = 1.0

    def adapters(self, student: Widths, *teachers: Widths) -> dict[str, nn.Module]:
        """The aggregator and its classifier."""
        built: dict[str, nn.Module] = {}
        if self.feature_weight or self.aggregator_weight:
            widths = [teacher.embedding for teacher in teachers]
            built["aggregator"] = Aggregator(widths, student.embedding)
        if self.aggregator_weight:
            built["classifier"] = nn.Linear(student.embedding, student.classes)
        return built

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy of the student and of the aggregator, and the distance of the two."""
        targets, weights = lesson.targets, lesson.class_weights
        fused = self._fused(lesson) if "aggregator" in lesson.adapters else None
        return weigh({
            "cross_entropy": (self.ce_weight, lambda: cross_entropy_loss(
                lesson.student.logits, targets, weights
            )),
            "feature_mse": (self.feature_weight, lambda: embedding_loss(
                lesson.student.embedding, fused.detach() if self.aggregator_weight else fused
            )),
            "aggregator": (self.aggregator_weight, lambda: cross_entropy_loss(
                lesson.adapters["classifier"](fused), targets, weights
            )),
        })  # fmt: skip

    def _fused(self, lesson: Lesson) -> Tensor:
        return lesson.adapters["aggregator"](
            [taps.embedding for taps in lesson.teachers],
            [taps.logits.argmax(1) == lesson.targets for taps in lesson.teachers],
        )


def embedding_loss(
    student: Float[Tensor, "samples width"], fused: Float[Tensor, "samples width"]
) -> Float[Tensor, ""]:
    """Mean squared difference of two embeddings."""
    student, fused = at_least_single(student, fused)
    return (student - fused).square().mean()

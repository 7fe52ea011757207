"""Relationship-aware mutual learning: two equal students, and what images of a batch share."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from dermdistill.losses import cross_entropy_loss, kd_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.types import Taps, Terms, Widths

TOKEN, HEADS = 128, 4


class BatchAttention(nn.Module):
    """Images of a batch look at each other, then each is classified; for training alone."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.token = nn.Linear(width, TOKEN)
        self.layer = nn.TransformerEncoderLayer(
            TOKEN, HEADS, 2 * TOKEN, dropout=0.0, batch_first=True, norm_first=True
        )
        self.classifier = nn.Linear(TOKEN, classes)

    def forward(
        self, embedding: Float[Tensor, "samples width"]
    ) -> Float[Tensor, "samples classes"]:
        """The batch as one sequence."""
        return self.classifier(self.layer(self.token(embedding)[None])[0])


@dataclass(frozen=True)
class Mutual(Method):
    """Both students learn from labels and from each other, alone and through batch attention.

    L = w_ce (CE_1 + CE_2) + w_kd T^2 (KL(p_2 || p_1) + KL(p_1 || p_2))
        + w_bce (CE'_1 + CE'_2) + w_bkd T^2 (KL(p'_2 || p'_1) + KL(p'_1 || p'_2))

    ' marks what a transformer layer over the batch makes of a student's embeddings. The first
    student is kept.
    """

    teacher = "none"
    peers = 1
    sure = "reading"
    source = (
        "Liu et al. 2024 (doi 10.1016/j.dcan.2024.04.004): our reading, by its abstract; mutual "
        "learning (arXiv:1706.00384), equations 4 to 7; BatchFormer (arXiv:2203.01522) with a "
        "classifier of its own"
    )

    ce_weight: float = 1.0
    mutual_weight: float = 1.0
    batch_ce_weight: float = 1.0
    batch_mutual_weight: float = 1.0
    kd_temperature: float = 1.0

    def adapters(self, student: Widths) -> dict[str, nn.Module]:
        """A batch attention for each of the two."""
        if not (self.batch_ce_weight or self.batch_mutual_weight):
            return {}
        return {
            f"attention_{who}": BatchAttention(student.embedding, student.classes) for who in (1, 2)
        }

    def terms(self, lesson: Lesson) -> Terms:
        """Labels and each other, with and without batch attention."""
        both: tuple[Taps, Taps] = (lesson.student, *lesson.peers)
        plain = [taps.logits for taps in both]
        shared = [
            lesson.adapters[f"attention_{who}"](taps.embedding)
            for who, taps in enumerate(both, start=1)
            if lesson.adapters
        ]
        return weigh({
            "cross_entropy": (self.ce_weight, lambda: labels(plain, lesson)),
            "mutual": (self.mutual_weight, lambda: exchange(plain, self.kd_temperature)),
            "batch_cross_entropy": (self.batch_ce_weight, lambda: labels(shared, lesson)),
            "batch_mutual": (self.batch_mutual_weight, lambda: exchange(
                shared, self.kd_temperature
            )),
        })  # fmt: skip


def labels(both: list[Tensor], lesson: Lesson) -> Tensor:
    """Cross entropy of two students, summed."""
    return sum(
        cross_entropy_loss(logits, lesson.targets, lesson.class_weights) for logits in both
    )  # fmt: skip


def exchange(both: list[Tensor], temperature: float) -> Tensor:
    """Each student's divergence from the other, summed; nobody's target has a gradient."""
    first, second = both
    return kd_loss(first, second, temperature) + kd_loss(second, first, temperature)

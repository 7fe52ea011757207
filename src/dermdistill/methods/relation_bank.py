"""What CRCKD, UDCD and StAlK share: a moving average that teaches, and a bank of embeddings.

The bank holds one embedding of every training image as the student had it, and one as the teacher
had it. Its classes' centres are the axes in which the relation of an image to every class is
measured.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dermdistill.losses import cross_entropy_loss
from dermdistill.losses.precision import at_least_single, no_autocast
from dermdistill.losses.views import directions
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.types import Terms, Views, Widths

EMBEDDING = 128  # the public code's


class Pair(NamedTuple):
    """The same for student and teacher."""

    student: Tensor
    teacher: Tensor


class EmbeddingBank(nn.Module):
    """An embedding of every training image by student and teacher, and the images' classes.

    Rows start as random vectors of length about 1, as in the public code.

    Args:
        labels: class of every training image.
        classes: how many there are.
    """

    def __init__(self, labels: Int64[Tensor, " images"], classes: int):
        super().__init__()
        limit = math.sqrt(3 / EMBEDDING)
        for who in Pair._fields:
            rows = torch.empty(len(labels), EMBEDDING).uniform_(-limit, limit)
            self.register_buffer(who, rows)
        count = torch.bincount(labels, minlength=classes)
        self.register_buffer("labels", labels)
        self.register_buffer("by_class", labels.argsort(stable=True))  # the rows, class by class
        self.register_buffer("count", count)
        self.register_buffer("first", count.cumsum(0) - count)  # where a class starts in by_class

    def positives(self, rows: Int64[Tensor, " batch"], number: int) -> Int64[Tensor, "batch some"]:
        """Each image itself, then rows of its class drawn with replacement."""
        own = self.labels[rows, None]
        drawn = torch.rand(len(rows), number - 1, device=rows.device) * self.count[own]
        return torch.cat((rows[:, None], self.by_class[self.first[own] + drawn.long()]), dim=1)

    def negatives(self, rows: Int64[Tensor, " batch"], number: int) -> Int64[Tensor, "batch some"]:
        """Rows of other classes drawn with replacement; none where there is but one class."""
        own = self.labels[rows, None]
        others = len(self.labels) - self.count[own]
        if not others.all():
            return rows.new_zeros(len(rows), 0)
        drawn = (torch.rand(len(rows), number, device=rows.device) * others).long()
        behind = drawn >= self.first[own]
        return self.by_class[drawn + behind * self.count[own]]

    def centres(self) -> Pair:
        """Of every class and either side: the mean of its embeddings' positive parts, length 1."""
        return Pair(
            *(class_centres(getattr(self, w), self.labels, self.count) for w in Pair._fields)
        )

    def update(self, rows: Int64[Tensor, " some"], embeddings: Pair, keep_ratio: float) -> None:
        """Move distinct rows towards new embeddings of their images."""
        for who, new in embeddings._asdict().items():
            bank = getattr(self, who)
            mixed = keep_ratio * bank[rows] + (1 - keep_ratio) * new.to(bank.dtype)
            bank[rows] = directions(mixed)


def class_centres(
    bank: Float[Tensor, "images width"],
    labels: Int64[Tensor, " images"],
    count: Int64[Tensor, " classes"],
) -> Float[Tensor, "classes width"]:
    """Unit means of the embeddings' positive parts by class; 0 for a class without an image."""
    sums = bank.new_zeros(len(count), bank.shape[1]).index_add_(0, labels, bank.relu())
    return directions(sums / count.clamp_min(1)[:, None])


@dataclass(frozen=True)
class RelationBankMethod(Method):
    """A student, its moving average as teacher, and a bank; subclasses compare the relations."""

    teacher = "average"
    views = Views(2, apart=True)

    ce_weight: float = 1.0
    kd_weight: float = 1.0
    bank_temperature: float = 0.07
    bank_keep_ratio: float = 0.5
    teacher_decay_ratio: float = 0.99
    start_ratio: float = 20 / 80
    ramp_ratio: float = 30 / 80

    @property
    @abstractmethod
    def heads(self) -> tuple[str, ...]:
        """Which projections are trained: "student_head", "teacher_head"; none needs no bank."""

    @abstractmethod
    def consistency(self, lesson: Lesson) -> Tensor:
        """How far the student's outputs are from the teacher's."""

    @abstractmethod
    def bank_terms(self, lesson: Lesson) -> dict[str, tuple[float, Callable[[], Tensor]]]:
        """The terms that read the bank."""

    def adapters(self, student: Widths, teacher: Widths) -> dict[str, nn.Module]:
        """The projections that the bank's embeddings come from."""
        return {head: nn.Linear(student.embedding, EMBEDDING) for head in self.heads}

    def memory(self, student: Widths, labels: Int64[Tensor, " images"]) -> dict[str, nn.Module]:
        """The bank."""
        return {"bank": EmbeddingBank(labels, student.classes)} if self.heads else {}

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy alone at first, then all; the consistency's weight rises slowly."""
        terms = {
            "cross_entropy": (self.ce_weight, lambda: cross_entropy_loss(
                lesson.student.logits, lesson.targets, lesson.class_weights
            )),
        }  # fmt: skip
        if lesson.done_ratio >= self.start_ratio or not self.ce_weight:
            weight = self.kd_weight * ramp(lesson.done_ratio, self.ramp_ratio)
            terms["consistency"] = (weight, lambda: self.consistency(lesson))
            terms |= self.bank_terms(lesson)
        return weigh(terms)

    def remember(self, lesson: Lesson) -> None:
        """The batch's embeddings enter the bank."""
        if self.heads:
            last, new = lesson.batch.last_of_each(), embeddings(lesson)
            lesson.memory["bank"].update(
                lesson.batch.rows[last], Pair(*(x[last] for x in new)), self.bank_keep_ratio
            )


def ramp(done_ratio: float, length_ratio: float) -> float:
    """exp(-5 (1 - t)^2) with t from 0 to 1 over the first share of the training, 1 after it."""
    rest = 1 - min(done_ratio / length_ratio, 1.0) if length_ratio else 0.0
    return math.exp(-5 * rest**2)


def embeddings(lesson: Lesson) -> Pair:
    """Unit embeddings of the batch by student and teacher.

    Where the teacher has no head of its own it looks through the student's, without gradient:
    nothing would train another.
    """
    head = lesson.adapters["student_head"]
    student = head(lesson.student.embedding)
    if "teacher_head" in lesson.adapters:
        teacher = lesson.adapters["teacher_head"](lesson.teacher.embedding)
    else:
        teacher = head(lesson.teacher.embedding).detach()
    return Pair(*(directions(x) for x in at_least_single(student, teacher)))


def relations(lesson: Lesson, temperature: float) -> Pair:
    """Cosines of the batch to every class's centre, divided by the temperature.

    The teacher's have no gradient.
    """
    of_batch, of_classes = embeddings(lesson), lesson.memory["bank"].centres()
    with no_autocast(lesson.student.embedding):
        student, teacher = (
            e @ c.to(e.dtype).mT / temperature for e, c in zip(of_batch, of_classes, strict=True)
        )
    return Pair(student, teacher.detach())


def bank_contrast_loss(
    anchors: Float[Tensor, "batch width"],
    bank: Float[Tensor, "images width"],
    positives: Int64[Tensor, "batch some"],
    negatives: Int64[Tensor, "batch many"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Noise-contrastive estimation: is a row of the bank of the anchor's class, or of another?

    With x = exp(anchor . row / temperature) / Z and c = negatives / images:
    mean of -log(x / (x + c)) over the positives, plus the sum of -log(c / (x + c)) over the
    negatives; mean over the batch. Z, which the public code measures on its first batch, is the
    expected one of a random bank: images * exp(1 / (2 width temperature^2)).

    Args:
        anchors: unit embeddings.
        bank: unit embeddings; they receive no gradient.
        positives: rows of the anchor's class.
        negatives: rows of other classes; may be none.
        temperature: > 0.

    Returns:
        At least 0.

    Source: CRD (arXiv:1910.10699), equations 17 and 18; CRCKD (MICCAI 2021), its official code.
    """
    anchors, bank = at_least_single(anchors, bank.detach())
    with no_autocast(anchors):
        cosines = anchors @ bank.mT
    shift = 1 / (2 * anchors.shape[1] * temperature**2) + math.log(max(negatives.shape[1], 1))
    # The number of images cancels between Z and c.
    odds = cosines / temperature - shift
    of_positives = F.softplus(-odds.gather(1, positives)).mean(1)
    return (of_positives + F.softplus(odds.gather(1, negatives)).sum(1)).mean()

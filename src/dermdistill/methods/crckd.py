"""Categorical relation-preserving contrastive distillation, by a moving average of the student."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dermdistill.losses import kd_loss
from dermdistill.methods.base import Lesson
from dermdistill.methods.relation_bank import (
    RelationBankMethod,
    bank_contrast_loss,
    embeddings,
    relations,
)


@dataclass(frozen=True)
class CRCKD(RelationBankMethod):
    """The average's outputs, which class an image belongs to, and how near it is to every class.

    L = w_ce CE(z_S, y) + w_kd r KL(p_T || p_S) + w_c (NCE(e_S, bank_T) + NCE(e_T, bank_S))
        + w_r KL(softmax(c_T) || softmax(c_S))

    e: unit embedding of 128; c: cosines to the class centres of the bank / temperature;
    r = exp(-5 (1 - t)^2), t = share done / ramp_ratio. All but CE begin at start_ratio.
    """

    source = "Xing et al. MICCAI 2021, equations 2 to 6; official code; epochs as shares of its 80"

    contrast_weight: float = 0.1
    relation_weight: float = 1.0
    positive_count: float = 20.0
    negative_count: float = 4096.0

    @property
    def heads(self) -> tuple[str, ...]:
        """The contrast trains both; the relation alone would train the student's only."""
        if self.contrast_weight:
            return ("student_head", "teacher_head")
        return ("student_head",) if self.relation_weight else ()

    def consistency(self, lesson: Lesson) -> Tensor:
        """KL of the outputs."""
        return kd_loss(lesson.student.logits, lesson.teacher.logits, 1.0)

    def relation(self, student: Tensor, teacher: Tensor) -> Tensor:
        """KL of the relations to the classes."""
        return kd_loss(student, teacher, 1.0)

    def bank_terms(self, lesson: Lesson) -> dict[str, tuple[float, Callable[[], Tensor]]]:
        """The contrast in both directions, and the relations."""
        return {
            "contrast": (self.contrast_weight, lambda: self._contrast(lesson)),
            "relation": (self.relation_weight, lambda: self.relation(
                *relations(lesson, self.bank_temperature)
            )),
        }  # fmt: skip

    def _contrast(self, lesson: Lesson) -> Tensor:
        bank, rows = lesson.memory["bank"], lesson.batch.rows
        drawn = (
            bank.positives(rows, int(self.positive_count)),
            bank.negatives(rows, int(self.negative_count)),
        )
        student, teacher = embeddings(lesson)
        return (
            bank_contrast_loss(student, bank.teacher, *drawn, self.bank_temperature)
            + bank_contrast_loss(teacher, bank.student, *drawn, self.bank_temperature)
        )  # fmt: skip

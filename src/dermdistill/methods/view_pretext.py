"""The stage before SSKD and SSD-KD: a head on the frozen teacher learns to tell views apart."""

from dataclasses import dataclass

from torch import nn

from dermdistill.data.views import QUARTER_TURNS
from dermdistill.losses import view_contrast_loss, view_similarity
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.models import ProjectionHead
from dermdistill.types import Terms, Widths


@dataclass(frozen=True)
class ViewPretext(Method):
    """Every turned view must find its own upright image in the batch, by cosine.

    L = w CE(cos(h(f_T(turned)), h(f_T(upright))), own image)
    """

    views = QUARTER_TURNS
    source = "Xu et al. 2020 (SSKD), equation 5; Wang et al. 2023, stage 1 of the official code"

    contrast_weight: float = 1.0

    def adapters(self, student: None, teacher: Widths) -> dict[str, nn.Module]:
        """The teacher's projection head: all that this stage trains."""
        return {"teacher_head": ProjectionHead(teacher.embedding)}

    def terms(self, lesson: Lesson) -> Terms:
        """The contrast of turned and upright views."""
        embeddings = lesson.adapters["teacher_head"](lesson.teacher.embedding)
        return weigh({
            "view_contrast": (self.contrast_weight, lambda: view_contrast_loss(
                view_similarity(embeddings.unflatten(0, (-1, lesson.views)))
            )),
        })  # fmt: skip

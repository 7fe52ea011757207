"""What one stage trains: a student, what is trained beside it, and the method that judges them."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from dermdistill.methods import Lesson, Method
from dermdistill.models import Backbone, freeze, speed_up_pointwise
from dermdistill.train.parallel import together
from dermdistill.types import Batch, Taps, Terms, Widths


class Learner(nn.Module):
    """All that changes in a stage, with a forward pass that ends in terms.

    Frozen teachers and the frozen pretext head are handed in or kept out of sight: they are never
    submodules, so no optimiser, no checkpoint and no export can reach them. A teacher that is a
    moving average of the student changes, so it is one, without gradient.

    Args:
        method: the method.
        student: the network to train; None when the method trains adapters alone (a pretext).
        peers: networks that learn beside the student.
        teachers: the sizes of the frozen teachers.
        input_px: side of the images.
        labels: the class of every training image.
        class_weights: weight of each class in the cross entropy.
        pretext: frozen modules of the pretext stage, if the method has one.
    """

    def __init__(
        self,
        method: Method,
        student: Backbone | None,
        peers: Sequence[Backbone],
        teachers: Sequence[Widths],
        input_px: int,
        labels: Int64[Tensor, " images"],
        class_weights: Float[Tensor, " classes"],
        pretext: nn.ModuleDict | None = None,
    ):
        super().__init__()
        self.method = method
        self.student = student
        self.peers = nn.ModuleList(peers)
        widths = student and student.widths(input_px, method.stages)
        if method.teacher in ("average", "self"):
            teachers = (widths,)
        self.adapters = speed_up_pointwise(nn.ModuleDict(method.adapters(widths, *teachers)))
        self.memory = nn.ModuleDict({} if student is None else method.memory(widths, labels))
        self.average = None
        if method.teacher == "average":
            # As in Mean Teacher: the plain average of all steps until that is slower than the rate.
            self.average = freeze(ModelEmaV3(
                student, method.teacher_decay_ratio, use_warmup=True, warmup_power=1.0
            ))  # fmt: skip
        self.register_buffer("class_weights", class_weights, persistent=False)
        self._unregistered = (pretext,)  # a tuple hides it from nn.Module
        self._lesson: Lesson | None = None

    def forward(
        self,
        batch: Batch,
        teach: Callable[[Batch], tuple[Taps, ...]],
        done_ratio: float,
        common_seed: int | None = None,
    ) -> Terms:
        """The method's terms for a batch.

        Args:
            batch: the images.
            teach: gives the frozen teachers' taps on what they see of it.
            done_ratio: share of the training's steps that lie behind.
            common_seed: given where the batch is one process's share: the terms are then those of
                all shares together, and what they draw is drawn alike everywhere.
        """
        batch = self.method.show(batch, self.adapters, done_ratio)
        images, stages = batch.for_student(), self.method.stages
        own = (
            self.student if self.method.teacher == "self" else self.average and self.average.module
        )
        if own is None:
            teachers = teach(batch)
        else:
            with torch.no_grad():
                teachers = (own.given(batch.metadata)(batch.for_teacher(), stages),)

        def taps(network: Backbone) -> Taps:
            return network.given(batch.metadata)(images, stages)

        lesson = Lesson(
            batch=batch,
            student=None if self.student is None else taps(self.student),
            teachers=teachers,
            adapters=self.adapters,
            pretext=self._unregistered[0],
            class_weights=self.class_weights,
            peers=tuple(map(taps, self.peers)),
            memory=self.memory,
            done_ratio=done_ratio,
        )
        if common_seed is not None:
            lesson = together(lesson)
            torch.manual_seed(common_seed)
        self._lesson = lesson
        return self.method.terms(lesson)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """What follows the optimiser's step of the last lesson: average and memory move on.

        Args:
            step: how many steps have been done, this one included.
        """
        if self.average is not None:
            self.average.update(self.student, step)
        self.method.remember(self._lesson)
        self._lesson = None

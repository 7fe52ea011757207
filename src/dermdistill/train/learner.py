"""What one stage trains: a student, its adapters, and the method that judges them."""

from jaxtyping import Float
from torch import Tensor, nn

from dermdistill.methods import Lesson, Method
from dermdistill.models import Backbone
from dermdistill.types import Batch, Taps, Terms


class Learner(nn.Module):
    """All that an optimiser may change in a stage, with a forward pass that ends in terms.

    The teacher and the frozen pretext head are handed in or kept out of sight: they are never
    submodules, so no optimiser, no checkpoint and no export can reach them.

    Args:
        student: the network to train; None when the method trains adapters alone (a pretext).
        adapters: what the method trains beside it.
        method: the method.
        class_weights: weight of each class in the cross entropy.
        pretext: frozen modules of the pretext stage, if the method has one.
    """

    def __init__(
        self,
        student: Backbone | None,
        adapters: dict[str, nn.Module],
        method: Method,
        class_weights: Float[Tensor, " classes"],
        pretext: nn.ModuleDict | None = None,
    ):
        super().__init__()
        self.student = student
        self.adapters = nn.ModuleDict(adapters)
        self.method = method
        self.register_buffer("class_weights", class_weights, persistent=False)
        self._unregistered = (pretext,)  # a tuple hides it from nn.Module

    def forward(self, batch: Batch, teacher: Taps | None) -> Terms:
        """The method's terms for a batch, given the teacher's taps on the same views."""
        return self.method.terms(
            Lesson(
                batch=batch,
                student=None if self.student is None else self.student(batch.flat()),
                teacher=teacher,
                adapters=self.adapters,
                pretext=self._unregistered[0],
                class_weights=self.class_weights,
            )
        )

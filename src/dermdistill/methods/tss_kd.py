"""Teacher- and student-free: one network, two views, and temperatures that know the target."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dermdistill.losses import cross_entropy_loss, kd_loss
from dermdistill.losses.precision import at_least_single
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.types import Terms, Views

GAMMA = (0.5, 2.0)


@dataclass(frozen=True)
class TSSKD(Method):
    """The network's answer to another view of an image is its own soft target.

    L = w_ce CE(z, y) + w_kd T^2 KL(softmax(z' / tau) || softmax(z / tau)),
        tau = T for the target's class, the other temperature for all others

    z' is the answer to the second view, without gradient. In every view the pixels of a random
    rectangle are raised to a random power in [0.5, 2].
    """

    teacher = "self"
    views = Views(2, apart=True)
    source = "Be your own doctor (TSS-KD, Medical Image Analysis 2025); the public code"

    ce_weight: float = 1.0
    kd_weight: float = 1.0
    target_temperature: float = 4.0
    other_temperature: float = 0.4

    def vary(
        self, images: Float[Tensor, "batch views 3 rows cols"]
    ) -> Float[Tensor, "batch views 3 rows cols"]:
        """Gamma in a random rectangle of every view."""
        return rectangle_gamma(images.flatten(0, 1)).view_as(images)

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy of the first view, divergence from the second."""
        student, target = lesson.student.logits, lesson.batch.target
        return weigh({
            "cross_entropy": (self.ce_weight, lambda: cross_entropy_loss(student, target)),
            "self_kd": (self.kd_weight, lambda: targeted_kd_loss(
                student, lesson.teacher.logits, target, self.target_temperature,
                self.other_temperature,
            )),
        })  # fmt: skip


def targeted_kd_loss(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    target: Int[Tensor, " samples"],
    target_temperature: float,
    other_temperature: float,
) -> Float[Tensor, ""]:
    """`kd_loss` with one temperature for the target's class and another for the rest.

    Returns:
        At least 0, in nats times target_temperature^2; 0 where both agree.
    """
    student, teacher = at_least_single(student_logits, teacher_logits)
    own = F.one_hot(target, student.shape[1]).bool()
    tau = torch.full_like(student, other_temperature).masked_fill(own, target_temperature)
    # The inner temperature of kd_loss is 1, for the logits are divided already.
    return target_temperature**2 * kd_loss(student / tau, teacher / tau, 1.0)


def rectangle_gamma(
    images: Float[Tensor, "samples 3 rows cols"],
) -> Float[Tensor, "samples 3 rows cols"]:
    """Raise the pixels of one rectangle an image to a power drawn from [0.5, 2].

    The rectangle covers up to half of the image, is centred anywhere and cut at the border, as in
    CutMix; all draws come from torch's global generator.

    Args:
        images: in [0, 1], and so are the returned ones.
    """
    samples, _, height, width = images.shape
    share, row, col, power = torch.rand(4, samples, 1, 1, device=images.device)
    side = torch.minimum(share, 1 - share).sqrt()

    def inside(centre: Tensor, pixels: int) -> Tensor:
        places = torch.arange(pixels, device=images.device)
        return (places - (centre * pixels).floor()).abs() < (side * pixels / 2)

    mask = inside(row, height).mT & inside(col, width)
    low, high = GAMMA
    exponent = low + (high - low) * power
    return torch.where(mask[:, None], images ** exponent[:, None], images)

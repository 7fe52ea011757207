"""Long-tailed distillation: the teacher's preference for frequent classes is taken out."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dermdistill.errors import ConfigError
from dermdistill.losses import group_kd_loss, within_group_kd_loss
from dermdistill.methods.base import Lesson, Method, weigh
from dermdistill.methods.terms import cross_entropy, logit_pair
from dermdistill.types import Terms


@dataclass(frozen=True)
class LTKD(Method):
    """Shares of frequent, medium and rare classes rebalanced; inside each, all count alike.

    L = w_ce CE(z_S, y) + w_g T^2 KL(b || g_S) + w_w T^2 sum over groups of KL inside it, where g
    are the groups' shares, and b the teacher's divided by their sums over the batch, scaled to 1

    A third of the classes each, by their number of images.
    """

    source = (
        "Kim 2025 (arXiv:2506.18496), rebalanced cross-group and reweighted within-group loss;"
        " our reading of a summary, as the paper's equations, weights and T could not be read"
    )
    sure = "reading"

    ce_weight: float = 1.0
    group_weight: float = 1.0
    within_weight: float = 1.0
    kd_temperature: float = 4.0
    standardise_ratio: float = 0.0

    def terms(self, lesson: Lesson) -> Terms:
        """Cross entropy, shares of groups, and inside the groups, over all views."""
        student, teacher = logit_pair(lesson, self.standardise_ratio)
        groups = frequency_groups(lesson.class_weights)
        return weigh({
            "cross_entropy": cross_entropy(self.ce_weight, lesson),
            "group_kd": (self.group_weight, lambda: group_kd_loss(
                student, teacher, groups, self.kd_temperature
            )),
            "within_group_kd": (self.within_weight, lambda: within_group_kd_loss(
                student, teacher, groups, self.kd_temperature
            )),
        })  # fmt: skip


def frequency_groups(class_weights: Float[Tensor, " classes"]) -> Int64[Tensor, " classes"]:
    """Each class's group by its weight: 0 the most frequent third, 1 the next, 2 the rarest.

    Raises:
        ConfigError: all weights are equal, so they tell no frequency.
    """
    if (class_weights == class_weights[0]).all():
        raise ConfigError(
            f"ltkd tells frequent classes from rare ones by their weights, and all weights are "
            f"{float(class_weights[0]):g}; set class_weight_power above 0, or take kd where the "
            f"classes are equally frequent"
        )
    # A class without any image has weight 0, and is the rarest of all.
    rarity = torch.where(class_weights > 0, class_weights, torch.inf)
    rank = rarity.argsort(stable=True).argsort()
    return 3 * (2 * rank + 1) // (2 * len(rank))

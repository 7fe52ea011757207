"""Losses on feature maps, position by position."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dermdistill.losses.precision import at_least_single


def feature_mse_loss(
    student_map: Float[Tensor, "samples channels rows cols"],
    teacher_map: Float[Tensor, "samples channels rows cols"],
) -> Float[Tensor, ""]:
    """Mean squared difference of two feature maps, in squared units of the features.

    Args:
        student_map: the student's map behind its connector.
        teacher_map: the teacher's map; it receives no gradient.

    Returns:
        At least 0; 0 where the maps are equal.

    Raises:
        ValueError: the maps differ in shape (torch would broadcast them silently).

    Source: FitNets (arXiv:1412.6550), the hint loss up to its factor 1/2, mean instead of sum.
    """
    if student_map.shape != teacher_map.shape:
        raise ValueError(
            f"student map {tuple(student_map.shape)} and teacher map {tuple(teacher_map.shape)} "
            "differ in shape; put a connector on the student's"
        )
    return F.mse_loss(*at_least_single(student_map, teacher_map.detach()))

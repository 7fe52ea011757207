"""Losses on similarities: which samples, or which classes, student and teacher find alike.

Each compares square tables of samples or of classes, so the networks' widths need not agree.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from dermdistill.losses.precision import double_pair, like_inputs

# Shorter vectors have no direction (as in torch's normalize).
MIN_LENGTH = 1e-12


def unit(vectors: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
    """Vectors at length 1; those without a direction become 0 and receive no gradient."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return torch.where(length > MIN_LENGTH, vectors, 0) / length.clamp_min(MIN_LENGTH)


def pearson_distance(
    student: Float[Tensor, "rows numbers"], teacher: Float[Tensor, "rows numbers"]
) -> Float[Tensor, ""]:
    """1 minus the correlation of each of the student's rows with the teacher's, on average.

    Of unit vectors, 1 - u v = |u - v|^2 / 2, which does not cancel where they are close. A
    constant row has no direction; it is at distance 0 from another one and 1/2 from any else.

    Returns:
        In [0, 2]; 0 where each row is a rising line through the other's numbers.

    Source: DIST (arXiv:2205.10536), the distance d_p.
    """
    student, teacher = (rows - rows.mean(1, keepdim=True) for rows in (student, teacher))
    return (unit(student) - unit(teacher)).square().sum(1).mean() / 2


def inter_class_loss(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Pearson distance of each sample's class probabilities, times T^2.

    Args:
        student_logits: unnormalised scores.
        teacher_logits: unnormalised scores; they receive no gradient.
        temperature: > 0.

    Returns:
        In [0, 2 T^2]; 0 where the probabilities correlate fully.

    Source: DIST (arXiv:2205.10536), L_inter; the factor T^2 as in its public code.
    """
    student, teacher = _probabilities(student_logits, teacher_logits, temperature)
    loss = temperature**2 * pearson_distance(student, teacher)
    return like_inputs(loss, student_logits, teacher_logits)


def intra_class_loss(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Pearson distance of each class's probabilities over the samples, times T^2.

    Args:
        student_logits: unnormalised scores.
        teacher_logits: unnormalised scores; they receive no gradient.
        temperature: > 0.

    Returns:
        In [0, 2 T^2]; 0 where the probabilities correlate fully, and for one sample.

    Source: DIST (arXiv:2205.10536), L_intra; the factor T^2 as in its public code.
    """
    student, teacher = _probabilities(student_logits, teacher_logits, temperature)
    loss = temperature**2 * pearson_distance(student.T, teacher.T)
    return like_inputs(loss, student_logits, teacher_logits)


def _probabilities(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    student, teacher = double_pair(student, teacher)
    return (student / temperature).softmax(1), (teacher / temperature).softmax(1)

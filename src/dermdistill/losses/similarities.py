"""Losses on similarities: which samples, or which classes, student and teacher find alike.

Each compares square tables of samples or of classes, so the networks' widths need not agree.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dermdistill.losses.precision import (
    double_pair,
    like_inputs,
    no_autocast,
)

# Shorter vectors have no direction (as in torch's normalize).
MIN_LENGTH = 1e-12
# Added to every neighbour's weight, so that none is infinitely unlikely.
MIN_KERNEL = 1e-7
# Terms of the Taylor series of the Gaussian kernel, as in public code.
CONGRUENCE_ORDER = 2


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


def batch_correlation_loss(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Squared difference of the samples' Gram matrices P P', a sample.

    Args:
        student_logits: unnormalised scores; P is their softmax.
        teacher_logits: unnormalised scores; they receive no gradient.
        temperature: > 0.

    Returns:
        In [0, samples]; 0 where both find the same samples alike.

    Source: MLKD (Jin et al., CVPR 2023), the batch-level alignment.
    """
    student, teacher = _probabilities(student_logits, teacher_logits, temperature)
    loss = _gram_difference(student, teacher).square().sum() / max(len(student), 1)
    return like_inputs(loss, student_logits, teacher_logits)


def class_correlation_loss(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Squared difference of the classes' Gram matrices P' P, a class; it grows with samples^2.

    Args:
        student_logits: unnormalised scores; P is their softmax.
        teacher_logits: unnormalised scores; they receive no gradient.
        temperature: > 0.

    Returns:
        At least 0; 0 where both confuse the same classes.

    Source: MLKD (Jin et al., CVPR 2023), the class-level alignment.
    """
    student, teacher = _probabilities(student_logits, teacher_logits, temperature)
    loss = _gram_difference(student.T, teacher.T).square().sum() / student.shape[1]
    return like_inputs(loss, student_logits, teacher_logits)


def similarity_loss(
    student_map: Float[Tensor, "samples student_channels student_rows student_cols"],
    teacher_map: Float[Tensor, "samples teacher_channels teacher_rows teacher_cols"],
) -> Float[Tensor, ""]:
    """Mean squared difference of the samples' similarities, each sample's at length 1.

    Args:
        student_map: of any width and size.
        teacher_map: of the same samples; it receives no gradient.

    Returns:
        In [0, 4 / samples]; 0 where both find the same samples alike, and for one sample.

    Source: SP (arXiv:1907.09682), the loss between row-normalised matrices of similarities.
    """
    student, teacher = double_pair(student_map.flatten(1), teacher_map.flatten(1))
    with no_autocast(student):
        tables = [unit(rows @ rows.T) for rows in (student, teacher)]
    return like_inputs(F.mse_loss(*tables), student_map, teacher_map)


def pkt_loss(
    student: Float[Tensor, "samples student_width"],
    teacher: Float[Tensor, "samples teacher_width"],
) -> Float[Tensor, ""]:
    """Divergence in nats of the samples' neighbourhoods, divided by samples^2.

    A sample's neighbourhood is a probability over the batch, proportional to (1 + cosine) / 2.

    Args:
        student: embeddings.
        teacher: embeddings of the same samples; they receive no gradient.

    Returns:
        At least 0; 0 where both find the same samples near, and for one sample.

    Source: PKT (arXiv:1803.10837), cosine kernel; the sample itself counts, and the mean is over
        pairs, as in the public code.
    """
    tables = (_neighbours(rows) for rows in double_pair(student, teacher))
    loss = F.kl_div(*tables, reduction="sum", log_target=True) / max(len(student), 1) ** 2
    return like_inputs(loss, student, teacher)


def correlation_congruence_loss(
    student: Float[Tensor, "samples student_width"],
    teacher: Float[Tensor, "samples teacher_width"],
    gamma: float,
) -> Float[Tensor, ""]:
    """Mean squared difference of the samples' correlations by a Gaussian kernel's Taylor series.

    exp(-gamma |a - b|^2) of unit vectors is exp(-2 gamma) exp(2 gamma ab), developed in ab.

    Args:
        student: embeddings.
        teacher: embeddings of the same samples; they receive no gradient.
        gamma: how narrow the kernel is.

    Returns:
        At least 0; 0 where all cosines agree, and for one sample.

    Source: CC (arXiv:1904.01802), the Gaussian RBF kernel; gamma 0.4 and order 2 in public code.
    """
    tables = [
        sum(
            math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * _cosines(rows) ** p
            for p in range(1, CONGRUENCE_ORDER + 1)  # order 0 is the same in both
        )
        for rows in double_pair(student, teacher)
    ]
    return like_inputs(F.mse_loss(*tables), student, teacher)


def _cosines(rows: Tensor) -> Float[Tensor, "samples samples"]:
    with no_autocast(rows):
        return unit(rows) @ unit(rows).T


def _neighbours(rows: Tensor) -> Float[Tensor, "samples samples"]:
    """Log probabilities of each sample's neighbours."""
    kernel = (1 + _cosines(rows)).clamp_min(0) / 2 + MIN_KERNEL
    return kernel.log() - kernel.sum(1, keepdim=True).log()


def _gram_difference(student: Tensor, teacher: Tensor) -> Tensor:
    with no_autocast(student):
        return student @ student.T - teacher @ teacher.T


def _probabilities(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    student, teacher = double_pair(student, teacher)
    return (student / temperature).softmax(1), (teacher / temperature).softmax(1)

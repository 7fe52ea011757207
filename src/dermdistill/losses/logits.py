"""Losses on logits: weighted cross entropy, and distillation of softened probabilities."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dermdistill.losses.precision import at_least_single, double, double_pair, like_inputs

# Logits that deviate less are equal: there is nothing to standardise.
MIN_SPREAD = 1e-7


def cross_entropy_loss(
    logits: Float[Tensor, "samples classes"],
    target: Int[Tensor, " samples"],
    class_weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """Mean cross entropy in nats, each sample counted by the weight of its class.

    Rare classes are weighted up and the sum is divided by the weights of the batch, so that the
    scale does not depend on which classes a batch happens to hold.

    Args:
        logits: unnormalised scores.
        target: class of each sample, in [0, classes).
        class_weights: at least 0 each; None counts every sample once.

    Returns:
        At least 0; 0 where every sample is certain and right, or where no sample counts.

    Source: SSD-KD (arXiv:2203.11490), the term L_WCE; the official code weights by
        N_total / N_class of the training fold.
    """
    (logits,) = at_least_single(logits)
    if class_weights is None:
        class_weights = logits.new_ones(logits.shape[1])
    class_weights = class_weights.to(logits)
    total = F.cross_entropy(logits, target, class_weights, reduction="sum")
    # The smallest normal number only matters where the sum of weights is 0, as the total is then.
    return total / class_weights[target].sum().clamp_min(torch.finfo(logits.dtype).tiny)


def kd_loss(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Divergence in nats of the student's softened probabilities from the teacher's, times T^2.

    The factor T^2 keeps the gradient's size nearly independent of the temperature.

    Args:
        student_logits: unnormalised scores.
        teacher_logits: unnormalised scores; they receive no gradient.
        temperature: > 0; the higher, the more the wrong classes' relations count.

    Returns:
        At least 0; 0 where both agree up to a constant a sample, or where there is no sample.

    Source: Hinton et al. 2015 (arXiv:1503.02531); summed over classes, mean over samples.
    """
    each = softened_divergences(student_logits, teacher_logits, temperature)
    loss = each.sum() * (temperature**2 / max(len(each), 1))
    return like_inputs(loss, student_logits, teacher_logits)


def softened_divergences(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    temperature: float,
) -> Float[Tensor, " samples"]:
    """KL(teacher || student) in nats of each sample's softened probabilities, in float64.

    In float32 the terms of a small divergence cancel to something below 0. The teacher receives no
    gradient; T^2 is not in it.
    """
    student, teacher = (
        (logits / temperature).log_softmax(1)
        for logits in double_pair(student_logits, teacher_logits)
    )
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)


def enhanced_kd_loss(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    target: Int[Tensor, " samples"],
    power: float,
    temperature: float,
) -> Float[Tensor, ""]:
    """`kd_loss` on the teacher's probabilities with the true class enhanced, in nats times T^2.

    The targets are w = (p_T + [true class])^power - [true class]: above power 1 the true class
    gains, and the less likely of the others fade. They no longer sum to 1, and the loss is
    W KL(w / W || p_S), W their sum: the public code's cross entropy of w, less what it is at best.

    Args:
        student_logits: unnormalised scores.
        teacher_logits: unnormalised scores; they receive no gradient.
        target: class of each sample, in [0, classes).
        power: at least 0; at 1 this is `kd_loss`.
        temperature: > 0.

    Returns:
        At least 0; 0 where the student's probabilities are w / W.

    Source: OFA-KD (arXiv:2310.19444), the adaptive target enhancement, as in its public code.
    """
    student, teacher = double_pair(student_logits, teacher_logits)
    true = F.one_hot(target, student.shape[1])
    wanted = ((teacher / temperature).softmax(1) + true).pow(power) - true
    total = wanted.sum(1, keepdim=True).clamp_min(torch.finfo(wanted.dtype).tiny)
    reached = (student / temperature).log_softmax(1)
    loss = (torch.xlogy(wanted, wanted / total) - wanted * reached).sum()
    loss = loss * (temperature**2 / max(len(student), 1))
    return like_inputs(loss, student_logits, teacher_logits)


def standardise_logits(
    logits: Float[Tensor, "samples classes"], ratio: float
) -> Float[Tensor, "samples classes"]:
    """Logits with each sample's mean at 0, divided by its standard deviation to the power ratio.

    At 1 they are z-scores: how far a network spreads its logits no longer matters, only how they
    lie to each other. At 0 they are returned as they are, which has the same probabilities as
    taking the mean away, so the ratio leads from one to the other: a temperature of T sd^ratio.

    Args:
        logits: unnormalised scores.
        ratio: in [0, 1].

    Returns:
        In at least float32; 0 without a gradient where all of a sample's logits are equal.

    Source: Sun et al. 2024 (arXiv:2403.01427), algorithm 1; the deviation has classes - 1 in its
        divisor, as in the public code.
    """
    if ratio == 0:
        return logits
    wide = double(logits)
    centred = wide - wide.mean(1, keepdim=True)
    square = centred.square().sum(1, keepdim=True) / max(logits.shape[1] - 1, 1)
    spread = square > MIN_SPREAD**2
    scaled = torch.where(spread, centred, 0) / torch.where(spread, square, 1).pow(ratio / 2)
    return like_inputs(scaled, logits)

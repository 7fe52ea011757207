"""Losses on parts of the softened probabilities.

A share is the probability of a set of classes. For every partition of the classes,
KL(teacher || student) is the divergence of the shares, plus the divergence inside each set times
the teacher's share of it. The methods here weigh these parts anew.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dermdistill.losses.precision import double_pair, like_inputs


def target_kd_loss(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    target: Int[Tensor, " samples"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Divergence in nats of the shares of the true class and of all others, times T^2.

    It tells how hard the teacher finds a sample.

    Args:
        student_logits: unnormalised scores.
        teacher_logits: unnormalised scores; they receive no gradient.
        target: class of each sample, in [0, classes).
        temperature: > 0.

    Returns:
        At least 0; 0 where both give the true class the same probability.

    Source: DKD (arXiv:2203.08679), TCKD of equation 7.
    """
    student, teacher = _softened(student_logits, teacher_logits, temperature)
    own = _one_hot(target, student)
    divergence = _divergence(_two_shares(student, own), _two_shares(teacher, own))
    return like_inputs(temperature**2 * _mean(divergence), student_logits, teacher_logits)


def nontarget_kd_loss(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    target: Int[Tensor, " samples"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Divergence in nats among the classes that are not the true one, times T^2.

    In plain distillation it counts less the surer the teacher is; here it always counts wholly.

    Args:
        student_logits: unnormalised scores.
        teacher_logits: unnormalised scores; they receive no gradient.
        target: class of each sample, in [0, classes).
        temperature: > 0.

    Returns:
        At least 0; 0 where both agree on the other classes, and for two classes.

    Source: DKD (arXiv:2203.08679), NCKD of equation 7.
    """
    student, teacher = _softened(student_logits, teacher_logits, temperature)
    divergence = _inside(student, teacher, ~_one_hot(target, student))
    return like_inputs(temperature**2 * _mean(divergence), student_logits, teacher_logits)


def confidence_kd_loss(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    target: Int[Tensor, " samples"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Divergence in nats of the student's share of the true class from the teacher's top share.

    Where the teacher is wrong, its confidence is handed on, not its class. Times T^2.

    Args:
        student_logits: unnormalised scores.
        teacher_logits: unnormalised scores; they receive no gradient.
        target: class of each sample, in [0, classes).
        temperature: > 0.

    Returns:
        At least 0; 0 where the student gives the true class what the teacher gives its first.

    Source: RLD (arXiv:2408.07703), sample confidence distillation.
    """
    student, teacher = _softened(student_logits, teacher_logits, temperature)
    divergence = _divergence(
        _two_shares(student, _one_hot(target, student)),
        _two_shares(teacher, _one_hot(teacher.argmax(1), teacher)),
    )
    return like_inputs(temperature**2 * _mean(divergence), student_logits, teacher_logits)


def masked_kd_loss(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    target: Int[Tensor, " samples"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Divergence in nats among the classes that the teacher ranks below the true one, times T^2.

    What it ranks above the true class is its error; that and the true class are left out.

    Args:
        student_logits: unnormalised scores.
        teacher_logits: unnormalised scores; they receive no gradient.
        target: class of each sample, in [0, classes).
        temperature: > 0.

    Returns:
        At least 0; 0 where both agree on those classes, or where they are fewer than two.

    Source: RLD (arXiv:2408.07703), masked correlation distillation.
    """
    student, teacher = _softened(student_logits, teacher_logits, temperature)
    divergence = _inside(student, teacher, teacher < teacher.gather(1, target[:, None]))
    return like_inputs(temperature**2 * _mean(divergence), student_logits, teacher_logits)


def group_kd_loss(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    groups: Int[Tensor, " classes"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Divergence in nats of the shares of groups of classes, the teacher's rebalanced, times T^2.

    Each of the teacher's shares is divided by its sum over the batch and the sample's shares are
    scaled back to 1, so that a teacher who prefers a group everywhere stops preferring it.

    Args:
        student_logits: unnormalised scores.
        teacher_logits: unnormalised scores; they receive no gradient.
        groups: the group of each class, such as frequent, medium and rare.
        temperature: > 0.

    Returns:
        At least 0; 0 where the student's shares are the teacher's rebalanced ones.

    Source: LTKD (arXiv:2506.18496), the rebalanced cross-group loss; our reading.
    """
    student, teacher = _softened(student_logits, teacher_logits, temperature)
    student, teacher = (
        torch.stack([_log_share(logits, groups == group) for group in groups.unique()], dim=1)
        for logits in (student, teacher)
    )
    balanced = (teacher - teacher.logsumexp(0)).log_softmax(1)
    loss = temperature**2 * _mean(_divergence(student, balanced))
    return like_inputs(loss, student_logits, teacher_logits)


def within_group_kd_loss(
    student_logits: Float[Tensor, "samples classes"],
    teacher_logits: Float[Tensor, "samples classes"],
    groups: Int[Tensor, " classes"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Sum over groups of classes of the divergence in nats inside the group, times T^2.

    In plain distillation each counts by the teacher's share of the group; here all count alike.

    Args:
        student_logits: unnormalised scores.
        teacher_logits: unnormalised scores; they receive no gradient.
        groups: the group of each class, such as frequent, medium and rare.
        temperature: > 0.

    Returns:
        At least 0; 0 where both agree inside every group, or where each has one class.

    Source: LTKD (arXiv:2506.18496), the reweighted within-group loss; our reading.
    """
    student, teacher = _softened(student_logits, teacher_logits, temperature)
    divergence = sum(_inside(student, teacher, groups == group) for group in groups.unique())
    return like_inputs(temperature**2 * _mean(divergence), student_logits, teacher_logits)


def _softened(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    student, teacher = double_pair(student, teacher)
    return student / temperature, teacher / temperature


def _one_hot(target: Tensor, logits: Tensor) -> Bool[Tensor, "samples classes"]:
    return F.one_hot(target, logits.shape[1]).bool()


def _only(logits: Tensor, classes: Tensor) -> Tensor:
    """The logits of some classes; the others so low that their probability is exactly 0."""
    # Not -inf: 0 times it is no number. Halved, so that differences of two stay finite.
    return logits.masked_fill(~classes, torch.finfo(logits.dtype).min / 2)


def _log_share(logits: Tensor, classes: Tensor) -> Float[Tensor, " samples"]:
    """Log probability of a set of classes, exact also where it is close to 0 or 1."""
    return _only(logits, classes).logsumexp(1) - logits.logsumexp(1)


def _two_shares(logits: Tensor, classes: Tensor) -> Float[Tensor, "samples 2"]:
    return torch.stack([_log_share(logits, classes), _log_share(logits, ~classes)], dim=1)


def _inside(student: Tensor, teacher: Tensor, classes: Tensor) -> Float[Tensor, " samples"]:
    """Divergence among some classes; 0 where they are fewer than two."""
    student, teacher = (_only(logits, classes).log_softmax(1) for logits in (student, teacher))
    return _divergence(student, teacher)


def _divergence(student: Tensor, teacher: Tensor) -> Float[Tensor, " samples"]:
    """KL(teacher || student) of rows of log probabilities."""
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)


def _mean(divergences: Tensor) -> Tensor:
    return divergences.sum() / max(len(divergences), 1)

"""Losses on feature maps and embeddings: their values, or what each says by itself."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dermdistill.losses.precision import (
    at_least_single,
    double,
    double_pair,
    like_inputs,
    no_autocast,
)
from dermdistill.losses.similarities import unit

# Least variance that features are divided by: SRD's batch norm, and VID's Gaussian.
MIN_BATCH_VARIANCE = 1e-4
MIN_VARIANCE = 1e-5


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


def same_size(
    student_map: Float[Tensor, "samples student_channels student_rows student_cols"],
    teacher_map: Float[Tensor, "samples teacher_channels teacher_rows teacher_cols"],
) -> tuple[Float[Tensor, "samples _ rows cols"], Float[Tensor, "samples _ rows cols"]]:
    """Both maps at the smaller one's size, by averages, in float32 or wider."""
    size = tuple(map(min, student_map.shape[2:], teacher_map.shape[2:]))
    student_map, teacher_map = at_least_single(student_map, teacher_map.detach())
    return F.adaptive_avg_pool2d(student_map, size), F.adaptive_avg_pool2d(teacher_map, size)


def attention_loss(
    student_map: Float[Tensor, "samples student_channels student_rows student_cols"],
    teacher_map: Float[Tensor, "samples teacher_channels teacher_rows teacher_cols"],
) -> Float[Tensor, ""]:
    """Mean squared difference of the attention maps, each at length 1.

    Attention is the channels' mean square at every place, so the networks' widths need not agree.

    Args:
        student_map: any size; the larger of both is averaged to the smaller one's.
        teacher_map: it receives no gradient.

    Returns:
        In [0, 2 / places]; 0 where both look at the same places.

    Source: AT (arXiv:1612.03928), equation 2; squared and averaged as in the public code.
    """
    maps = same_size(student_map, teacher_map)
    attention = [unit(double(one.square().mean(1).flatten(1))) for one in maps]
    return like_inputs(F.mse_loss(*attention), student_map, teacher_map)


def selectivity_loss(
    student_map: Float[Tensor, "samples student_channels student_rows student_cols"],
    teacher_map: Float[Tensor, "samples teacher_channels teacher_rows teacher_cols"],
) -> Float[Tensor, ""]:
    """Maximum mean discrepancy of the channels' selectivity, squared; mean over samples.

    A channel is a unit vector over the places. Of unit vectors a, the mean of (a b)^2 over all
    pairs is the product of the two [places places] means of a a', so that the loss is the squared
    difference of these means and needs no [channels channels] table.

    Args:
        student_map: any size; the larger of both is averaged to the smaller one's.
        teacher_map: it receives no gradient.

    Returns:
        In [0, 2]; 0 where the channels select alike, whatever their number and order.

    Source: NST (arXiv:1707.01219), the polynomial kernel with d = 2 and c = 0.
    """
    student, teacher = (_selectivity(one) for one in same_size(student_map, teacher_map))
    loss = (student - teacher).square().sum((1, 2)).mean()
    return like_inputs(loss, student_map, teacher_map)


def variational_loss(
    mean: Float[Tensor, "samples channels rows cols"],
    variance: Float[Tensor, " channels"],
    teacher_map: Float[Tensor, "samples channels rows cols"],
) -> Float[Tensor, ""]:
    """Negative log likelihood in nats of the teacher's map under a Gaussian, without its constant.

    Args:
        mean: what the student's map predicts.
        variance: of each channel, above 0; below 1e-5 it counts as that.
        teacher_map: it receives no gradient.

    Returns:
        At least log(1e-5) / 2; at variance 1 half the mean squared difference.

    Source: VID (arXiv:1904.05835), the Gaussian q(t|s) with one variance a channel.
    """
    mean, variance, teacher_map = at_least_single(mean, variance, teacher_map.detach())
    variance = variance[None, :, None, None].expand_as(mean)
    return F.gaussian_nll_loss(mean, teacher_map, variance, eps=MIN_VARIANCE)


def log_power_loss(
    student: Float[Tensor, "samples width"], teacher: Float[Tensor, "samples width"]
) -> Float[Tensor, ""]:
    """log(1 + the sum of the 4th powers of the differences), both normalised over the batch.

    The logarithm keeps the few large differences from ruling; the 1, which the paper has not,
    keeps the loss above 0 and its gradient finite where student and teacher agree.

    Args:
        student: the student's embeddings behind its projector.
        teacher: the teacher's; they receive no gradient.

    Returns:
        At least 0; 0 where both agree up to each feature's scale and offset, and for one sample.

    Source: SRD (arXiv:2303.11098), the log-sum distance, power 4 as in the public code.
    """
    normal = []
    for rows in double_pair(student, teacher):
        variance, middle = torch.var_mean(rows, 0, correction=0, keepdim=True)
        normal.append((rows - middle) / (variance + MIN_BATCH_VARIANCE).sqrt())
    return like_inputs((normal[0] - normal[1]).pow(4).sum().log1p(), student, teacher)


def normalised_l1_loss(
    student: Float[Tensor, "samples width"], teacher: Float[Tensor, "samples width"]
) -> Float[Tensor, ""]:
    """Mean smooth L1 difference of the student's embeddings from the teacher's, layer-normalised.

    Args:
        student: the student's embeddings behind its projector.
        teacher: the teacher's; each is brought to mean 0 and variance 1; no gradient.

    Returns:
        At least 0; 0 where the student's are the teacher's normalised ones.

    Source: VkD (arXiv:2403.06213), layer norm and smooth L1 as in its public code.
    """
    student, teacher = at_least_single(student, teacher.detach())
    return F.smooth_l1_loss(student, F.layer_norm(double(teacher), teacher.shape[1:]).to(student))


def _selectivity(maps: Tensor) -> Float[Tensor, "samples places places"]:
    """Mean over the channels of a a', a the channel's unit vector over the places."""
    channels = unit(double(maps.flatten(2)))
    with no_autocast(maps):
        return channels.mT @ channels / maps.shape[1]

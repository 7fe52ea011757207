"""Losses on relations: between samples (RKD) and between a sample's channels (Gram).

The published forms build [samples samples width] and [samples channels channels] tensors. These
are the same functions through [samples samples] and [positions positions] matrices.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dermdistill.losses.precision import at_least_single, double, no_autocast

# The official code clamps squared distances at 1e-12: equal rows are this far apart.
MIN_DISTANCE = 1e-6
# Rows nearer than this have no direction between them (as in torch's normalize).
MIN_LENGTH = 1e-12
# Numbers in one block. Time hardly depends on them while the machine is idle; on a busy one every
# further block costs the threads another meeting. 1 MB of cosines, 16 MB of features in float32.
ANGLES_A_BLOCK = 2**17
FEATURES_A_BLOCK = 2**22


def rkd_distance_loss(
    student: Float[Tensor, "samples student_width"],
    teacher: Float[Tensor, "samples teacher_width"],
) -> Float[Tensor, ""]:
    """How differently student and teacher space the samples, in squared mean distances.

    Distances are divided by their mean, so neither scale nor width of the embeddings matters.

    Args:
        student: embeddings.
        teacher: embeddings of the same samples; they receive no gradient.

    Returns:
        At least 0; 0 where one set of distances is a multiple of the other, and for one sample.

    Source: RKD (arXiv:1904.05068), distance-wise loss; smooth L1, mean over all ordered pairs, the
        diagonal among them, as in the official SSD-KD code.
    """
    loss = F.smooth_l1_loss(_mean_distances(student), _mean_distances(teacher.detach()))
    return loss.to(at_least_single(student, teacher)[0].dtype)


def rkd_angle_loss(
    student: Float[Tensor, "samples student_width"],
    teacher: Float[Tensor, "samples teacher_width"],
) -> Float[Tensor, ""]:
    """How differently student and teacher see the angle that samples j, k subtend at a sample i.

    The cosine follows from the three distances of a triangle, so the embeddings' width costs
    nothing beyond the distances: O(samples^2 width + samples^3) time, O(samples^2) memory.

    Args:
        student: embeddings.
        teacher: embeddings of the same samples; they receive no gradient.

    Returns:
        In [0, 1.5]; 0 where every triangle has the same angles, and for one sample.

    Source: RKD (arXiv:1904.05068), angle-wise loss; smooth L1, mean over all ordered triplets,
        degenerate ones (cosine 0, or 1 where j = k) among them, as in the official SSD-KD code.
    """
    loss = _AngleLoss.apply(_Distances.apply(double(student)), _distances(teacher.detach()))
    return loss.to(at_least_single(student, teacher)[0].dtype)


def channel_gram_loss(
    student_map: Float[Tensor, "samples channels rows cols"],
    teacher_map: Float[Tensor, "samples channels rows cols"],
) -> Float[Tensor, ""]:
    """Root mean squared difference of the channel Gram matrices F F' / (channels rows cols).

    Which channels fire together tells texture, wherever in the image it is.

    Args:
        student_map: the student's map behind its connector.
        teacher_map: the teacher's map; it receives no gradient.

    Returns:
        At least 0; 0 where all Gram matrices agree. At 0 the root has no gradient; it is set to 0.

    Source: SSD-KD (arXiv:2203.11490), the channel-wise term of the dual relational loss.
    """
    return _GramLoss.apply(student_map.flatten(2), teacher_map.detach().flatten(2))


def _mean_distances(embeddings: Tensor) -> Tensor:
    """Distances of all pairs in units of their mean over the pairs of different samples."""
    samples = len(embeddings)
    same = torch.eye(samples, dtype=torch.bool, device=embeddings.device)
    distances = _distances(embeddings).clamp_min(MIN_DISTANCE).masked_fill(same, 0)
    # Both limits only matter for one sample, which has no pair.
    mean = distances.sum() / max(samples * (samples - 1), 1)
    return distances / mean.clamp_min(MIN_DISTANCE)


def _distances(embeddings: Tensor) -> Tensor:
    return _Distances.apply(double(embeddings))


class _Distances(torch.autograd.Function):
    """Distances of all pairs of rows, from their differences: equal rows are exactly 0 apart.

    The gradient is a matrix product, 0 between equal rows, and builds no [rows rows width].
    """

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        with no_autocast(rows):
            distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
        ctx.save_for_backward(rows, distances)
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        rows, distances = ctx.saved_tensors
        pull = (gradient + gradient.T) * _reciprocal(distances)
        with no_autocast(rows):
            return pull.sum(1, keepdim=True) * rows - pull @ rows


class _AngleLoss(torch.autograd.Function):
    """The angle loss as a function of the distances, a block of vertices at a time.

    Its gradient is made with the value, so that no block of cosines outlives its turn. With d the
    distances, c the cosine at i between j and k: dc/dd_ij = 1/d_ik - c/d_ij, and
    dc/dd_jk = -d_jk / (d_ij d_ik).
    """

    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor) -> Tensor:
        samples = len(student)
        student_inverse, teacher_inverse = _reciprocal(student), _reciprocal(teacher)
        value = student.new_zeros(())
        gradient, opposite = torch.zeros_like(student), torch.zeros_like(student)
        for block in _blocks(samples, samples**2, ANGLES_A_BLOCK):
            cosines = _cosines(student, student_inverse, block)
            error = cosines - _cosines(teacher, teacher_inverse, block)
            slope = error.clamp(-1, 1)
            value += torch.vdot(slope.flatten(), error.sub_(slope, alpha=0.5).flatten())
            inverse = student_inverse[block]
            bend = (slope * cosines).sum(2) * inverse
            gradient[block] = 2 * (torch.einsum("ijk,ik->ij", slope, inverse) - bend)
            opposite += torch.einsum("ij,ijk,ik->jk", inverse, slope, inverse)
        gradient -= opposite * student
        ctx.save_for_backward(gradient / samples**3)
        return value / samples**3

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.saved_tensors[0], None


class _GramLoss(torch.autograd.Function):
    """The Gram loss of [samples channels positions] maps, from [positions positions] matrices.

    With D = S - T for a sample, S S' - T T' = D S' + T D', hence
    |S S' - T T'|^2 = <D'D, S'S + T'T> + 2 <D'T, S'D>, exact also where S is near T, where the
    shorter |S'S|^2 + |T'T|^2 - 2 |S'T|^2 cancels. The gradient in S is 4 (D S'S + T D'S).
    """

    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor) -> Tensor:
        samples, channels, positions = student.shape
        square = double(student.new_zeros(()))
        for_difference, for_teacher = [], []
        for block in _blocks(samples, channels * positions, FEATURES_A_BLOCK):
            difference, base = _difference(student[block], teacher[block])
            with no_autocast(student):
                dd, dt, tt = (double(a.mT @ b) for a, b in _pairs(difference, base))
            ds = dt + dd
            ss = tt + dt.mT + ds
            square += (dd * (ss + tt)).sum() + 2 * (dt * ds.mT).sum()
            for_difference.append(ss)
            for_teacher.append(ds)
        numbers = samples * channels**2
        # Rounding may leave a square below 0 where the Gram matrices agree and the maps do not.
        root = (square.clamp_min(0) / numbers).sqrt()
        size = channels * positions
        # The root has no gradient at 0; of its subgradients 0 is the one that stays there.
        ctx.slope = torch.where(root > 0, 2 / (numbers * size * root), 0)
        ctx.save_for_backward(student, teacher, torch.cat(for_difference), torch.cat(for_teacher))
        return (root / size).to(difference.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        student, teacher, for_difference, for_teacher = ctx.saved_tensors
        scale = ctx.slope * gradient
        result = torch.empty_like(student)
        for block in _blocks(len(student), student[0].numel(), FEATURES_A_BLOCK):
            difference, base = _difference(student[block], teacher[block])
            left = (for_difference[block] * scale).to(difference.dtype)
            right = (for_teacher[block] * scale).to(difference.dtype)
            with no_autocast(student):
                result[block] = (difference @ left).baddbmm_(base, right)
        return result, None


def _difference(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Student minus teacher, and the teacher, in float32 or wider."""
    student, teacher = at_least_single(student, teacher)
    return student - teacher, teacher


def _pairs(a: Tensor, b: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    return (a, a), (a, b), (b, b)


def _cosines(distances: Tensor, inverse: Tensor, block: slice) -> Tensor:
    """Cosines [vertices samples samples] of the angles at a block of vertices, 0 where degenerate.

    The law of cosines. It cancels where one side is far shorter than the others, which is why the
    distances come in float64.
    """
    squares = distances.square()
    sides = squares[block, :, None] + squares[block, None, :] - squares
    return sides.mul_(inverse[block, :, None]).mul_(inverse[block, None, :] / 2)


def _reciprocal(distances: Tensor) -> Tensor:
    """1 / distance, 0 where there is no direction between two rows."""
    return torch.where(distances > MIN_LENGTH, 1 / distances, 0)


def _blocks(samples: int, numbers_each: int, numbers_a_block: int) -> list[slice]:
    """Slices over the samples, each of at most so many numbers, or of one sample."""
    step = max(numbers_a_block // max(numbers_each, 1), 1)
    return [slice(start, start + step) for start in range(0, samples, step)]

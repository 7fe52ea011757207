"""Losses on views: what a sample seen under several rotations tells about itself."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dermdistill.losses.logits import kd_loss
from dermdistill.losses.precision import at_least_single, double, no_autocast
from dermdistill.losses.similarities import unit


def view_similarity(
    embeddings: Float[Tensor, "images views width"],
) -> Float[Tensor, "images*(views-1) images"]:
    """Cosine of every rotated view to every image's upright view.

    Args:
        embeddings: view 0 is upright.

    Returns:
        In [-1, 1]; row i * (views - 1) + v - 1 is view v of image i, column j is image j upright.
        0 where an embedding is (nearly) 0.

    Source: SSD-KD (arXiv:2203.11490), the self-supervised term.
    """
    with no_autocast(embeddings):
        directions = unit(double(embeddings))
        similarity = directions[:, 1:].flatten(0, 1) @ directions[:, 0].mT
    return similarity.to(at_least_single(embeddings)[0].dtype)


def own_images(similarity: Float[Tensor, "rows images"]) -> Int[Tensor, " rows"]:
    """Which image each row of a view similarity is a view of: the column that ought to win."""
    rows, images = similarity.shape
    return torch.arange(images, device=similarity.device).repeat_interleave(rows // images)


def view_contrast_loss(similarity: Float[Tensor, "rows images"]) -> Float[Tensor, ""]:
    """Cross entropy in nats of finding every rotated view's own image by its cosines.

    The pretext task that teaches the teacher's projection head; no temperature.

    Args:
        similarity: of `view_similarity`.

    Returns:
        At least 0 (cosines end at 1, so with several images it stays above 0).

    Source: SSD-KD (arXiv:2203.11490), stage 1.
    """
    (similarity,) = at_least_single(similarity)
    return F.cross_entropy(similarity, own_images(similarity))


def kept_rows(
    scores: Float[Tensor, "rows classes"],
    target: Int[Tensor, " rows"],
    keep_ratio: float,
) -> Int[Tensor, " kept"]:
    """Rows whose scores are trusted: all that are right, and the less wrong of the others.

    A row's rank is the place of its target among its scores, 0 at the top; among equal scores
    the first column comes first, among rows of equal rank the first row is kept. So what is kept
    never depends on a sorting algorithm.

    Args:
        scores: the teacher's, one row a view.
        target: the column that ought to win in each row.
        keep_ratio: share in [0, 1] of the wrong rows that is kept, rounded down.

    Returns:
        Indices of the kept rows, ascending; every row at ratio 1.

    Source: SSD-KD's official code, whose sort is not stable.
    """
    own = scores.gather(1, target[:, None])
    columns = torch.arange(scores.shape[1], device=scores.device)
    ahead = (scores > own) | ((scores == own) & (columns < target[:, None]))
    rank = ahead.sum(1)
    wrong = int((rank > 0).sum())
    dropped = wrong - int(wrong * keep_ratio)
    return rank.argsort(stable=True)[: len(rank) - dropped].sort().values


def trusted_kd_loss(
    student_logits: Float[Tensor, "rows classes"],
    teacher_logits: Float[Tensor, "rows classes"],
    target: Int[Tensor, " rows"],
    temperature: float,
    keep_ratio: float,
) -> Float[Tensor, ""]:
    """`kd_loss` over the rows in which the teacher is not too wrong, in nats.

    Args:
        student_logits: unnormalised scores.
        teacher_logits: unnormalised scores; they receive no gradient.
        target: the column that ought to win in each row.
        temperature: > 0.
        keep_ratio: share in [0, 1] of the teacher's wrong rows that is kept.

    Returns:
        At least 0; 0 where both agree on all kept rows, or where none is kept.

    Source: SSD-KD (arXiv:2203.11490), its official code: rotated KD (ratio 1) and the
        self-supervised term (ratio 0.75).
    """
    rows = kept_rows(teacher_logits, target, keep_ratio)
    return kd_loss(student_logits[rows], teacher_logits[rows], temperature)


def view_kd_loss(
    student_similarity: Float[Tensor, "rows images"],
    teacher_similarity: Float[Tensor, "rows images"],
    temperature: float,
    keep_ratio: float,
) -> Float[Tensor, ""]:
    """Divergence in nats of student from teacher in which image a rotated view belongs to.

    The self-supervised term of SSD-KD. Both similarities have the batch's images as columns, so
    neither model's width nor its classes matter.

    Args:
        student_similarity: of `view_similarity`.
        teacher_similarity: of `view_similarity`; it receives no gradient.
        temperature: > 0; the paper's is 0.5.
        keep_ratio: share in [0, 1] of the teacher's wrong rows that is kept; the paper's is 0.75.

    Returns:
        At least 0; 0 where both agree on all kept rows, or where none is kept.

    Source: SSD-KD (arXiv:2203.11490), the term L_SS.
    """
    own = own_images(teacher_similarity)
    return trusted_kd_loss(student_similarity, teacher_similarity, own, temperature, keep_ratio)

"""One step shared by several processes, with the losses of one.

Every process computes the networks on its share of the batch; then the taps are gathered, so that
the terms see the whole batch and no method knows how many processes there are. Each process then
computes the same loss, and its gradient reaches its own share of the taps alone.
"""

from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from dermdistill.errors import ConfigError
from dermdistill.methods import Lesson
from dermdistill.types import Taps


def own_share(chosen: np.ndarray, rank: int, processes: int) -> np.ndarray:
    """The part of a batch's positions that one process computes: equal shares, in order."""
    each = len(chosen) // processes
    return chosen[rank * each : (rank + 1) * each]


def check_shares(batch_size: int, images: int, processes: int) -> int:
    """The batch size of all processes together, if it can be shared out.

    Raises:
        ConfigError: it is no multiple of the processes.
    """
    size = min(batch_size, images)
    if size % processes:
        raise ConfigError(
            f"fit.batch_size is {size}, which {processes} processes cannot share equally; it is "
            f"that of all processes together, so choose a multiple of {processes}"
        )
    return size


def any_process(wish: bool) -> bool:
    """Whether any process wishes it; all processes ask at the same moment.

    Told between the processors, so no GPU has to be waited for.
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return wish
    wishes = torch.tensor(int(wish))
    dist.all_reduce(wishes, dist.ReduceOp.MAX)
    return bool(wishes)


class _Gather(torch.autograd.Function):
    """Rows of all processes in their order; backwards, the own rows' gradient.

    Every process computes the same loss from the same rows, so nothing is exchanged backwards.
    The average that follows over all processes' gradients divides by their number, hence the
    factor; modules behind the gathering have the whole gradient everywhere and keep it so.
    """

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        ctx.own = slice(dist.get_rank() * len(rows), (dist.get_rank() + 1) * len(rows))
        shares = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, rows)
        return torch.cat(shares)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient[ctx.own] * dist.get_world_size()


def gather(rows: Shaped[Tensor, "own *rest"]) -> Shaped[Tensor, "all *rest"]:
    """The rows of all processes, in the order of the processes, with gradient to the own ones."""
    return _Gather.apply(rows)


def together(lesson: Lesson) -> Lesson:
    """The lesson of the whole batch, from every process's share of it.

    The images and their ids stay the own share: no term looks at pixels.
    """
    batch = lesson.batch._replace(
        target=gather(lesson.batch.target), rows=gather(lesson.batch.rows)
    )
    return replace(
        lesson,
        batch=batch,
        student=None if lesson.student is None else _gather_taps(lesson.student),
        teachers=tuple(map(_gather_taps, lesson.teachers)),
        peers=tuple(map(_gather_taps, lesson.peers)),
    )


def _gather_taps(taps: Taps) -> Taps:
    return Taps(
        gather(taps.map), gather(taps.embedding), gather(taps.logits),
        tuple(map(gather, taps.stages)), tuple(map(gather, taps.norms)),
    )  # fmt: skip

"""What a checkpoint holds, and how a training takes it up again."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from dermdistill.errors import RunError
from dermdistill.train.checkpoint import CHECKPOINT, load_checkpoint

WRONG = (KeyError, TypeError, ValueError, RuntimeError, AttributeError)  # what foreign states cause


@dataclass
class Progress:
    """Where a training stands; plain numbers, saved with every checkpoint."""

    epoch: int = 0
    step: int = 0  # in all epochs together
    best_figure: float = math.inf  # of the watched figure, turned so that less is better
    best_epoch: int = -1
    stale_epochs: int = 0
    history_lines: int = 0
    wall_s: float = 0.0
    finished: bool = False


@runtime_checkable
class Stateful(Protocol):
    """A module, an optimiser, a schedule: whatever can be put down and taken up again."""

    def state_dict(self) -> dict[str, Any]:
        """All that changes, as plain values and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Continue where that stood."""


def state_of(
    parts: dict[str, Stateful], progress: Progress, sums: dict[str, Tensor]
) -> dict[str, Any]:
    """All that a training needs to continue, as plain values and tensors."""
    state = {name: part.state_dict() for name, part in parts.items()}
    return state | {"progress": vars(progress), "sums": sums}


def restore(folder: Path, parts: dict[str, Stateful]) -> tuple[Progress, dict[str, Tensor]]:
    """Fill the parts from a run's checkpoint, if it has one; return progress and sums.

    Raises:
        RunError: no checkpoint is readable, or it is of another training.
    """
    state = load_checkpoint(folder)
    if state is None:
        return Progress(), {}
    try:
        progress, sums = Progress(**state["progress"]), dict(state["sums"])
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except WRONG as error:
        said = " ".join(str(error).split())[:300]
        raise RunError(
            f"{folder / CHECKPOINT} is whole, but no state of this training "
            f"({type(error).__name__}: {said}): another version or another run wrote "
            "it. Continue with the version that wrote it, or delete the checkpoints to start this "
            "stage again"
        ) from error
    return progress, sums

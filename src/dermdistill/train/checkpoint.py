"""Whole training states on disk: written to a temporary name, read without pickles."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dermdistill.errors import RunError
from dermdistill.run import atomic_write

CHECKPOINT = "checkpoint.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the run's checkpoint by this state."""
    with atomic_write(folder / CHECKPOINT) as temporary:
        torch.save(state, temporary)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state that a killed run left, None if it left none.

    Raises:
        RunError: the file is broken, or holds more than plain values and tensors.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise RunError(
            f"{path} is no readable checkpoint ({str(error)[:200]}); delete the file to start "
            "this stage again"
        ) from error


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write named tensors as safetensors, whole or not at all."""
    with atomic_write(path) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in weights.items()}, temporary)

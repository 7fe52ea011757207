"""Whole training states on disk: written to a temporary name, read without pickles."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dermdistill.errors import RunError
from dermdistill.run import atomic_write

CHECKPOINT = "checkpoint.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the run's checkpoint by this state.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    with _unwritten(folder / CHECKPOINT), atomic_write(folder / CHECKPOINT) as temporary:
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
    except Exception as error:  # torch's reader answers garbage with errors of every kind
        raise RunError(
            f"{path} is no readable checkpoint ({str(error)[:200]}); delete the file to start "
            "this stage again"
        ) from error


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write named tensors as safetensors, whole or not at all.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    with _unwritten(path), atomic_write(path) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in weights.items()}, temporary)


@contextlib.contextmanager
def _unwritten(path: Path) -> Iterator[None]:
    """Both writers have errors of their own for a full disk, which are no OSError."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        raise RunError(
            f"cannot write {path}: {str(error)[:200]}; what stood there before is untouched. Free "
            "the disk, then run the same command again"
        ) from error

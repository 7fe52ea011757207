"""Whole training states on disk: written to a temporary name, read without pickles."""

import contextlib
import os
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dermdistill.errors import RunError
from dermdistill.models.weights import DIGEST, digest_tensors
from dermdistill.run import atomic_write

CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint-previous.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the run's checkpoint by this state; the one before stays beside it.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    with unwritten(folder / CHECKPOINT), atomic_write(folder / CHECKPOINT, PREVIOUS) as temporary:
        torch.save(state, temporary)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state that a killed run left, None if it left none.

    A broken checkpoint is replaced by the one before it, with a warning: a run is a function of
    its seed, so the steps between are done again and come out the same.

    Raises:
        RunError: no checkpoint is readable, or they hold more than plain values and tensors.
    """
    paths = [folder / name for name in (CHECKPOINT, PREVIOUS) if (folder / name).exists()]
    reasons = []
    for path in paths:
        try:
            state = _read(path)
        except Exception as error:  # torch's reader answers garbage with errors of every kind
            reasons.append(f"{path} is no readable checkpoint ({str(error)[:200]})")
            continue
        if reasons:
            warnings.warn(f"{reasons[0]}; training continues from the one before", stacklevel=2)
            os.replace(path, folder / CHECKPOINT)
        return state
    if not paths:
        return None
    this, it = ("the file", "it") if len(paths) == 1 else ("both files", "them")
    raise RunError(
        f"{'; '.join(reasons)}. Restore {this}, or delete {it} to start this stage again"
    )


def delete_checkpoints(folder: Path) -> None:
    """Leave nothing to continue from."""
    for name in (PREVIOUS, CHECKPOINT):
        (folder / name).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()  # torch's reader does not look at the checksums
    if broken:
        raise ValueError(f"the checksum of {broken} is wrong")
    return torch.load(path, map_location="cpu", weights_only=True)


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write named tensors with their digest as safetensors, whole or not at all.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    tensors = {name: value.cpu().contiguous() for name, value in weights.items()}
    with unwritten(path), atomic_write(path) as temporary:
        save_file(tensors, temporary, {DIGEST: digest_tensors(tensors)})


@contextlib.contextmanager
def unwritten(path: Path) -> Iterator[None]:
    """Tell a full disk as a RunError: torch and safetensors have errors of their own for it."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        raise RunError(
            f"cannot write {path}: {str(error)[:200]}; what stood there before is untouched. Free "
            "the disk, then run the same command again"
        ) from error

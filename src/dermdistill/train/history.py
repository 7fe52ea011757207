"""The history that files keep of a training."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from dermdistill.errors import RunError
from dermdistill.run import HISTORY


class History:
    """The history file and TensorBoard, cut back to where a resumed run continues.

    Args:
        folder: the run directory.
        lines: lines of the history to keep.
        step: step that the run continues at.
    """

    def __init__(self, folder: Path, lines: int, step: int):
        self.path = folder / HISTORY
        self.lines = lines
        with self._disk_errors_told():
            self.path.touch()
            kept = self.path.read_bytes().splitlines(keepends=True)[:lines]
            # Cut, not written anew: a kill in between would lose every line.
            os.truncate(self.path, sum(map(len, kept)))
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)

    def add(self, record: dict[str, Any]) -> None:
        """Append one line, and its numbers as TensorBoard scalars."""
        part, step = record["split"], record["step"]
        with self._disk_errors_told():
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            self.lines += 1
            for name, value in (record | record.get("terms", {})).items():
                if isinstance(value, float):
                    self.board.add_scalar(f"{part}/{name}", value, step)

    def close(self) -> None:
        """Flush TensorBoard's events."""
        with self._disk_errors_told():
            self.board.close()

    @contextlib.contextmanager
    def _disk_errors_told(self) -> Iterator[None]:
        """A line that a full disk cuts off is cut away when the run continues."""
        try:
            yield
        except OSError as error:
            raise RunError(f"cannot write the history in {self.path.parent}: {error.strerror}; no "
                           "checkpoint is lost. Free the disk, then run the same command "
                           "again") from error  # fmt: skip


class NoHistory:
    """What other processes than the first keep of a shared training: nothing."""

    lines = 0

    def add(self, record: dict[str, Any]) -> None:
        """The first process writes it."""

    def close(self) -> None:
        """There is nothing to close."""

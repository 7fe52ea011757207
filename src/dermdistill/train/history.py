"""The history that files keep of a training."""

import json
import os
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

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
        self.path.touch()
        kept = self.path.read_bytes().splitlines(keepends=True)[:lines]
        # Cut, not written anew: a kill in between would lose every line.
        os.truncate(self.path, sum(map(len, kept)))
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step if step else None)

    def add(self, record: dict[str, Any]) -> None:
        """Append one line, and its numbers as TensorBoard scalars."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.lines += 1
        part, step = record["split"], record["step"]
        for name, value in (record | record.get("terms", {})).items():
            if isinstance(value, float):
                self.board.add_scalar(f"{part}/{name}", value, step)

    def close(self) -> None:
        """Flush TensorBoard's events."""
        self.board.close()

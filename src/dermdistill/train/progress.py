"""What a person sees of a training, and the history that files keep of it."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from dermdistill.errors import RunError
from dermdistill.run import HISTORY

QUIET_INTERVAL_S = 30  # between lines where there is no terminal to draw a bar on


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


class Display:
    """A bar with losses by name and time left on a terminal, a line now and then elsewhere.

    Args:
        title: what is trained.
        total: steps in all.
        done: steps that an earlier process did.
        shown: False shows nothing.
    """

    def __init__(self, title: str, total: int, done: int, shown: bool):
        self.title, self.total, self.step_now, self.first = title, total, done, done
        self.shown = shown
        self.started = self.spoke = time.monotonic()
        console = Console(stderr=True)
        self.bar = None
        if shown and console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TimeRemainingColumn(), TextColumn("{task.fields[losses]}"), console=console,
            )  # fmt: skip
            self.bar.start()
            self.task = self.bar.add_task(title, total=total, completed=done, losses="")

    def step(self, losses: dict[str, float]) -> None:
        """One batch is done; `losses` are the latest means by name (may be empty)."""
        self.step_now += 1
        text = " ".join(f"{name} {value:.3g}" for name, value in losses.items())
        if self.bar is not None:
            self.bar.update(self.task, advance=1, **({"losses": text} if text else {}))
        elif self.shown and text and time.monotonic() - self.spoke > QUIET_INTERVAL_S:
            self.say(f"step {self.step_now}/{self.total}, {self._left()} left: {text}")

    def say(self, text: str) -> None:
        """A line that stays."""
        self.spoke = time.monotonic()
        if self.bar is not None:
            self.bar.console.print(f"{self.title}: {text}", highlight=False)
        elif self.shown:
            print(f"{self.title}: {text}", file=sys.stderr, flush=True)

    def _left(self) -> str:
        pace = (time.monotonic() - self.started) / max(1, self.step_now - self.first)
        minutes, seconds = divmod(round(pace * (self.total - self.step_now)), 60)
        return f"{minutes}:{seconds:02d}"

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bar is not None:
            self.bar.stop()

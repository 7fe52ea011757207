"""What a person sees of a long computation: a bar with the time left, or a line now and then."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

QUIET_INTERVAL_S = 30  # between lines where there is no terminal to draw a bar on


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

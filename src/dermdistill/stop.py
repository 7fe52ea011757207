"""SIGTERM, by which schedulers announce the end: what was done is saved, then the process ends."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from dermdistill.errors import TerminatedError

# What shells, Slurm, Kubernetes and systemd read as "ended by SIGTERM, as it was told".
EXIT_TERMINATED = 128 + signal.SIGTERM


@contextlib.contextmanager
def sigterm(react: Callable[[], None]) -> Iterator[None]:
    """Let a function answer SIGTERM while the block runs.

    Outside the main thread the block runs as it is: signals never arrive there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: react())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def end_now() -> None:
    """Answer SIGTERM at once: right wherever files are whole or absent and work can be done again.

    Raises:
        TerminatedError: always.
    """
    raise TerminatedError("ended by SIGTERM; the same command continues it")


class Stop:
    """Answers SIGTERM after the step that is being done, or at once where nothing can be lost."""

    def __init__(self) -> None:
        self.asked = False
        self._anywhere = False

    def ask(self) -> None:
        """SIGTERM came."""
        self.asked = True
        if self._anywhere:
            end_now()

    def check(self) -> None:
        """End here if it came.

        Raises:
            TerminatedError: it came.
        """
        if self.asked:
            end_now()

    @contextlib.contextmanager
    def anywhere(self) -> Iterator[None]:
        """End anywhere inside the block: it may take minutes and changes no state."""
        self.check()
        self._anywhere = True
        try:
            yield
        finally:
            self._anywhere = False

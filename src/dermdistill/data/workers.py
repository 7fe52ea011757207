"""Worker processes that outlive nobody."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from dermdistill.errors import DataError


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes (spawned: no threads or locks are inherited).

    Raises:
        DataError: a worker was killed.
    """
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_parent)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise DataError("a worker process died: killed, for want of memory perhaps, or started by "
                        "a script that is not guarded by `if __name__ == \"__main__\"`; run again "
                        "with workers=1") from error  # fmt: skip
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Let a worker end when its parent is killed; by itself it would wait for work for ever."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()

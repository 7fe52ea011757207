"""Processes that decode images: one that takes too long or breaks is ended, and another begins.

A thread cannot be stopped, and a library in C that a hostile file breaks takes its process along.
A process of its own can be ended, and takes nothing along.
"""

import asyncio
import multiprocessing
import os
import queue
import signal
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import numpy as np
from jaxtyping import UInt8

from dermdistill.bundle.manifest import Preprocessing
from dermdistill.serve.door import read_image
from dermdistill.serve.limits import Limits, RefusedError

FRESH = multiprocessing.get_context("spawn")  # no thread or lock of the server is inherited
READY = b"ready"


class Decoder:
    """One process; asked by one thread at a time.

    Args:
        spec: what the model takes.
        limits: bounds.
    """

    def __init__(self, spec: Preprocessing, limits: Limits):
        self.spec, self.limits = spec, limits
        self._start()

    def read(self, body: bytes) -> UInt8[np.ndarray, "px px 3"]:
        """As `read_image`.

        Raises:
            RefusedError: as `read_image`; 422 it took too long, or the process did not survive it.
        """
        if not self.process.is_alive():  # ended from outside, for want of memory perhaps
            self._replace()
        try:
            if not self._ready:  # its start is no part of the time that an image may take
                self._ready = self._pipe.recv_bytes() == READY
            self._pipe.send_bytes(body)
            if not self._pipe.poll(self.limits.decode_seconds):
                self._replace()
                raise _slow(self.limits.decode_seconds)
            found = self._pipe.recv()
        except (EOFError, OSError):
            self._replace()
            raise RefusedError(422, "no_image", "the image cannot be decoded: it broke the "
                                                "decoder") from None  # fmt: skip
        if isinstance(found, tuple):
            raise RefusedError(*found)
        return found

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self._pipe.close()

    def _start(self) -> None:
        self._pipe, theirs = FRESH.Pipe()
        self.process = FRESH.Process(
            target=_work, args=(theirs, self.spec, self.limits), daemon=True
        )
        self.process.start()
        theirs.close()
        self._ready = False

    def _replace(self) -> None:
        self.close()
        self._start()


def _slow(seconds: float) -> RefusedError:
    return RefusedError(422, "slow_image", f"decoding the image took more than {seconds:g} seconds")


def _work(pipe: Connection, spec: Preprocessing, limits: Limits) -> None:
    """What the process does until the server closes the pipe, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the server ends what is inside
    pipe.send_bytes(READY)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries' warnings are no lines of the log
    while True:
        try:
            body = pipe.recv_bytes()
        except EOFError:
            return
        try:
            pipe.send(read_image(spec, body, limits))
        except RefusedError as refusal:
            pipe.send((refusal.status, refusal.code, refusal.message))


class Decoders:
    """Several of them before one queue.

    Args:
        count: how many.
        spec: what the model takes.
        limits: bounds.
    """

    def __init__(self, count: int, spec: Preprocessing, limits: Limits):
        self.all = [Decoder(spec, limits) for _ in range(count)]
        self._seconds, self._turn = limits.decode_seconds, asyncio.Semaphore(count)
        self._threads = ThreadPoolExecutor(count, "decode")
        self._free: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
        for decoder in self.all:
            self._free.put(decoder)

    async def read(self, body: bytes) -> UInt8[np.ndarray, "px px 3"]:
        """As `Decoder.read`.

        Raises:
            RefusedError: as there; 429 none was free for as long as an image may take.
        """
        try:
            await asyncio.wait_for(self._turn.acquire(), self._seconds)
        except TimeoutError:
            raise RefusedError(429, "busy", "all decoders are at work; try again later") from None
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._read, body)
        finally:
            self._turn.release()

    def close(self) -> None:
        """End all processes."""
        self._threads.shutdown()
        for decoder in self.all:
            decoder.close()

    def _read(self, body: bytes) -> np.ndarray:
        decoder = self._free.get()
        try:
            return decoder.read(body)
        finally:
            self._free.put(decoder)

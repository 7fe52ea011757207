"""Processes that decode images: one that takes too long or breaks is ended, and another begins.

A thread cannot be stopped, and a library in C that a hostile file breaks takes its process along.
A process of its own can be ended, and takes nothing along. The server's event loop speaks with it
itself: threads that did so would fight the model's thread for the interpreter. What it says is
pixels or a refusal as JSON: a process that an image took over can make the server run nothing.
"""

import asyncio
import json
import multiprocessing
import os
import signal
import socket
import struct

import numpy as np
from jaxtyping import UInt8

from dermdistill.bundle.manifest import Preprocessing
from dermdistill.serve.door import read_image
from dermdistill.serve.limits import Limits, RefusedError

FRESH = multiprocessing.get_context("spawn")  # no thread or lock of the server is inherited
LENGTH = struct.Struct("!I")  # before each message: a file's bytes in; READY, or an answer, out
READY, PIXELS, REFUSAL = b"ready", b"p", b"r"  # the latter two begin an answer


class Decoder:
    """One process, asked one image at a time.

    Args:
        spec: what the model takes.
        limits: bounds.
    """

    def __init__(self, spec: Preprocessing, limits: Limits):
        self.spec, self.limits = spec, limits
        self._start()

    async def read(self, body: bytes) -> UInt8[np.ndarray, "px px 3"]:
        """As `read_image`.

        Raises:
            RefusedError: as `read_image`; 422 it took too long, or the process did not survive it.
        """
        if not self.process.is_alive():  # ended from outside, for want of memory perhaps
            self._replace()
        seconds = self.limits.decode_seconds
        try:
            if self._stream is None:  # its start is no part of the time that an image may take
                self._stream = await asyncio.open_connection(sock=self._ours)
                await self._hear()
            async with asyncio.timeout(seconds):
                self._stream[1].write(LENGTH.pack(len(body)) + body)
                return self._pixels(await self._hear())
        except TimeoutError:
            self._replace()
            message = f"decoding the image took more than {seconds:g} seconds"
            raise RefusedError(422, "slow_image", message) from None
        except (EOFError, OSError, ValueError):
            self._replace()
            message = "the image cannot be decoded: it broke the decoder"
            raise RefusedError(422, "no_image", message) from None
        except asyncio.CancelledError:  # it is in the middle of an answer that nobody reads
            self._replace()
            raise

    def _pixels(self, answer: bytes) -> UInt8[np.ndarray, "px px 3"]:
        kind, content = answer[:1], answer[1:]
        if kind == REFUSAL:
            status, code, message = json.loads(content)
            raise RefusedError(status, code, message)
        side = self.spec.px
        return np.frombuffer(content, np.uint8).reshape(side, side, 3)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        if self._stream:
            self._stream[1].close()
        self._ours.close()

    async def _hear(self) -> bytes:
        reader = self._stream[0]
        (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        return await reader.readexactly(length)

    def _start(self) -> None:
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._ours, theirs = socket.socketpair()
        work = (theirs, self.spec, self.limits)
        self.process = FRESH.Process(target=_work, args=work, daemon=True)
        self.process.start()
        theirs.close()

    def _replace(self) -> None:
        self.close()
        self._start()


def _work(theirs: socket.socket, spec: Preprocessing, limits: Limits) -> None:
    """What the process does until the server closes the connection, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the server ends what is inside
    stream = theirs.makefile("rwb")

    def say(content: bytes) -> None:
        stream.write(LENGTH.pack(len(content)) + content)
        stream.flush()

    say(READY)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries' warnings are no lines of the log
    while head := stream.read(LENGTH.size):
        body = stream.read(*LENGTH.unpack(head))
        try:
            say(PIXELS + read_image(spec, body, limits).tobytes())
        except RefusedError as refusal:
            say(REFUSAL + json.dumps([refusal.status, refusal.code, refusal.message]).encode())


class Decoders:
    """Several of them before one queue.

    Args:
        count: how many.
        spec: what the model takes.
        limits: bounds.
    """

    def __init__(self, count: int, spec: Preprocessing, limits: Limits):
        self.all = [Decoder(spec, limits) for _ in range(count)]
        self._seconds = limits.decode_seconds
        self._free: asyncio.Queue[Decoder] = asyncio.Queue()
        for decoder in self.all:
            self._free.put_nowait(decoder)

    async def read(self, body: bytes) -> UInt8[np.ndarray, "px px 3"]:
        """As `Decoder.read`.

        Raises:
            RefusedError: as there; 429 none was free for as long as an image may take.
        """
        try:
            async with asyncio.timeout(self._seconds):
                decoder = await self._free.get()
        except TimeoutError:
            raise RefusedError(429, "busy", "all decoders are at work; try again later") from None
        try:
            return await decoder.read(body)
        finally:
            self._free.put_nowait(decoder)

    def close(self) -> None:
        """End all processes."""
        for decoder in self.all:
            decoder.close()

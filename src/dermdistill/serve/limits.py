"""How much the server takes at once, and how it refuses more."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one server.

    Args:
        body_bytes: of one image file.
        batch_bytes: of a request with many images, which are base64 there.
        batch_images: in such a request.
        pixels: of one image.
        scans: passes over the pixels that a JPEG may ask for; cameras write 1, progressive ones
            about 10, and each costs what decoding the whole image costs.
        waiting: images that are being read, decoded or answered; more are refused with 429.
        batches: requests with many images at a time.
        together: images that the model is asked about at once.
        body_seconds: for a whole body to arrive.
        decode_seconds: for an image to be decoded, and at most to wait for its turn before.
        header_seconds: for a connection to say what it wants.
        idle_seconds: for which a connection may stay open without a request.
        shutdown_seconds: for running requests to end after a signal.
    """

    body_bytes: int = 12_000_000
    batch_bytes: int = 96_000_000
    batch_images: int = 256
    pixels: int = 40_000_000
    scans: int = 100
    waiting: int = 32
    batches: int = 2
    together: int = 8
    body_seconds: float = 15.0
    decode_seconds: float = 10.0
    header_seconds: float = 10.0
    idle_seconds: int = 15
    shutdown_seconds: int = 10


class RefusedError(Exception):
    """A request that is answered with an error of the caller's own making.

    Args:
        status: of HTTP, 400 to 499.
        code: a word for programs.
        message: a sentence for people; never a path, never the caller's own text.
    """

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message

    @property
    def body(self) -> dict[str, dict[str, str]]:
        """What is sent."""
        return {"error": {"code": self.code, "message": self.message}}


class Gate:
    """Lets a number of callers in and refuses the next at once: a full queue helps nobody.

    Args:
        most: callers inside.
    """

    def __init__(self, most: int):
        self.most, self.inside = most, 0

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Be inside for the block.

        Raises:
            RefusedError: 429, it is full.
        """
        if self.inside >= self.most:
            raise RefusedError(429, "busy", "too many requests are running; try again in a second")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

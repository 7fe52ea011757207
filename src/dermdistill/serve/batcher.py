"""Micro-batching: whoever waits while the model works is answered together next time."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8

from dermdistill.bundle import Answers, Runtime


class Batcher:
    """One model with a queue before it.

    No image waits for others to come: a batch is whatever queued up while the last one ran, so an
    idle server answers at once and a busy one in large batches.

    Args:
        runtime: the model; asked from one thread, one batch at a time.
        most: images in a batch.
        told: called with the size of every batch.
    """

    def __init__(
        self, runtime: Runtime, most: int, told: Callable[[int], None] = lambda size: None
    ):
        self.runtime, self.most, self.told = runtime, most, told
        self._waiting: asyncio.Queue[tuple[np.ndarray, asyncio.Future]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "model")
        self._task: asyncio.Task | None = None

    async def start(self) -> None:
        """Begin to answer, in the running event loop."""
        self._task = asyncio.create_task(self._serve())

    async def stop(self) -> None:
        """End; nobody may be waiting any more."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown()

    async def ask(self, pixels: UInt8[np.ndarray, "px px 3"]) -> Answers:
        """The answers to one image; fields without the axis of images."""
        answer: asyncio.Future = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((pixels, answer))
        return await answer

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self.most and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            batch = [one for one in batch if not one[1].done()]  # whoever hung up
            if batch:
                await self._answer(loop, batch)

    async def _answer(self, loop, batch: list[tuple[np.ndarray, asyncio.Future]]) -> None:
        self.told(len(batch))
        stack = np.stack([pixels for pixels, _ in batch])
        try:
            found = await loop.run_in_executor(self._thread, self.runtime.predict, stack)
        except Exception as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for place, (_, answer) in enumerate(batch):
            if not answer.done():
                answer.set_result(Answers(*(None if one is None else one[place] for one in found)))

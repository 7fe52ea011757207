"""Micro-batching: whoever waits while the model works is answered together next time."""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8

from dermdistill.bundle import Answers, Runtime

Asked = tuple[np.ndarray, asyncio.Future]


class Batcher:
    """One model with a queue before it, in a thread that never waits for the event loop.

    No image waits for others to come: a batch is whatever queued up while the last one ran, so an
    idle server answers at once and a busy one in large batches.

    Args:
        runtime: the model; asked one batch at a time.
        most: images in a batch.
        told: called with the size of every batch, from the model's thread.
    """

    def __init__(
        self, runtime: Runtime, most: int, told: Callable[[int], None] = lambda size: None
    ):
        self.runtime, self.most, self.told = runtime, most, told
        self._waiting: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="model", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End; nobody may be waiting any more."""
        self._waiting.put(None)
        self._thread.join()

    async def ask(self, pixels: UInt8[np.ndarray, "px px 3"]) -> Answers:
        """The answers to one image; fields without the axis of images."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.put((pixels, answer))
        return await answer

    def _serve(self) -> None:
        batch: list[Asked | None] = []
        while None not in batch:
            batch = [self._waiting.get()]
            while len(batch) < self.most and not self._waiting.empty():  # nobody else takes any
                batch.append(self._waiting.get())
            asked = [one for one in batch if one and not one[1].done()]  # not of who hung up
            if asked:
                self._answer(asked)

    def _answer(self, asked: list[Asked]) -> None:
        self.told(len(asked))
        loop = asked[0][1].get_loop()
        try:
            found = self.runtime.predict(np.stack([pixels for pixels, _ in asked]))
        except Exception as error:
            loop.call_soon_threadsafe(_fail, asked, error)
        else:
            loop.call_soon_threadsafe(_deliver, asked, found)


def _deliver(asked: Sequence[Asked], found: Answers) -> None:
    for place, (_, answer) in enumerate(asked):
        if not answer.done():
            answer.set_result(Answers(*(None if one is None else one[place] for one in found)))


def _fail(asked: Sequence[Asked], error: Exception) -> None:
    for _, answer in asked:
        if not answer.done():
            answer.set_exception(error)

"""How long a person waits: the first answer over 10 Mbit/s, later answers, and bytes loaded.

    python benchmarks/app_speed.py BUNDLE IMAGE [IMAGE ...]

Real headless Chromium. For the first load it has no cache and no service worker, and reaches
`dermdistill serve` through a relay that passes 10 Mbit/s with 20 ms a way; the clock runs from
opening the page until the answer to an image that is chosen as soon as the page takes one.
Exit 1 above 3 s, above a median of 150 ms later, or above 7 MB until the app also works offline.
"""

import asyncio
import contextlib
import statistics
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import Visit, chromium, server

BYTES_A_SECOND, ONE_WAY_S = 10e6 / 8, 0.02
MOST_FIRST_S, MOST_LATER_MS, MOST_MB = 3.0, 150.0, 7.0
COLD_LOADS = 5
# When the answer stands, since the page was opened; a locator would look twice a second.
WATCH = """new MutationObserver(() => {
    if (document.querySelector("#view-image .bars li")) window.answered ??= performance.now();
}).observe(document, { childList: true, subtree: true });"""


class Relay:
    """A line to a server: one rate for all its connections together, and a delay.

    Args:
        address: of the server.
    """

    def __init__(self, address: str):
        self.target, self.received, self.free_at = urlsplit(address), 0, 0.0
        self.loop, ready = asyncio.new_event_loop(), threading.Event()

        async def listen() -> None:
            listening = await asyncio.start_server(self._connect, "127.0.0.1", 0)
            self.address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            ready.set()

        self.loop.create_task(listen())
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        ready.wait()

    async def _connect(self, reader, writer) -> None:
        there = await asyncio.open_connection(self.target.hostname, self.target.port)
        up = asyncio.create_task(self._pass(reader, there[1], counted=False))
        await self._pass(there[0], writer, counted=True)
        up.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await up

    async def _pass(self, reader, writer, counted: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(8192):
                start = max(self.loop.time(), self.free_at)
                if counted:
                    self.received += len(data)
                    self.free_at = start + len(data) / BYTES_A_SECOND
                await asyncio.sleep(max(0, start - self.loop.time()))
                self.loop.call_later(ONE_WAY_S, writer.write, data)
        self.loop.call_later(ONE_WAY_S, writer.close)


def first(running, address: str, image: Path) -> tuple[float, float]:
    """Seconds until the first answer of a cold load, and megabytes until it works offline."""
    relay = Relay(address)
    visit = Visit(running, relay.address)
    visit.context.add_init_script(WATCH)
    visit.page.goto(relay.address, wait_until="commit")
    visit.ask(image)
    seconds = visit.page.evaluate("answered") / 1000
    visit.page.wait_for_selector('html[data-ready="offline"]', timeout=60_000)
    visit.close()
    return seconds, relay.received / 1e6


def later(running, address: str, images: list[Path]) -> list[float]:
    """Milliseconds that the page shows for each image: decoding, resizing and the model."""
    visit = Visit(running, address)
    visit.open()
    times = []
    for image in images:
        visit.ask(image)
        times.append(float("".join(filter(str.isdigit, visit.page.locator(".time").inner_text()))))
    visit.close()
    return times


def main() -> int:
    """Measure and judge."""
    bundle, *images = map(Path, sys.argv[1:])
    with chromium() as running, server(bundle) as address:
        cold = [first(running, address, images[0]) for _ in range(COLD_LOADS)]
        times = later(running, address, images)
    seconds, size = statistics.median(one[0] for one in cold), max(one[1] for one in cold)
    print(f"first answer: median {seconds:.2f} s of {[round(one[0], 2) for one in cold]}, "
          f"{size:.2f} MB")  # fmt: skip
    print(f"later answers: median {statistics.median(times):.0f} ms, slowest {max(times):.0f} ms, "
          f"{len(times)} images")  # fmt: skip
    return int(seconds > MOST_FIRST_S or statistics.median(times) > MOST_LATER_MS or size > MOST_MB)


if __name__ == "__main__":
    sys.exit(main())

"""A real browser before a real server; tests that need one skip where there is none."""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import pytest

from dermdistill.app.site import PAGE, STATIC

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
]  # fmt: skip
COMMAND = "import sys; from dermdistill.cli import main; sys.exit(main())"
APP = Path(__file__).parents[1] / "app"
AXE = APP / "node_modules/axe-core/axe.min.js"

built = pytest.mark.skipif(not (STATIC / PAGE).exists(), reason="`make app` did not build the app")
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@contextlib.contextmanager
def chromium() -> Iterator["Browser"]:
    """A headless Chromium; playwright's, so that whoever needs no browser needs no playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@contextlib.contextmanager
def server(bundle: Path, *options: str, **environment: str) -> Iterator[str]:
    """`dermdistill serve` as a process of its own; yields its address, and ends it by a signal."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "serve", str(bundle), "--port", "0", *options],
        stderr=subprocess.PIPE, text=True, env=os.environ | environment,
    )  # fmt: skip
    try:
        for line in process.stderr:
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if event["event"] == "listening":
                    # Its log is read on, or it would wait for a reader once the pipe is full.
                    threading.Thread(target=_drain, args=[process.stderr], daemon=True).start()
                    yield f"http://{event['host']}:{event['port']}"
                    break
        else:
            raise AssertionError("the server did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
        process.stderr.close()


def _drain(lines: TextIO) -> None:
    for _ in lines:
        pass


@contextlib.contextmanager
def plain_host(folder: Path) -> Iterator[str]:
    """A web server that knows nothing of us; yields its address."""
    answer = functools.partial(QuietHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), answer) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{host.server_port}"
        host.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    """Files, and no line a request."""

    def log_message(self, *_) -> None:
        """Say nothing."""


class Visit:
    """A newcomer's page at an address, with all that went wrong or elsewhere on record.

    Nothing is kept between two visits: each has a cache, a storage and service workers of its own.

    Args:
        chromium: the browser.
        address: of the server, or of a file.
        size: of the window.
        options: of a browser context ("color_scheme", ...).
    """

    def __init__(self, chromium: "Browser", address: str, size: tuple[int, int] = (1440, 900),
                 **options):  # fmt: skip
        self.address = address
        self.context = chromium.new_context(
            viewport={"width": size[0], "height": size[1]}, **{"locale": "en-GB"} | options
        )
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page = self.context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _hear(self, message) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def open(self, view: str = "image", ready: str = "offline") -> None:
        """The page, once model and service worker stand."""
        self.page.goto(f"{self.address}/#{view}")
        self.page.wait_for_selector(f'html[data-ready="{ready}"]', timeout=120_000)

    def ask(self, image: Path, slot: str = "#view-image") -> dict[str, float]:
        """Choose an image and wait for the answer's probabilities."""
        slot = self.page.locator(slot)
        if slot.locator(".work").is_visible():
            slot.get_by_text("Another image").click()
        slot.locator("input[type=file]").set_input_files(image)
        return self.answer(slot)

    def answer(self, slot) -> dict[str, float]:
        """The probabilities that a slot shows."""
        slot.locator(".bars li").first.wait_for(timeout=60_000)
        return slot.locator(".bars li").evaluate_all(
            "rows => Object.fromEntries(rows.map(r => [r.dataset.class, +r.dataset.probability]))"
        )

    def elsewhere(self) -> list[str]:
        """Requests to any other origin."""
        own = (self.address, "blob:" + self.address, "data:")
        return [url for url in self.requests if not url.startswith(own)]

    def violations(self) -> list[str]:
        """What axe-core finds against WCAG 2.2 AA and its best practices."""
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate(
            "axe.run({runOnly: ['wcag2a','wcag2aa','wcag21a','wcag21aa','wcag22aa',"
            "'best-practice']})"
        )
        return [
            f"{one['id']}: {one['help']} {[node['html'][:160] for node in one['nodes'][:3]]}"
            for one in found["violations"]
        ]

    def close(self) -> None:
        """Forget the visit."""
        self.context.close()

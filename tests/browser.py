"""A real browser before a real server; tests that need one skip where there is none."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dermdistill.app.site import PAGE, STATIC

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
]  # fmt: skip
COMMAND = "import sys; from dermdistill.cli import main; sys.exit(main())"
AXE = Path(__file__).parents[1] / "app/node_modules/axe-core/axe.min.js"

built = pytest.mark.skipif(not (STATIC / PAGE).exists(), reason="`make app` did not build the app")
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


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
                    yield f"http://{event['host']}:{event['port']}"
                    break
        else:
            raise AssertionError("the server did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
        process.stderr.close()


class Visit:
    """A browser's page at an address, with all that went wrong or elsewhere on record.

    Args:
        playwright: of `sync_playwright`.
        address: of the server.
        size: of the window.
        options: of a browser context ("color_scheme", ...).
    """

    def __init__(self, playwright, address: str, size: tuple[int, int] = (1440, 900), **options):
        self.address = address
        self.browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        self.context = self.browser.new_context(
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
        """End the browser."""
        self.browser.close()

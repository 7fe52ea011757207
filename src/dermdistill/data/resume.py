"""A download that continues where it was cut, as a downloader for pooch."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dermdistill.errors import DataError

PART, VALIDATOR = ".part", ".part.validator"
CHUNK_BYTES = 1 << 14  # a cut loses what came of the last one: small, so that bad lines get on
TIMEOUT_S = (10, 60)  # to connect, and between two blocks of data
ATTEMPTS = 5  # in a row that brought no new byte; a cut after some progress is no failure
WAIT_S = 1.0  # before the second attempt; doubled each time
PARTIAL, NOT_SATISFIABLE = 206, 416
PASSING = (408, 425, 429, 500, 502, 503, 504)  # status codes that a later attempt may not meet


@dataclass
class Resuming:
    """A downloader for pooch that keeps what arrived and asks for the rest only.

    Args:
        part: where the partial file is kept between attempts and calls.
        report: called with (bytes on disk, bytes in all or None).
    """

    part: Path
    report: Callable[[int, int | None], None] = field(default=lambda done, total: None)

    def __call__(self, url: str, output_file: str, pooch: Any = None) -> None:
        """Fetch `url` to `output_file`.

        Raises:
            DataError: the server refuses, or ATTEMPTS in a row brought nothing new.
        """
        import requests

        failures = 0
        while True:
            before = self._size()
            try:
                if self._attempt(url):
                    break
                cause: Any = "the connection ended early"
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema,
                    requests.exceptions.MissingSchema) as error:  # fmt: skip
                raise DataError(f"{url} is no address: {error}; correct base_url") from error
            except requests.RequestException as error:
                cause = error
            failures = 0 if self._size() > before else failures + 1
            if failures == ATTEMPTS:
                raise DataError(
                    f"{url}: {cause}. {self._size():,} bytes are kept in {self.part}; run the same "
                    "command again, it continues there"
                )
            time.sleep(WAIT_S * 2**failures)
        self._validator.unlink(missing_ok=True)
        os.replace(self.part, output_file)

    @property
    def _validator(self) -> Path:
        return self.part.with_name(self.part.name.removesuffix(PART) + VALIDATOR)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _attempt(self, url: str) -> bool:
        """One request for what is missing; whether the file is whole now."""
        import requests

        have = self._size()
        headers = {"Accept-Encoding": "identity"}  # a range counts the file's own bytes
        if have:
            headers["Range"] = f"bytes={have}-"
            if self._validator.exists():  # a file that was replaced meanwhile starts anew
                headers["If-Range"] = self._validator.read_text()
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            if response.status_code == NOT_SATISFIABLE:
                return self._whole_or_reset(response.headers.get("Content-Range", ""), have)
            if response.status_code in PASSING:
                response.raise_for_status()
            if not response.ok:
                raise DataError(
                    f"{url}: the server says {response.status_code} {response.reason}; check "
                    "base_url, or whether the challenge moved its files"
                )
            resumed = response.status_code == PARTIAL
            if resumed and not response.headers.get("Content-Range", "").startswith(
                f"bytes {have}-"
            ):
                self.part.unlink()
                return False
            return self._receive(response, have if resumed else 0)

    def _whole_or_reset(self, content_range: str, have: int) -> bool:
        """After "range not satisfiable": all is here already, or what is here is not of it."""
        if content_range == f"bytes */{have}":
            return True
        self.part.unlink()
        return False

    def _receive(self, response: Any, have: int) -> bool:
        """Write the body behind the first `have` bytes; whether all announced bytes came."""
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        validator = response.headers.get("ETag", "")
        if validator and not validator.startswith("W/"):  # weak ones promise no equal bytes
            self._validator.write_text(validator)
        else:
            self._validator.unlink(missing_ok=True)
        with open(self.part, "ab" if have else "wb") as file:
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                have += len(chunk)
                self.report(have, total)
        return total is None or have == total


@contextmanager
def download_bar(name: str, progress: bool) -> Iterator[Callable[[int, int | None], None]]:
    """A bar with speed and time left on a terminal, silence elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as Speed

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), Speed(),
               TimeRemainingColumn())  # fmt: skip
    shown = progress and console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)

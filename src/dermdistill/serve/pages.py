"""The site from memory: a path is a key of a dict, so there is no file to be tricked into."""

import gzip
import hashlib
from collections.abc import Mapping
from functools import cached_property

from starlette.requests import Request
from starlette.responses import Response

from dermdistill.app.site import PAGE

TYPES = {
    "html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8", "json": "application/json", "svg": "image/svg+xml",
    "webmanifest": "application/manifest+json", "wasm": "application/wasm", "png": "image/png",
    "md": "text/markdown; charset=utf-8",
}  # fmt: skip
SMALLEST = 1000  # bytes; below it compression gains nothing
FOREVER, ASK_AGAIN = "public, max-age=31536000, immutable", "no-cache"


class Page:
    """One file with its forms of transport.

    Args:
        name: its path.
        content: its bytes.
        packed: the same in brotli, where the build made it.
    """

    def __init__(self, name: str, content: bytes, packed: bytes | None):
        self.content, self.packed = content, packed
        self.suffix = name.rpartition(".")[2]
        # Folders are named after their content; what lies at the top is asked for again.
        self.headers = {
            "Cache-Control": FOREVER if "/" in name else ASK_AGAIN,
            "ETag": f'"{hashlib.sha256(content).hexdigest()[:24]}"',
            "Vary": "Accept-Encoding",
        }

    @cached_property
    def zipped(self) -> bytes:
        """The same in gzip."""
        return gzip.compress(self.content, 6, mtime=0)

    def answer(self, request: Request) -> Response:
        """As the browser accepts it, or 304 where it has it already."""
        if request.headers.get("if-none-match") == self.headers["ETag"]:
            return Response(status_code=304, headers=self.headers)
        accepted = request.headers.get("accept-encoding", "")
        content, headers = self.content, dict(self.headers)
        if self.packed and "br" in accepted:
            content, headers["Content-Encoding"] = self.packed, "br"
        elif "gzip" in accepted and len(self.content) > SMALLEST and self.suffix != "png":
            content, headers["Content-Encoding"] = self.zipped, "gzip"
        kind = TYPES.get(self.suffix, "application/octet-stream")
        return Response(content, media_type=kind, headers=headers)


class Pages:
    """All files of a site.

    Args:
        files: of `build_site`.
    """

    def __init__(self, files: Mapping[str, bytes]):
        self.pages = {
            name: Page(name, content, files.get(f"{name}.br"))
            for name, content in files.items()
            if not name.endswith(".br")
        }

    async def get(self, request: Request) -> Response:
        """The file of a path."""
        page = self.pages.get(request.url.path.removeprefix("/") or PAGE)
        if page is None:
            return Response("not found", 404, media_type="text/plain")
        return page.answer(request)

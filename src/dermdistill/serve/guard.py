"""Around every request: who may ask, what every answer carries, what is told about it."""

import hmac
import time
import traceback
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from dermdistill.app import POLICY
from dermdistill.serve.limits import RefusedError
from dermdistill.serve.metrics import Telemetry

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADER_BYTES = 16_384  # of a request's head
# What needs the token; /healthz is for those who watch the server.
GUARDED = ("/v1/", "/metrics", "/openapi.json")
HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), browsing-topics=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
ENCODED = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


class Guard:
    """ASGI middleware.

    Args:
        app: what answers.
        telemetry: what is told.
        token: whoever uses the API must send it; None on this machine alone.
        local: the server listens on loopback: other host names are a web page's trick (DNS
            rebinding) to reach it.
    """

    def __init__(self, app: Callable[..., Awaitable], telemetry: Telemetry,
                 token: str | None = None, local: bool = True):  # fmt: skip
        self.app, self.telemetry, self.token, self.local = app, telemetry, token, local

    async def __call__(self, scope, receive, send) -> None:
        """As ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def answer(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *ENCODED]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal:
                await JSONResponse(refusal.body, refusal.status)(scope, receive, answer)
            else:
                await self.app(scope, receive, answer)
        except Exception as error:  # Starlette has answered 500 and passes it on to be told
            trace = traceback.format_exception(error)
            self.telemetry.event("error", kind=type(error).__name__, trace=trace)
        finally:
            # The route, never the path: that is the caller's text.
            route = getattr(scope.get("route"), "path", "other")
            self.telemetry.request(scope["method"], route, status, time.perf_counter() - start)

    def _refusal(self, scope) -> RefusedError | None:
        headers, path = Headers(scope=scope), scope["path"]
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADER_BYTES:
            return RefusedError(431, "large_headers", "the headers are too large")
        if self.local and _host(headers.get("host", "")) not in LOOPBACK:
            return RefusedError(403, "wrong_host", "this server answers to localhost alone")
        if path.startswith(GUARDED) and headers.get("sec-fetch-site") == "cross-site":
            return RefusedError(403, "cross_site", "another site's page may not use this server")
        if self.token and path.startswith(GUARDED) and not self._knows(headers):
            return RefusedError(401, "no_token", "send the header `Authorization: Bearer TOKEN`")
        return None

    def _knows(self, headers: Headers) -> bool:
        sent = headers.get("authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(sent.encode(), self.token.encode())


def _host(header: str) -> str:
    """The name in a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()

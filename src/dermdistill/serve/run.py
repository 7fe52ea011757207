"""Start the server: loopback by default, a token for any other address, an end that waits."""

import contextlib
import ipaddress
import os
import secrets
import socket
import sys
from collections.abc import Sequence

from dermdistill.app import build_site
from dermdistill.bundle import Bundle, open_runtime
from dermdistill.errors import ConfigError, TerminatedError, ToolchainError
from dermdistill.serve.limits import Limits

TOKEN_VARIABLE = "DERMDISTILL_TOKEN"
SHORTEST_TOKEN = 16


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def find_token(host: str) -> str | None:
    """The token of the environment.

    Raises:
        ConfigError: other machines reach the address and there is no token, or a short one.
    """
    token = os.environ.get(TOKEN_VARIABLE) or None
    if token is None and is_loopback(host):
        return None
    if token is None or len(token) < SHORTEST_TOKEN:
        raise ConfigError(
            f"{host} may be reached from other machines, so the API needs a token of "
            f"{SHORTEST_TOKEN} or more characters in {TOKEN_VARIABLE}; for example "
            f"{TOKEN_VARIABLE}={secrets.token_urlsafe(24)}"
        )
    return token


def serve(
    path: str | os.PathLike,
    host: str = "127.0.0.1",
    port: int = 8000,
    format_name: str = "onnx",
    browser_formats: Sequence[str] = (),
    threads: int = 1,
    limits: Limits | None = None,
) -> None:
    """Serve a bundle until a signal ends it.

    Args:
        path: the bundle.
        host: an address of this machine.
        port: where it listens; 0 for any free one.
        format_name: the model behind the API.
        browser_formats: what browsers try, as `build_site`.
        threads: how many the model may use.
        limits: bounds of requests; by default those of `Limits`.

    Raises:
        BundleError: the bundle is refused.
        ConfigError: the address needs a token.
        ToolchainError: the server's packages are not installed.
    """
    token, limits = find_token(host), limits or Limits()
    try:
        import uvicorn

        from dermdistill.serve.api import Service, build_api
        from dermdistill.serve.guard import HEADER_BYTES
        from dermdistill.serve.http import BoundedProtocol
        from dermdistill.serve.metrics import Telemetry
    except ModuleNotFoundError as error:
        raise ToolchainError(
            f"the server needs {error.name}, which is not installed: pip install 'dermdistill[app]'"
        ) from error
    bundle, telemetry = Bundle(path), Telemetry(sys.stderr)
    service = Service(bundle, open_runtime(bundle, format_name, threads), limits, telemetry)
    api = build_api(service, build_site(bundle, browser_formats), token, is_loopback(host))
    settings = uvicorn.Config(
        api, host=host, port=port, http=BoundedProtocol.within(limits.header_seconds), ws="none",
        loop="asyncio", access_log=False, log_level="warning", server_header=False,
        timeout_keep_alive=limits.idle_seconds, timeout_graceful_shutdown=limits.shutdown_seconds,
        h11_max_incomplete_event_size=HEADER_BYTES, lifespan="on",
    )  # fmt: skip
    door = settings.bind_socket()
    # Its connections inherit it; asyncio leaves it out here, and each answer would wait 40 ms.
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    door.listen(settings.backlog)  # before it is told, so that nobody who reads it is refused
    address = door.getsockname()[:2]
    telemetry.event("listening", host=address[0], port=address[1], bundle=bundle.digest[:12])
    # uvicorn closes the door, answers what is inside, then passes the signal on: all is done.
    with contextlib.suppress(TerminatedError):
        uvicorn.Server(settings).run(sockets=[door])

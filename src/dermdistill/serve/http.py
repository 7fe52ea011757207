"""uvicorn's HTTP/1.1 with a bound on how long a request's head may take to arrive."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class BoundedProtocol(H11Protocol):
    """One connection. uvicorn itself lets a head that comes byte by byte take forever."""

    header_seconds: float

    @classmethod
    def within(cls, seconds: float) -> type["BoundedProtocol"]:
        """The protocol with this bound; uvicorn makes the connections itself."""
        return type("BoundedProtocol", (cls,), {"header_seconds": seconds})

    def connection_made(self, transport: asyncio.Transport) -> None:
        """As H11Protocol."""
        self._deadline: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """As H11Protocol."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """As H11Protocol."""
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Start the clock where a head is incomplete; stop it where one has arrived."""
        if self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self.transport.abort)

    def _forget(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._deadline = None

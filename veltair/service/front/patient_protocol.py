"""Connections that say nothing, or take for ever to say what they want, are closed.

Uvicorn bounds the time between two requests of a connection only.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# From the first byte of a request, or the connection, to the end of the headers.
HEADERS_S = 10.0


class PatientProtocol(HttpToolsProtocol):
    """Uvicorn's protocol of a connection, with a bound on how long headers may take: `Config(http=…)`."""

    headers_s = HEADERS_S

    def __init__(self, *arguments: Any, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self._limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of the headers."""
        super().on_message_begin()
        if self._limit is None:
            self._wait()

    def on_headers_complete(self) -> None:
        """Wait no more: the body has a bound of its own."""
        self._stop()
        super().on_headers_complete()

    def _wait(self) -> None:
        self._limit = self.loop.call_later(self.headers_s, self._close)

    def _stop(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _close(self) -> None:
        self._limit = None
        if not self.transport.is_closing():
            self.transport.close()

"""One HTTP/1.1 connection that never blocks, and carries one request at a time."""

import errno
import os
import socket
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools

RECEIVED_BYTES = 1 << 18  # at once


class AddressError(ValueError):
    """A URL at which no server can be."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is: a host, a port, and the path before the protocol's own, without a slash behind."""

    host: str
    port: int
    path: str = ""

    @classmethod
    def of(cls, url: str) -> "Address":
        """Return what a URL says. Raises AddressError unless it is `http://HOST[:PORT][/PATH]`."""
        try:
            parts = urlsplit(url)
            port = parts.port or 80
        except ValueError as error:
            raise AddressError(f"{url}: {error}; give http://HOST:PORT") from None
        odd = parts.query or parts.fragment or parts.username or parts.password
        if parts.scheme != "http" or not parts.hostname or odd or not url.isascii() or not url.isprintable():
            raise AddressError(f"{url!r} is no address of a server; give http://HOST:PORT")
        return cls(parts.hostname, port, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """Host and port as the header `Host` has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(slots=True)
class Answer:
    """A response: its code, its headers by name in lower case, and its body."""

    code: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Connection:
    """A connection that is being opened, idle, or has a request under way."""

    def __init__(self, resolved: tuple[Any, ...]) -> None:
        """Begin to connect to an entry of socket.getaddrinfo. Raises OSError where that cannot be begun."""
        family, kind, protocol, _, address = resolved
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.opened = False  # set by who waits for it
        self._unsent = memoryview(b"")
        self._parser = httptools.HttpResponseParser(self)
        self._answer, self._parts, self._whole = Answer(), [b""], False
        self.received = False  # any byte of the answer under way
        self.persists = True  # another request may follow the one that was answered
        code = self._socket.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            self._socket.close()
            raise OSError(code, os.strerror(code))

    def fileno(self) -> int:
        """Return the descriptor, -1 once closed."""
        return self._socket.fileno()

    def check_opened(self) -> None:
        """Raise OSError if the connection could not be made."""
        if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))

    def begin(self, request: bytes) -> bool:
        """Send a request, as far as the connection takes it, and return whether all of it. Raises OSError."""
        self._unsent, self.received = memoryview(request), False
        return self.flush()

    def flush(self) -> bool:
        """Send more of the request, and return whether all of it was sent. Raises OSError."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return False
        return True

    def receive(self) -> Answer | None:
        """Return the answer if its last byte has come.

        Raises ConnectionError if the server closed the connection before, OSError, or ValueError for what is
        no HTTP.
        """
        try:
            data = self._socket.recv(RECEIVED_BYTES)
        except BlockingIOError:
            return None
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection")
        self.received = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise ValueError(f"no HTTP: {error}") from None
        if not self._whole:
            return None
        answer, self._whole = self._answer, False
        answer.body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        return answer

    def close(self) -> None:
        """Close it; a second call does nothing."""
        self._socket.close()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Begin an answer."""
        self._answer, self._parts, self._whole = Answer(), [], False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take in a header."""
        self._answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Take in a part of the body."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Take note that the answer is whole."""
        self._answer.code = self._parser.get_status_code()
        # The parser knows only now.
        self.persists = bool(self._parser.should_keep_alive())
        self._whole = True

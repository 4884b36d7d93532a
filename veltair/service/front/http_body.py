"""Bodies of HTTP requests as they come in: so many bytes, in so much time, as they are."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veltair.service.tenancy.errors import ServiceError, Trouble, bad_request

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
# A body comes at this pace at least, but for so many seconds in all.
LEAST_BYTES_PER_S = 50_000
PATIENCE_S = 10.0
# Of two of these, two readers could mean different ones.
_ONCE = (b"authorization", b"content-length", b"content-encoding", b"inference-header-content-length")


class ClientGoneError(Exception):
    """The client closed its connection before its request was whole."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How slow a client may be: its body comes at this pace at least, but for some seconds in all."""

    least_bytes_per_s: float = LEAST_BYTES_PER_S
    seconds: float = PATIENCE_S

    def of(self, nbytes: int) -> float:
        """Return how long so many bytes may take."""
        return self.seconds + nbytes / self.least_bytes_per_s


class Body:
    """The body of one request, which is read once."""

    def __init__(self, headers: Mapping[bytes, bytes], receive: Receive, patience: Patience) -> None:
        """Begin with nothing read. Raises ServiceError for a compressed body, or a length that is none."""
        self._receive, self._patience = receive, patience
        if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            raise ServiceError(
                Trouble.UNSUPPORTED,
                "Content-Encoding is not taken; send the body as it is",
            )
        self.nbytes = _length(headers.get(b"content-length"))
        self._is_read = not self.nbytes and b"transfer-encoding" not in headers

    @property
    def is_left(self) -> bool:
        """Whether there is a body of which not all was read."""
        return not self._is_read

    def check(self, most_bytes: int) -> None:
        """Raise ServiceError if the body says that it is larger."""
        if self.nbytes is not None and self.nbytes > most_bytes:
            raise _too_large(most_bytes)

    async def read(self, most_bytes: int) -> bytes:
        """Return all of it. Raises ServiceError for more bytes, or if the client is too slow."""
        self.check(most_bytes)
        parts: list[bytes] = []
        await self._each(most_bytes, parts.append)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def save(self, path: Path, most_bytes: int) -> str:
        """Write all of it to a file and return its SHA-256. Raises ServiceError as `read` does."""
        self.check(most_bytes)
        digest = hashlib.sha256()
        with path.open("wb") as stream:

            def take(part: bytes) -> None:
                digest.update(part)
                stream.write(part)

            await self._each(most_bytes, take)
        return digest.hexdigest()

    async def _each(self, most_bytes: int, take: Callable[[bytes], object]) -> None:
        came, start_s = 0, asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._patience.of(0)) as limit:
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    part = message.get("body", b"")
                    came += len(part)
                    if came > most_bytes:
                        raise _too_large(most_bytes)
                    if part:
                        take(part)
                        limit.reschedule(start_s + self._patience.of(came))
                    if not message.get("more_body", False):
                        self._is_read = True
                        return
        except TimeoutError:
            raise ServiceError(Trouble.TOO_SLOW, "the body did not come in time; send it faster") from None

    @contextmanager
    def cancelling_when_gone(self) -> Iterator[Callable[[], None]]:
        """Within the context this task is cancelled when the client closes its connection.

        It is looked for that once the function is called that entering returns: when all of the body is read.
        """
        task = asyncio.current_task()
        assert task is not None
        watches: list[asyncio.Task[None]] = []
        gone = False

        def cancel(watch: asyncio.Task[None]) -> None:
            nonlocal gone
            if not watch.cancelled() and watch.exception() is None:
                gone = True
                task.cancel()

        def begin() -> None:
            watch = asyncio.get_running_loop().create_task(self._until_gone())
            watch.add_done_callback(cancel)
            watches.append(watch)

        try:
            yield begin
        except asyncio.CancelledError:
            if gone and task.uncancel() <= 0:
                raise ClientGoneError from None
            raise
        finally:
            for watch in watches:
                watch.remove_done_callback(cancel)
                watch.cancel()

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def header_fields(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers of a request by name. Raises ServiceError for one of those twice that decide."""
    fields: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in fields and name in _ONCE:
            raise bad_request(f"the header {name.decode('latin-1')} is there twice")
        fields[name] = value
    return fields


def _length(text: bytes | None) -> int | None:
    if text is None:
        return None
    if not text.isdigit() or len(text) > 15:
        raise bad_request("Content-Length is not a whole number")
    return int(text)


def _too_large(most_bytes: int) -> ServiceError:
    return ServiceError(
        Trouble.TOO_LARGE, f"the body is larger than the {most_bytes} bytes that are taken here"
    )

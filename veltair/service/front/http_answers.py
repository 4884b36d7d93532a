"""Paths, codes and bodies of HTTP, to and from what the service knows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from veltair.service.front.http_body import Body, Scope, Send
from veltair.service.keys.tenant_keys import TenantKeys
from veltair.service.tenancy.errors import ServiceError, Trouble
from veltair.wire.datatypes import Buffer

CODES: Mapping[Trouble, int] = MappingProxyType(
    {
        Trouble.BAD_REQUEST: 400,
        Trouble.NO_TENANT: 401,
        Trouble.NOT_FOUND: 404,
        Trouble.TOO_SLOW: 408,
        Trouble.TOO_LARGE: 413,
        Trouble.UNSUPPORTED: 415,
        Trouble.QUOTA: 429,
        Trouble.INTERNAL: 500,
        Trouble.UNAVAILABLE: 503,
        Trouble.LATE: 504,
    }
)
LONGEST_PATH = 1024
JSON = b"application/json"
# Nobody but who asked may keep an answer.
_ALWAYS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its code, its body in parts, what kind that is, and further headers."""

    code: int
    body: Sequence[Buffer] = ()
    kind: bytes = JSON
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a tenant: its method, the parts of its path behind `v2`, its headers and its body."""

    tenant: TenantKeys
    method: str
    parts: tuple[str, ...]
    headers: Mapping[bytes, bytes]
    body: Body


def path_parts(scope: Scope) -> tuple[str, ...]:
    """Return the parts of a path, split before anything in it is decoded, so that no part holds another.

    Raises ServiceError for a path that is too long or no text.
    """
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    if len(path) > LONGEST_PATH:
        raise no_path()
    try:
        parts = tuple(unquote_to_bytes(part).decode() for part in path.split(b"?")[0].split(b"/")[1:])
    except UnicodeDecodeError:
        raise no_path() from None
    return parts[:-1] if parts[-1:] == ("",) else parts


def no_path() -> ServiceError:
    """Return the error of a path or method that nothing is under."""
    return ServiceError(Trouble.NOT_FOUND, "nothing is under this path and method")


def json_reply(values: Any, code: int = 200) -> Reply:
    """Return an answer in JSON."""
    return Reply(code, (msgspec.json.encode(values),))


def failure(error: ServiceError) -> Reply:
    """Return the answer that says why there is none."""
    values: dict[str, Any] = {"error": str(error)}
    headers: list[tuple[bytes, bytes]] = []
    if error.predicted_ms is not None:
        values["predicted_ms"] = round(error.predicted_ms, 3)
    if error.retry_after_s is not None:
        values["retry_after_ms"] = round(error.retry_after_s * 1e3, 3)
        headers.append((b"retry-after", str(max(1, ceil(error.retry_after_s))).encode()))
    if error.trouble is Trouble.NO_TENANT:
        headers.append((b"www-authenticate", b"Bearer"))
    return Reply(CODES[error.trouble], (msgspec.json.encode(values),), JSON, headers)


async def send_reply(send: Send, reply: Reply, *, closes: bool) -> None:
    """Send an answer and, if so asked, let the connection end with it."""
    nbytes = sum(map(len, reply.body))
    headers = [
        (b"content-type", reply.kind), (b"content-length", str(nbytes).encode()), *_ALWAYS, *reply.headers,
    ]  # fmt: skip
    if closes:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.code, "headers": headers})
    last = len(reply.body) - 1
    for number, part in enumerate(reply.body):
        await send({"type": "http.response.body", "body": part, "more_body": number < last})
    if last < 0:
        await send({"type": "http.response.body", "body": b""})

"""The operator's side of the service over HTTP, on an address of its own: metrics and drain.

It shows numbers of all tenants, so no tenant's token opens it.
"""

import hmac
from collections.abc import Mapping
from hashlib import sha256

from veltair.service.front.desk import Desk
from veltair.service.front.http_answers import Reply, failure, json_reply, no_path, path_parts, send_reply
from veltair.service.front.http_body import Receive, Scope, Send, header_fields
from veltair.service.tenancy.errors import ServiceError, Trouble
from veltair.service.tenancy.statistics import prometheus

TEXT = b"text/plain; version=0.0.4; charset=utf-8"


class OperatorFront:
    """`GET /metrics` in Prometheus' format and `POST /admin/drain`."""

    def __init__(self, desk: Desk, token_sha256: str) -> None:
        """`token_sha256` is the SHA-256 of the operator's bearer token in hexadecimal."""
        self._desk, self._digest = desk, token_sha256

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the server's own events need no answer."""
        if scope["type"] != "http":
            return
        try:
            reply = await self._reply(scope["method"], path_parts(scope), header_fields(scope))
        except ServiceError as error:
            reply = failure(error)
        await send_reply(send, reply, closes=True)

    async def _reply(self, method: str, parts: tuple[str, ...], headers: Mapping[bytes, bytes]) -> Reply:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = sha256(token.strip()).hexdigest()
        if not hmac.compare_digest(given, self._digest) or scheme.lower() != b"bearer":
            raise ServiceError(Trouble.NO_TENANT, "give the operator's token: `Authorization: Bearer TOKEN`")
        match method, parts:
            case "GET", ("metrics",):
                return Reply(200, (prometheus(*self._desk.metrics()).encode(),), TEXT)
            case "POST", ("admin", "drain"):
                await self._desk.drain()
                return json_reply({})
        raise no_path()

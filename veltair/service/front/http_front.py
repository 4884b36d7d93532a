"""The service over HTTP: an ASGI application that needs no framework.

It knows paths, headers and codes. What a tenant may do, the desk and the intake say; how tensors are written,
`wire` says.
"""

from collections.abc import Mapping

from veltair.service.front.desk import Desk
from veltair.service.front.http_answers import (
    Call,
    Reply,
    failure,
    json_reply,
    no_path,
    path_parts,
    send_reply,
)
from veltair.service.front.http_body import (
    Body,
    ClientGoneError,
    Patience,
    Receive,
    Scope,
    Send,
    header_fields,
)
from veltair.service.front.http_infer import infer
from veltair.service.front.http_models import model_page
from veltair.service.front.http_repository import RepositoryPages
from veltair.service.front.intake import Intake
from veltair.service.front.model_pages import ModelPages
from veltair.service.tenancy.errors import ServiceError, not_found


class HttpFront:
    """The application that tenants reach."""

    def __init__(self, desk: Desk, intake: Intake, version: str, patience: Patience | None = None) -> None:
        """`version` is the service's own, `patience` how slow a client's body may be."""
        self._desk = desk
        self._pages = ModelPages(desk, version)
        self._repository = RepositoryPages(self._pages, intake)
        self._patience = patience or Patience()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the server's own events need no answer."""
        if scope["type"] != "http":
            return
        body = None
        try:
            headers = header_fields(scope)
            body = Body(headers, receive, self._patience)
            reply = await self._reply(scope, headers, body)
        except ServiceError as error:
            reply = failure(error)
        except ClientGoneError:
            return
        # What is left of a body that nobody wants is not waited for.
        await send_reply(send, reply, closes=body is None or body.is_left)

    async def _reply(self, scope: Scope, headers: Mapping[bytes, bytes], body: Body) -> Reply:
        method, parts = scope["method"], path_parts(scope)
        if parts[:2] == ("v2", "health") and len(parts) == 3 and method == "GET":
            return self._health(parts[2])
        tenant = self._desk.tenant_of(headers.get(b"authorization", b"").decode("latin-1"))
        if parts[:1] == ("tenants",):
            # Whose path it is must be whose token it is.
            if parts[1:2] != (tenant.name,):
                raise not_found()
            parts = parts[2:]
        if parts[:1] != ("v2",):
            raise no_path()
        return await self._answer(Call(tenant, method, parts[1:], headers, body))

    async def _answer(self, call: Call) -> Reply:
        match call.parts:
            case ("models", name, "versions", version, "infer") if call.method == "POST":
                return await infer(self._desk, call, name, version)
            case ("models", name, "infer") if call.method == "POST":
                return await infer(self._desk, call, name, "")
            case ("repository", *parts):
                return await self._repository.answer(call, tuple(parts))
            case _ if call.method == "GET":
                return model_page(self._desk, self._pages, call.tenant, call.parts)
        raise no_path()

    def _health(self, what: str) -> Reply:
        match what:
            case "live":
                return json_reply({})
            case "ready":
                return json_reply({}, code=200 if self._desk.accepts else 503)
        raise no_path()

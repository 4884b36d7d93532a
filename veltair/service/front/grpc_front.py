"""The service over gRPC: the same desk, intake and pages as over HTTP, with the status codes of gRPC.

Messages come in as bytes and are parsed here, so that a wrong one ends in a status that says so.
"""

import hashlib
from collections.abc import AsyncIterator, Mapping
from math import ceil
from types import MappingProxyType
from typing import Any

import grpc
import msgspec
from google.protobuf.message import DecodeError

from veltair.service.front.desk import Desk
from veltair.service.front.grpc_infer import GrpcExchange
from veltair.service.front.grpc_messages import METHODS, SERVICE, message
from veltair.service.front.intake import Intake, too_large
from veltair.service.front.model_pages import ModelPages
from veltair.service.front.repository import finish_load, upload_version
from veltair.service.keys.tenant_keys import TenantKeys
from veltair.service.tenancy.errors import ServiceError, Trouble, bad_request

CODES: Mapping[Trouble, grpc.StatusCode] = MappingProxyType(
    {
        Trouble.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
        Trouble.NO_TENANT: grpc.StatusCode.UNAUTHENTICATED,
        Trouble.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
        Trouble.TOO_SLOW: grpc.StatusCode.DEADLINE_EXCEEDED,
        Trouble.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
        Trouble.UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
        Trouble.QUOTA: grpc.StatusCode.RESOURCE_EXHAUSTED,
        Trouble.INTERNAL: grpc.StatusCode.INTERNAL,
        Trouble.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
        Trouble.LATE: grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
# A message is in memory before anybody can look whose it is; larger models are uploaded over HTTP.
MOST_BYTES = 64 << 20
OPTIONS = (
    ("grpc.max_receive_message_length", MOST_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a bomb is small while it is compressed
    ("grpc.so_reuseport", 0),
)
OPEN = ("ServerLive", "ServerReady")


class GrpcFront(grpc.GenericRpcHandler):  # type: ignore[misc]  # it has no types
    """Handles all calls of the protocol's service; give it to `grpc.aio.server`."""

    def __init__(self, desk: Desk, intake: Intake, version: str) -> None:
        """`version` is the service's own."""
        self._desk, self._intake, self._pages = desk, intake, ModelPages(desk, version)

    def service(self, details: Any) -> Any:
        """Return how a call is handled; None for one that is not of the protocol."""
        service, _, method = details.method.removeprefix("/").partition("/")
        if service != SERVICE:
            return None
        if method == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self._stream)
        if method not in METHODS:
            return None
        handler = getattr(self, f"_{method}")

        async def answer(content: bytes, context: Any) -> bytes:
            try:
                tenant = None if method in OPEN else self._tenant(context)
                return bytes(
                    (await handler(tenant, _parsed(f"{method}Request", content), context)).SerializeToString()
                )
            except ServiceError as error:
                await context.abort(CODES[error.trouble], str(error), _trailing(error))
                raise

        return grpc.unary_unary_rpc_method_handler(answer)

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answer one request after the other; what is wrong with one does not end the stream."""
        kind = message("ModelStreamInferResponse")
        try:
            tenant = self._tenant(context)
        except ServiceError as error:
            await context.abort(CODES[error.trouble], str(error))
        async for content in requests:
            try:
                asked = _parsed("ModelInferRequest", content)
                answer = kind(infer_response=await self._ModelInfer(tenant, asked, context))
            except ServiceError as error:
                answer = kind(error_message=str(error))
            yield bytes(answer.SerializeToString())

    def _tenant(self, context: Any) -> TenantKeys:
        given = [value for name, value in context.invocation_metadata() or () if name == "authorization"]
        if len(given) > 1:
            raise bad_request("the metadata authorization is there twice")
        return self._desk.tenant_of(given[0] if given else "")

    async def _ServerLive(self, *_: Any) -> Any:  # noqa: N802  (the protocol's names)
        return message("ServerLiveResponse")(live=True)

    async def _ServerReady(self, *_: Any) -> Any:  # noqa: N802
        return message("ServerReadyResponse")(ready=self._desk.accepts)

    async def _ModelReady(self, tenant: TenantKeys, asked: Any, _: Any) -> Any:  # noqa: N802
        entry = self._desk.entry(tenant, asked.name, asked.version)
        return message("ModelReadyResponse")(ready=self._desk.is_ready(entry))

    async def _ServerMetadata(self, *_: Any) -> Any:  # noqa: N802
        return _made("ServerMetadataResponse", self._pages.server())

    async def _ModelMetadata(self, tenant: TenantKeys, asked: Any, _: Any) -> Any:  # noqa: N802
        return _made("ModelMetadataResponse", self._pages.metadata(tenant, asked.name, asked.version))

    async def _ModelConfig(self, tenant: TenantKeys, asked: Any, _: Any) -> Any:  # noqa: N802
        found = self._pages.configuration(tenant, asked.name, asked.version)
        return message("ModelConfigResponse")(config=_made("ModelConfig", found))

    async def _ModelStatistics(self, tenant: TenantKeys, asked: Any, _: Any) -> Any:  # noqa: N802
        return _made("ModelStatisticsResponse", self._pages.statistics(tenant, asked.name, asked.version))

    async def _ModelInfer(self, tenant: TenantKeys, asked: Any, context: Any) -> Any:  # noqa: N802
        exchange = GrpcExchange(asked, context.time_remaining())
        return await self._desk.infer(tenant, asked.model_name, asked.model_version, exchange)

    async def _RepositoryIndex(self, tenant: TenantKeys, asked: Any, _: Any) -> Any:  # noqa: N802
        answer = message("RepositoryIndexResponse")()
        for one in self._pages.index(tenant, asked.ready):
            answer.models.add(name=one.name, version=one.version, state=one.state, reason=one.reason)
        return answer

    async def _RepositoryModelLoad(self, tenant: TenantKeys, asked: Any, _: Any) -> Any:  # noqa: N802
        files = [name for name in asked.parameters if name.startswith("file:")]
        if not files:
            entry = await self._intake.load(tenant, asked.model_name)
        else:
            version = upload_version(files)
            name, number = self._intake.check(tenant, asked.model_name, version, None)
            content = asked.parameters[files[0]].bytes_param
            if len(content) > self._intake.most_bytes(tenant):
                raise too_large(tenant)
            incoming = self._intake.incoming()
            try:
                incoming.write_bytes(content)
                digest = hashlib.sha256(content).hexdigest()
                entry = self._intake.upload(tenant, name, number, incoming, digest)
            finally:
                incoming.unlink(missing_ok=True)
        await finish_load(self._intake, entry)
        return message("RepositoryModelLoadResponse")()

    async def _RepositoryModelUnload(self, tenant: TenantKeys, asked: Any, _: Any) -> Any:  # noqa: N802
        await self._intake.unload(tenant, asked.model_name)
        return message("RepositoryModelUnloadResponse")()


def grpc_server(front: GrpcFront) -> Any:
    """Return a server of the running event loop that no port was given to yet."""
    return grpc.aio.server(handlers=(front,), options=OPTIONS)


def _parsed(kind: str, content: bytes) -> Any:
    try:
        return message(kind).FromString(content)
    except DecodeError:
        raise bad_request(f"the message is no {kind}") from None


def _made(kind: str, found: Any) -> Any:
    """Return a message with the fields that a page has under the same names."""
    return message(kind)(**msgspec.to_builtins(found))


def _trailing(error: ServiceError) -> tuple[tuple[str, str], ...]:
    found = []
    if error.retry_after_s is not None:
        found.append(("retry-after-ms", str(ceil(error.retry_after_s * 1e3))))
    if error.predicted_ms is not None:
        found.append(("predicted-ms", f"{error.predicted_ms:.3f}"))
    return tuple(found)

"""What a server says of itself and its models, asked before a run and after it, and what is wrong with it."""

import http.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

from numpy.typing import NDArray

from veltair.evaluation.remote.connection import Address
from veltair.wire.datatypes import datatype_of
from veltair.wire.errors import WireError, error_text
from veltair.wire.infer import InferRequest, Message, Parameters, Tensor, write_request
from veltair.wire.messages import ModelMetadata, ModelStatistics, Statistics, decode, in_order

ASK_S = 30.0
_Kind = TypeVar("_Kind")


class RemoteError(ValueError):
    """A server that cannot be measured; the message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A server at an address, and how it is asked.

    `names` are its names of models that have others here, `headers` go with each request. Of `version` it is
    asked for the one that it takes where there is none. Tensors go as binary data, or in JSON.
    """

    address: Address
    binary: bool = True
    names: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def path(self, model: str, what: str = "") -> str:
        """Return the path of a model, or of something about it."""
        version = f"/versions/{quote(self.version, safe='')}" if self.version else ""
        name = quote(self.names.get(model, model), safe="")
        return f"{self.address.path}/v2/models/{name}{version}{what}"

    def request(
        self,
        model: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[str],
        parameters: Parameters | None = None,
    ) -> bytes:
        """Return a whole HTTP request for inference, head and body."""
        asked = frozenset(outputs) if self.binary else frozenset()
        message = write_request(
            InferRequest(tuple(inputs), "", tuple(outputs), asked, parameters=parameters or {}), self.binary
        )
        return self._head(self.path(model, "/infer"), message) + message.body

    def get(self, path: str) -> tuple[int, bytes]:
        """Return the code and the body of a page. Raises RemoteError if there is none at all."""
        address = self.address
        connection = http.client.HTTPConnection(address.host, address.port, timeout=ASK_S)
        try:
            connection.request("GET", path, headers=dict(self.headers))
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise RemoteError(
                f"no server answers at http://{address.authority}{path} ({error or type(error).__name__}); "
                "start it, or correct its URL"
            ) from None
        finally:
            connection.close()

    def model(self, model: str) -> ModelMetadata:
        """Return what the server says of a model. Raises RemoteError unless it has it and is ready."""
        told = self._told(ModelMetadata, self.path(model), model)
        code, body = self.get(self.path(model, "/ready"))
        if code != http.HTTPStatus.OK:
            raise RemoteError(f"{self._where(model)} is not ready ({code}: {error_text(body)}); load it")
        return told

    def statistics(self, model: str) -> ModelStatistics | None:
        """Return what became of the requests for a model; None where the server does not count."""
        try:
            told = self._told(Statistics, self.path(model, "/stats"), model)
        except RemoteError:
            return None
        return told.model_stats[0] if told.model_stats else None

    def _told(self, kind: type[_Kind], path: str, model: str) -> _Kind:
        code, body = self.get(path)
        if code != http.HTTPStatus.OK:
            raise RemoteError(
                f"{self._where(model)}: {code}: {error_text(body)}; load the model, or give its name there"
            )
        try:
            return decode(kind, body)
        except WireError as error:
            raise RemoteError(f"{self._where(model)} does not speak the protocol: {error}") from None

    def _where(self, model: str) -> str:
        return f"model {self.names.get(model, model)} at http://{self.address.authority}{self.address.path}"

    def _head(self, path: str, message: Message) -> bytes:
        headers = {
            "Host": self.address.authority,
            **message.headers,
            "Content-Length": str(message.nbytes),
            **self.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


def tensors_of(names: Sequence[str], values: Sequence[NDArray[Any]]) -> tuple[Tensor, ...]:
    """Return arrays as tensors of these names."""
    return tuple(
        Tensor(
            name, datatype_of(value.dtype), value.shape, value.astype(value.dtype.newbyteorder("<")).tobytes()
        )
        for name, value in zip(names, values, strict=True)
    )


def check_model(remote: Remote, model: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Raise RemoteError unless the server has a model that takes such inputs and gives such outputs.

    A server that says nothing of outputs or inputs passes: its answers are compared anyway.
    """
    told = remote.model(model)
    for kind, own, theirs in (("input", inputs, told.inputs), ("output", outputs, told.outputs)):
        if not theirs:
            continue
        try:
            in_order(own, theirs)
        except WireError as error:
            raise RemoteError(
                f"model {told.name} at http://{remote.address.authority} has other {kind}s than {model} "
                f"here: {error}; serve the same ONNX file there"
            ) from None

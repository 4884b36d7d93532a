"""Inference over HTTP: from a request's body to its answer's."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod

from veltair.service.engine.link import ServedModel
from veltair.service.engine.link import Tensor as ServedTensor
from veltair.service.front.desk import Desk, Wishes, tensor_bytes
from veltair.service.front.http_answers import Call, Reply
from veltair.service.front.model_pages import tensor_metadata
from veltair.service.models.registry import Entry
from veltair.service.tenancy.errors import bad_request
from veltair.wire.errors import WireError
from veltair.wire.infer import (
    LENGTH_HEADER,
    InferRequest,
    InferResponse,
    Tensor,
    json_bytes,
    read_request,
    write_response,
)
from veltair.wire.messages import in_order

# Letters of one number in JSON, with what separates it from the next, and of all the rest of a request.
NUMBER_BYTES, REST_BYTES = 32, 1 << 16
_LENGTH = LENGTH_HEADER.lower().encode()


class HttpExchange:
    """One request, as the desk takes it."""

    def __init__(self, call: Call, watch: Callable[[], None]) -> None:
        """`watch` is called once all of the body is read."""
        self._call, self._watch = call, watch

    async def receive(self, entry: Entry, model: ServedModel) -> Wishes:
        """Read the body and check it."""
        content = await self._call.body.read(most_bytes(model))
        self._watch()
        self._entry, self._model = entry, model
        try:
            self._request = read_request(content, json_bytes(self._call.headers.get(_LENGTH)))
            return self._wishes(self._request)
        except WireError as error:
            raise bad_request(str(error)) from None

    def _wishes(self, request: InferRequest) -> Wishes:
        self._inputs = in_order(request.inputs, [tensor_metadata(one) for one in self._model.inputs])
        names = [one.name for one in self._model.outputs]
        if unknown := set(request.outputs or ()).difference(names):
            raise WireError(f"no output is called {sorted(unknown)[0]!r}; the model has {', '.join(names)}")
        return Wishes(request.timeout_s, request.priority)

    def put(self, inputs: Sequence[memoryview]) -> None:
        """Write the inputs into the slot."""
        for place, tensor in zip(inputs, self._inputs, strict=True):
            place[:] = tensor.data

    def take(self, outputs: Sequence[memoryview]) -> Reply:
        """Copy the outputs out of the slot."""
        request, entry = self._request, self._entry
        tensors = []
        for served, content in zip(self._model.outputs, outputs, strict=True):
            if request.wants(served.name):
                told = tensor_metadata(served)
                tensors.append(Tensor(told.name, told.datatype, served.shape, bytes(content)))
        response = InferResponse(entry.name, tuple(tensors), str(entry.version), request.id)
        binary = [one.name for one in tensors if request.is_binary(one.name)]
        try:
            message = write_response(response, binary)
        except WireError as error:
            raise bad_request(str(error)) from None
        headers = {name.lower().encode(): value.encode() for name, value in message.headers.items()}
        return Reply(200, message.parts, headers.pop(b"content-type"), tuple(headers.items()))


async def infer(desk: Desk, call: Call, name: str, version: str) -> Reply:
    """Answer a request for inference; a client that goes away takes it back.

    Raises ServiceError, and ClientGoneError.
    """
    with call.body.cancelling_when_gone() as watch:
        return await desk.infer(call.tenant, name, version, HttpExchange(call, watch))


def most_bytes(model: ServedModel) -> int:
    """Return how many bytes a request for a model has at most, whichever way it is written."""
    return REST_BYTES + max(tensor_bytes(model.inputs), _elements(model.inputs) * NUMBER_BYTES)


@lru_cache(4096)
def _elements(tensors: tuple[ServedTensor, ...]) -> int:
    return sum(prod(one.shape) for one in tensors)

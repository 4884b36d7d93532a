"""Inference over HTTP: from a request's body to its answer's."""

from collections.abc import Callable, Sequence

from veltair.service.desk import Desk, Wishes
from veltair.service.http_answers import JSON, Call, Reply
from veltair.service.http_tensors import Request, most_bytes, read_request, write_answer
from veltair.service.link import ServedModel
from veltair.service.registry import Entry

BYTES = b"application/octet-stream"
HEADER_LENGTH = b"inference-header-content-length"


class _Exchange:
    """One request, as the desk takes it."""

    def __init__(self, call: Call, watch: Callable[[], None]) -> None:
        self._call, self._watch = call, watch

    async def receive(self, entry: Entry, model: ServedModel) -> Wishes:
        """Read the body and check it."""
        content = await self._call.body.read(most_bytes(model))
        self._watch()
        self._entry, self._model = entry, model
        self._request: Request = read_request(content, self._call.headers.get(HEADER_LENGTH), model)
        return Wishes(self._request.timeout_s, self._request.priority)

    def put(self, inputs: Sequence[memoryview]) -> None:
        """Write the inputs into the slot."""
        for place, content in zip(inputs, self._request.inputs, strict=True):
            place[:] = content

    def take(self, outputs: Sequence[memoryview]) -> Reply:
        """Copy the outputs out of the slot."""
        entry = self._entry
        parts, length = write_answer(self._request, entry.name, entry.version, self._model, outputs)
        if length is None:
            return Reply(200, parts, JSON)
        return Reply(200, parts, BYTES, ((HEADER_LENGTH, str(length).encode()),))


async def infer(desk: Desk, call: Call, name: str, version: str) -> Reply:
    """Answer a request for inference; a client that goes away takes it back.

    Raises ServiceError, and ClientGoneError.
    """
    with call.body.cancelling_when_gone() as watch:
        return await desk.infer(call.tenant, name, version, _Exchange(call, watch))

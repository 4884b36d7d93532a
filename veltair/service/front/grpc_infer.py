"""Inference over gRPC: tensors as bytes, or as lists of numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from veltair.service.engine.link import ServedModel
from veltair.service.front.desk import Wishes
from veltair.service.front.grpc_messages import message
from veltair.service.front.model_pages import tensor_metadata
from veltair.service.models.registry import Entry
from veltair.service.tenancy.errors import bad_request
from veltair.wire.datatypes import BYTES, check_bytes, dtype_of
from veltair.wire.errors import UnsupportedError, WireError
from veltair.wire.infer import InferRequest, Parameter, Tensor
from veltair.wire.messages import in_order

# Which list holds the numbers of a datatype; those of 16 bits have none.
_LISTS = {
    "BOOL": "bool_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "INT64": "int64_contents",
    "UINT64": "uint64_contents", **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
}  # fmt: skip


class GrpcExchange:
    """One request, as the desk takes it."""

    def __init__(self, asked: Any, remaining_s: float | None) -> None:
        """`asked` is a ModelInferRequest, `remaining_s` what is left to the deadline of the call, if any."""
        self._asked, self._remaining_s = asked, remaining_s

    async def receive(self, entry: Entry, model: ServedModel) -> Wishes:
        """Check the request; it came whole."""
        self._entry, self._model = entry, model
        try:
            request = _read(self._asked)
            described = [tensor_metadata(one) for one in model.inputs]
            self._inputs = in_order(request.inputs, described)
            for one in self._inputs:
                check_bytes(one.name, one.datatype, one.shape, one.data)
            names = [one.name for one in model.outputs]
            if unknown := set(request.outputs or ()).difference(names):
                raise WireError(
                    f"no output is called {sorted(unknown)[0]!r}; the model has {', '.join(names)}"
                )
            self._request = request
            return Wishes(request.timeout_s or self._remaining_s, request.priority)
        except WireError as error:
            raise bad_request(str(error)) from None

    def put(self, inputs: Sequence[memoryview]) -> None:
        """Write the inputs into the slot."""
        for place, tensor in zip(inputs, self._inputs, strict=True):
            place[:] = tensor.data

    def take(self, outputs: Sequence[memoryview]) -> Any:
        """Return a ModelInferResponse with a copy of the outputs."""
        entry = self._entry
        answer = message("ModelInferResponse")(
            model_name=entry.name, model_version=str(entry.version), id=self._request.id
        )
        for served, content in zip(self._model.outputs, outputs, strict=True):
            if self._request.wants(served.name):
                told = tensor_metadata(served)
                answer.outputs.add(name=told.name, datatype=told.datatype, shape=told.shape)
                answer.raw_output_contents.append(bytes(content))
        return answer


def _read(asked: Any) -> InferRequest:
    """Return what a ModelInferRequest says. Raises WireError if it is not as the protocol has it."""
    raw = asked.raw_input_contents
    if raw and len(raw) != len(asked.inputs):
        raise WireError(f"{len(raw)} raw contents for {len(asked.inputs)} inputs; give one each, or none")
    tensors = []
    for number, one in enumerate(asked.inputs):
        _refuse(one)
        data = raw[number] if raw else _listed(one)
        if raw and one.HasField("contents"):
            raise WireError(f"tensor {one.name!r} has both raw contents and a list")
        tensors.append(Tensor(one.name, one.datatype, tuple(one.shape), data))
    names = [one.name for one in asked.outputs]
    for one in asked.outputs:
        _refuse(one)
    for listed in ([one.name for one in tensors], names):
        if len(set(listed)) < len(listed):
            raise WireError("a tensor is there twice")
    return InferRequest(tuple(tensors), asked.id, tuple(names) or None, parameters=_values(asked.parameters))


def _listed(one: Any) -> bytes:
    if one.datatype == BYTES or one.datatype not in _LISTS:
        raise WireError(f"tensor {one.name!r}: send {one.datatype[:20]!r} as raw contents")
    values = getattr(one.contents, _LISTS[one.datatype])
    try:
        return np.array(values, dtype_of(one.datatype)).tobytes()
    except (OverflowError, ValueError):
        raise WireError(f"tensor {one.name!r}: numbers out of the range of {one.datatype}") from None


def _refuse(tensor: Any) -> None:
    if any(name.startswith(("shared_memory", "classification")) for name in tensor.parameters):
        raise UnsupportedError(f"tensor {tensor.name!r}: shared memory and classification are not offered")


def _values(parameters: Mapping[str, Any]) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for name, one in parameters.items():
        if kind := one.WhichOneof("parameter_choice"):
            found[name] = getattr(one, kind)
    return found

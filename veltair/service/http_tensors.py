"""Requests and answers of inference as bodies of HTTP: tensors in JSON, or in bytes behind it.

Pure. A request is checked whole against its model before a byte of it goes anywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np

from veltair.service.errors import bad_request
from veltair.service.link import ServedModel, Tensor

DATATYPES: Mapping[str, str] = MappingProxyType(
    {
        "bool": "BOOL",
        **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
        **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    }
)
# Letters of one number in JSON, with what separates it from the next, and of all the rest of a request.
NUMBER_BYTES, REST_BYTES = 32, 1 << 16
# Parameters that change what a request means and that nothing here understands.
_NOT_SERVED = ("shared_memory_", "classification", "sequence_", "triton_enable_empty_final_response")


_NOTHING = msgspec.Raw(b"")


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = _NOTHING


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_Output] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request: the bytes of each input in the model's order, and what it wants of the answer.

    `outputs` are the numbers of the wanted outputs and whether each is wanted in bytes. `timeout_s` is None
    where it is not stated.
    """

    id: str
    inputs: tuple[memoryview, ...]
    outputs: tuple[tuple[int, bool], ...]
    timeout_s: float | None
    priority: int


def most_bytes(model: ServedModel) -> int:
    """Return how many bytes a request for a model has at most, whichever way it is written."""
    elements = sum(prod(one.shape) for one in model.inputs)
    return REST_BYTES + max(sum(one.nbytes for one in model.inputs), elements * NUMBER_BYTES)


def read_request(body: bytes, header_length: bytes | None, model: ServedModel) -> Request:
    """Return the request that a body is. Raises ServiceError that names what is wrong in it.

    `header_length` is the length of the JSON where bytes follow it, as its header says.
    """
    length = _length(header_length, len(body))
    try:
        asked = msgspec.json.decode(memoryview(body)[:length], type=_Request)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise bad_request(f"the request is not as the protocol has it: {error}") from None
    for holder in (asked, *asked.inputs, *(asked.outputs or ())):
        _check_parameters(holder.parameters)
    given = {one.name: one for one in asked.inputs}
    if len(given) != len(asked.inputs) or given.keys() != {one.name for one in model.inputs}:
        wanted = ", ".join(one.name for one in model.inputs)
        raise bad_request(f"give each input of the model once: {wanted}")
    behind = memoryview(body)[length:]
    found: dict[str, memoryview] = {}
    for one in asked.inputs:
        tensor = next(known for known in model.inputs if known.name == one.name)
        _check_input(one, tensor)
        size = one.parameters.get("binary_data_size")
        if size is None:
            found[one.name] = _values(one, tensor)
            continue
        if type(size) is not int or size != tensor.nbytes or bytes(one.data):
            raise bad_request(f"input {tensor.name} has {tensor.nbytes} bytes; give as many, and no `data`")
        if len(behind) < size:
            raise bad_request(f"the body ends within input {tensor.name}")
        found[one.name], behind = behind[:size], behind[size:]
    if len(behind):
        raise bad_request(f"{len(behind)} bytes are left behind the inputs")
    return Request(
        id=asked.id,
        inputs=tuple(found[one.name] for one in model.inputs),
        outputs=_wanted(asked, model),
        timeout_s=_timeout_s(asked.parameters.get("timeout", 0)),
        priority=_whole(asked.parameters.get("priority", 0), "priority"),
    )


def write_answer(
    request: Request, name: str, version: int, model: ServedModel, outputs: Sequence[memoryview]
) -> tuple[tuple[bytes, ...], int | None]:
    """Return the parts of an answer's body, and the length of its JSON if bytes follow it."""
    lines, behind = [], list[bytes]()
    for number, in_bytes in request.outputs:
        tensor, content = model.outputs[number], bytes(outputs[number])
        line: dict[str, Any] = {
            "name": tensor.name, "datatype": DATATYPES[tensor.dtype], "shape": list(tensor.shape),
        }  # fmt: skip
        if in_bytes:
            line["parameters"] = {"binary_data_size": len(content)}
            behind.append(content)
        else:
            line["data"] = np.frombuffer(content, tensor.dtype).tolist()
        lines.append(line)
    values: dict[str, Any] = {"model_name": name, "model_version": str(version), "outputs": lines}
    if request.id:
        values["id"] = request.id
    head = msgspec.json.encode(values)
    return (head, *behind), len(head) if behind else None


def _length(header: bytes | None, body_bytes: int) -> int:
    if header is None:
        return body_bytes
    if not header.isdigit() or len(header) > 15 or not 0 < int(header) <= body_bytes:
        raise bad_request(
            f"Inference-Header-Content-Length is no length of JSON that {body_bytes} bytes begin with"
        )
    return int(header)


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    for name in parameters:
        if name.startswith(_NOT_SERVED):
            raise bad_request("a parameter is of an extension that is not served; v2 lists those that are")


def _check_input(given: _Input, tensor: Tensor) -> None:
    if given.datatype != DATATYPES[tensor.dtype]:
        raise bad_request(f"input {tensor.name} is {DATATYPES[tensor.dtype]}, give it so")
    if tuple(given.shape) != tensor.shape:
        raise bad_request(f"input {tensor.name} has the shape {list(tensor.shape)}, give it so")


def _values(given: _Input, tensor: Tensor) -> memoryview:
    """Return the bytes of an input that is written in JSON, flat or nested."""
    wrong = bad_request(
        f"the data of input {tensor.name} are not {prod(tensor.shape)} values of {DATATYPES[tensor.dtype]}, "
        "in a list or nested by its shape"
    )
    if not bytes(given.data):
        raise wrong
    kind = {"b": bool, "f": float}.get(np.dtype(tensor.dtype).kind, int)
    nested: Any = kind
    for _ in tensor.shape:
        nested = list[nested]
    flat: Any = list[kind]  # type: ignore[valid-type]
    for form in (flat, nested):
        try:
            values = np.array(msgspec.json.decode(given.data, type=form), tensor.dtype)
        except (msgspec.DecodeError, ValueError, OverflowError, RecursionError):
            continue
        if values.size == prod(tensor.shape) and values.shape in (tensor.shape, (values.size,)):
            return memoryview(values.tobytes())
    raise wrong


def _wanted(asked: _Request, model: ServedModel) -> tuple[tuple[int, bool], ...]:
    all_in_bytes = asked.parameters.get("binary_data_output", False) is True
    names = [one.name for one in model.outputs]
    if not asked.outputs:
        return tuple((number, all_in_bytes) for number in range(len(names)))
    wanted = []
    for one in asked.outputs:
        if one.name not in names:
            raise bad_request(f"the model has no such output; it has {', '.join(names)}")
        in_bytes = one.parameters.get("binary_data", all_in_bytes)
        if type(in_bytes) is not bool:
            raise bad_request("binary_data is true or false")
        wanted.append((names.index(one.name), in_bytes))
    return tuple(wanted)


def _timeout_s(value: Any) -> float | None:
    return _whole(value, "timeout") / 1e6 or None


def _whole(value: Any, name: str) -> int:
    if type(value) is not int or value < 0:
        raise bad_request(f"{name} is a whole number, 0 or more")
    return value

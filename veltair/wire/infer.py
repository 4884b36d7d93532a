"""Requests for inference and their answers: JSON, with tensors in it or as binary data behind it.

A body is a JSON header, then the binary data of tensors in their order; an HTTP header says how long the JSON
is. Reading copies no binary data: tensors are views of the body, valid as long as that is.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from veltair.wire.datatypes import Buffer, check_bytes, check_shape, element_bytes, from_json, to_json
from veltair.wire.errors import UnsupportedError, WireError

LENGTH_HEADER = "Inference-Header-Content-Length"
BINARY_TYPE, JSON_TYPE = "application/octet-stream", "application/json"
BINARY_SIZE, BINARY_DATA, ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"
HIGHEST_PRIORITY = 1

Parameter = bool | int | float | str
Parameters = Mapping[str, Parameter]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as bytes: little endian, row-major, of exactly the size that shape and datatype have."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request. `outputs` are the names asked for, all if None; those of `binary` as binary data."""

    inputs: tuple[Tensor, ...]
    id: str = ""
    outputs: tuple[str, ...] | None = None
    binary: frozenset[str] = frozenset()
    all_binary: bool = False
    parameters: Parameters = field(default_factory=dict)

    def wants(self, output: str) -> bool:
        """Whether an output is asked for."""
        return self.outputs is None or output in self.outputs

    def is_binary(self, output: str) -> bool:
        """Whether an output is to be answered as binary data."""
        return self.all_binary if self.outputs is None else output in self.binary

    @property
    def timeout_s(self) -> float | None:
        """Seconds that the answer may take, None if it does not say. Raises WireError for no duration."""
        micros = self._number("timeout")
        return micros / 1e6 if micros else None

    @property
    def priority(self) -> int:
        """How urgent it is: 1 the most, 0 if it does not say. Raises WireError for no whole number."""
        return self._number("priority")

    def _number(self, name: str) -> int:
        value = self.parameters.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise WireError(f"parameter {name} is {value!r}; give a whole number, 0 or more")
        return value


@dataclass(frozen=True, slots=True)
class InferResponse:
    """An answer of a model's version to the request of that id."""

    model_name: str
    outputs: tuple[Tensor, ...]
    model_version: str = ""
    id: str = ""
    parameters: Parameters = field(default_factory=dict)


class Message(NamedTuple):
    """A body in parts, so that tensors need no copy, and how long its JSON is: None if it is all of it."""

    parts: tuple[Buffer, ...]
    json_bytes: int | None

    @property
    def nbytes(self) -> int:
        """Length of the body."""
        return sum(len(part) for part in self.parts)

    @property
    def body(self) -> bytes:
        """The body in one piece."""
        return b"".join(self.parts)

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that say what the body is."""
        if self.json_bytes is None:
            return {"Content-Type": JSON_TYPE}
        return {"Content-Type": BINARY_TYPE, LENGTH_HEADER: str(self.json_bytes)}


class _Asked(msgspec.Struct):
    name: str
    parameters: dict[str, Parameter] = {}


class _Tensor(msgspec.Struct, omit_defaults=True):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Parameter] = {}
    data: msgspec.Raw = msgspec.Raw(b"")


class _Request(msgspec.Struct, omit_defaults=True):
    inputs: list[_Tensor]
    id: str = ""
    parameters: dict[str, Parameter] = {}
    outputs: list[_Asked] | None = None


class _Response(msgspec.Struct, omit_defaults=True):
    model_name: str
    outputs: list[_Tensor]
    model_version: str | None = None
    id: str | None = None
    parameters: dict[str, Parameter] | None = None


_REQUESTS = msgspec.json.Decoder(_Request)
_RESPONSES = msgspec.json.Decoder(_Response)


def json_bytes(header: str | bytes | None) -> int | None:
    """Return what the length header says, None without one. Raises WireError for no length."""
    if header is None:
        return None
    text = header.decode("latin-1") if isinstance(header, bytes) else header
    text = text.strip()
    # int() takes signs, underscores and the digits of all scripts, and is slow with long ones.
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise WireError(f"{LENGTH_HEADER} is {text[:40]!r}; give the bytes of the JSON")
    return int(text)


def read_request(body: Buffer, header_bytes: int | None = None) -> InferRequest:
    """Read a request whose JSON has so many bytes, all of the body if None.

    Raises WireError if it is not as the protocol has it, UnsupportedError for what is not offered.
    """
    header, rest = _split(body, header_bytes)
    found: _Request = _decode(_REQUESTS, header)
    inputs = _tensors("input", found.inputs, rest)
    asked = found.outputs
    for one in asked or ():
        _refuse(one.name, one.parameters)
    if asked is not None:
        _check_names("output", [one.name for one in asked])
    every = _flag(found.parameters, ALL_BINARY, False)
    return InferRequest(
        inputs,
        found.id,
        # An empty list asks for none by its word; clients that say so mean that they do not choose.
        tuple(one.name for one in asked) if asked else None,
        frozenset(one.name for one in asked or () if _flag(one.parameters, BINARY_DATA, every)),
        every,
        found.parameters,
    )


def write_request(request: InferRequest, binary: bool = True) -> Message:
    """Write a request with its inputs as binary data, or in its JSON.

    Raises WireError for tensors that are not as they say, and for what JSON cannot say.
    """
    inputs, parts = _written(request.inputs, [one.name for one in request.inputs] if binary else ())
    asked = None
    if request.outputs is not None:
        asked = [_Asked(name, {BINARY_DATA: name in request.binary}) for name in request.outputs]
    parameters = dict(request.parameters)
    if request.all_binary:
        parameters[ALL_BINARY] = True
    header = msgspec.json.encode(_Request(inputs, request.id, parameters, asked))
    return Message((header, *parts), len(header) if parts else None)


def read_response(body: Buffer, header_bytes: int | None = None) -> InferResponse:
    """Read an answer whose JSON has so many bytes, all of the body if None.

    Raises WireError if it is not as the protocol has it.
    """
    header, rest = _split(body, header_bytes)
    found: _Response = _decode(_RESPONSES, header)
    outputs = _tensors("output", found.outputs, rest)
    return InferResponse(
        found.model_name, outputs, found.model_version or "", found.id or "", found.parameters or {}
    )


def write_response(response: InferResponse, binary: Collection[str] = ()) -> Message:
    """Write an answer, the outputs of those names as binary data.

    Raises WireError for tensors that are not as they say, and for what JSON cannot say.
    """
    outputs, parts = _written(response.outputs, binary)
    header = msgspec.json.encode(
        _Response(
            response.model_name,
            outputs,
            response.model_version or None,
            response.id or None,
            dict(response.parameters) or None,
        )
    )
    return Message((header, *parts), len(header) if parts else None)


def _split(body: Buffer, header_bytes: int | None) -> tuple[memoryview, memoryview]:
    view = memoryview(body)
    if header_bytes is None:
        return view, view[len(view) :]
    if not 0 <= header_bytes <= len(view):
        raise WireError(f"{LENGTH_HEADER} is {header_bytes}; the body has {len(view)} bytes")
    return view[:header_bytes], view[header_bytes:]


def _decode(decoder: msgspec.json.Decoder[Any], header: memoryview) -> Any:
    try:
        return decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"the JSON of the message: {error}") from None
    except RecursionError:
        raise WireError("the JSON of the message is nested too deep") from None


def _tensors(kind: str, given: Sequence[_Tensor], rest: memoryview) -> tuple[Tensor, ...]:
    _check_names(kind, [one.name for one in given])
    start, found = 0, []
    for one in given:
        _refuse(one.name, one.parameters)
        size = one.parameters.get(BINARY_SIZE)
        shape = tuple(one.shape)
        if size is None:
            element_bytes(one.datatype)
            if not bytes(one.data):
                raise WireError(f"tensor {one.name!r} has neither data nor {BINARY_SIZE}")
            found.append(
                Tensor(
                    one.name,
                    one.datatype,
                    shape,
                    from_json(one.name, one.datatype, shape, memoryview(one.data)),
                )
            )
            continue
        data = _binary(one, size, rest[start:])
        found.append(Tensor(one.name, one.datatype, shape, data))
        start += len(data)
    if start != len(rest):
        raise WireError(f"{len(rest) - start} bytes behind the last tensor's")
    return tuple(found)


def _binary(one: _Tensor, size: Parameter, rest: memoryview) -> memoryview:
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise WireError(f"tensor {one.name!r}: {BINARY_SIZE} is {size!r}; give its bytes")
    if bytes(one.data):
        raise WireError(f"tensor {one.name!r} has both data and {BINARY_SIZE}")
    if size > len(rest):
        raise WireError(f"tensor {one.name!r}: {BINARY_SIZE} is {size}; {len(rest)} bytes are left")
    check_bytes(one.name, one.datatype, one.shape, rest[:size])
    return rest[:size]


def _written(tensors: Iterable[Tensor], binary: Collection[str]) -> tuple[list[_Tensor], list[Buffer]]:
    """Return what the JSON says of tensors, and the binary data of some."""
    told: list[_Tensor] = []
    parts: list[Buffer] = []
    for one in tensors:
        check_shape(one.name, one.shape)
        data = memoryview(one.data).cast("B")
        check_bytes(one.name, one.datatype, one.shape, data)
        written = _Tensor(one.name, list(one.shape), one.datatype)
        if one.name in binary:
            written.parameters = {BINARY_SIZE: len(data)}
            parts.append(data)
        else:
            written.data = msgspec.Raw(msgspec.json.encode(to_json(one.name, one.datatype, data)))
        told.append(written)
    return told, parts


def _check_names(kind: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise WireError(f"{kind}s {', '.join(map(repr, names))}: one is there twice")


def _flag(parameters: Parameters, name: str, otherwise: bool) -> bool:
    value = parameters.get(name, otherwise)
    if not isinstance(value, bool):
        raise WireError(f"parameter {name} is {value!r}; give true or false")
    return value


def _refuse(name: str, parameters: Parameters) -> None:
    if "shared_memory_region" in parameters:
        raise UnsupportedError(f"tensor {name!r}: shared memory is not offered; send its bytes")
    if parameters.get("classification"):
        raise UnsupportedError(f"tensor {name!r}: classification is not offered; ask for the tensor")

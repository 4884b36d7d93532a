"""The protocol's datatypes, what numpy calls them, and tensors as JSON numbers.

Tensors are little endian and row-major. Elements of BYTES have a length of 4 bytes before them.
"""

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

import msgspec
import numpy as np

from veltair.wire.errors import UnsupportedError, WireError

Buffer = bytes | bytearray | memoryview
BYTES, BF16 = "BYTES", "BF16"
# BF16 has no number in JSON, and BYTES no size: they are not in this table.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
DATATYPES = (*DTYPES, BF16, BYTES)
MOST_AXES = 32  # numpy's own limit is 64; nested lists this deep are no tensor
_LENGTH = 4


def datatype_of(dtype: Any) -> str:
    """Return the protocol's name of a numpy dtype. Raises WireError for one that it has no name for."""
    wanted = np.dtype(dtype).newbyteorder("<")
    for name, known in DTYPES.items():
        if known == wanted:
            return name
    raise WireError(f"no datatype of the protocol holds {np.dtype(dtype)}")


def dtype_of(datatype: str) -> np.dtype[Any]:
    """Return numpy's name of a datatype. Raises WireError for BYTES, BF16 and what is no datatype."""
    if datatype not in DTYPES:
        raise WireError(f"datatype {datatype!r}; give one of {', '.join(DTYPES)}")
    return DTYPES[datatype]


def element_bytes(datatype: str) -> int | None:
    """Return the bytes of an element, None where each has its own. Raises WireError for no datatype."""
    if datatype == BYTES:
        return None
    return 2 if datatype == BF16 else dtype_of(datatype).itemsize


def check_shape(name: str, shape: Sequence[int]) -> int:
    """Return the elements of a tensor. Raises WireError for a shape that none can have."""
    if len(shape) > MOST_AXES:
        raise WireError(f"tensor {name!r}: {len(shape)} axes; at most {MOST_AXES}")
    if min(shape, default=0) < 0:
        raise WireError(f"tensor {name!r}: shape {list(shape)}; no extent of a tensor is negative")
    return prod(shape)


def check_bytes(name: str, datatype: str, shape: Sequence[int], data: Buffer) -> None:
    """Raise WireError unless so many bytes are a tensor of that shape and datatype."""
    count, size = check_shape(name, shape), element_bytes(datatype)
    if size is not None:
        if len(data) != count * size:
            raise WireError(
                f"tensor {name!r}: {len(data)} bytes; {datatype} of shape {list(shape)} has {count * size}"
            )
        return
    if (found := len(split_bytes(name, data))) != count:
        raise WireError(f"tensor {name!r}: {found} elements; shape {list(shape)} has {count}")


def split_bytes(name: str, data: Buffer) -> list[bytes]:
    """Return the elements of a tensor of BYTES. Raises WireError where a length leads beyond the end."""
    view, start, found = memoryview(data), 0, []
    while start < len(view):
        end = start + _LENGTH + int.from_bytes(view[start : start + _LENGTH], "little")
        if start + _LENGTH > len(view) or end > len(view):
            raise WireError(
                f"tensor {name!r}: an element of BYTES ends beyond the tensor's {len(view)} bytes"
            )
        found.append(bytes(view[start + _LENGTH : end]))
        start = end
    return found


def join_bytes(elements: Sequence[bytes]) -> bytes:
    """Return a tensor of BYTES."""
    return b"".join(part for one in elements for part in (len(one).to_bytes(_LENGTH, "little"), one))


def from_json(name: str, datatype: str, shape: Sequence[int], text: Buffer) -> bytes:
    """Return the bytes of a tensor whose data are a JSON list, flat or nested as its shape.

    Raises WireError where numbers are of another kind, out of range or too many, and for BF16.
    """
    count = check_shape(name, shape)
    depth = _depth(text)
    if depth not in (1, len(shape)):
        raise WireError(f"tensor {name!r}: data nested {depth} deep; give a flat list, or one of its shape")
    values = _decoded(name, datatype, depth, text)
    if datatype == BYTES:
        return _text_bytes(name, shape, values, depth)
    try:
        # Out of the range of small floats is checked below, with a message of ours.
        with np.errstate(over="ignore"):
            found = np.array(values, DTYPES[datatype])
    except (OverflowError, ValueError):
        raise WireError(f"tensor {name!r}: data that are ragged or out of the range of {datatype}") from None
    if found.size != count or (depth > 1 and found.shape != tuple(shape)):
        raise WireError(f"tensor {name!r}: data of shape {list(found.shape)}; shape says {list(shape)}")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise WireError(f"tensor {name!r}: data out of the range of {datatype}")
    return found.tobytes()


def to_json(name: str, datatype: str, data: Buffer) -> list[Any]:
    """Return the flat list of a tensor's elements. Raises WireError for what JSON cannot say."""
    if datatype == BYTES:
        try:
            return [one.decode() for one in split_bytes(name, data)]
        except UnicodeDecodeError:
            raise WireError(f"tensor {name!r}: bytes that are no text; ask for binary_data") from None
    if datatype == BF16:
        raise UnsupportedError(f"tensor {name!r}: BF16 has no JSON; ask for binary_data")
    found = np.frombuffer(data, dtype_of(datatype))
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise WireError(f"tensor {name!r}: numbers that are not finite have no JSON; ask for binary_data")
    values: list[Any] = found.tolist()
    return values


def _depth(text: Buffer) -> int:
    """Return how many lists the first element lies in."""
    depth = 0
    for byte in bytes(text[: 8 * MOST_AXES]):
        if byte == ord("["):
            depth += 1
        elif byte not in b" \t\r\n":
            break
    return depth


@cache
def _decoder(element: type, depth: int) -> msgspec.json.Decoder[Any]:
    kind: Any = element
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)


def _decoded(name: str, datatype: str, depth: int, text: Buffer) -> Any:
    if datatype == BF16:
        raise UnsupportedError(f"tensor {name!r}: BF16 has no JSON; send it as binary data")
    kinds: dict[str, type] = {"b": bool, "u": int, "i": int, "f": float}
    element = str if datatype == BYTES else kinds[dtype_of(datatype).kind]
    try:
        return _decoder(element, min(depth, MOST_AXES)).decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"tensor {name!r}: data that are no {datatype}: {error}") from None


def _text_bytes(name: str, shape: Sequence[int], values: Any, depth: int) -> bytes:
    for extent in shape[: depth - 1]:
        if len(values) != extent:
            raise WireError(f"tensor {name!r}: data with {len(values)} parts; shape says {list(shape)}")
        values = _flattened(name, shape, values)
    if len(values) != prod(shape):
        raise WireError(f"tensor {name!r}: {len(values)} elements; shape {list(shape)} has {prod(shape)}")
    return join_bytes([one.encode() for one in values])


def _flattened(name: str, shape: Sequence[int], values: Sequence[Any]) -> list[Any]:
    if len({len(one) for one in values}) > 1:
        raise WireError(f"tensor {name!r}: data that are ragged; shape says {list(shape)}")
    return [element for one in values for element in one]

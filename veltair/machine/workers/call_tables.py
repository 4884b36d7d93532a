"""The calls of a query's room as C arrays, which gang.c reads: the layouts are those of its structures."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veltair.machine.workers.crash_notes import NAME_BYTES
from veltair.machine.workers.pool import BlockRun, Grant, Runnable, Sample, check_alike, view

MOST_VERSIONS = 256  # a grant has one byte for the version of a layer
KINDS = {"float32": 0, "float64": 1, "int8": 2, "uint8": 3, "bool": 3, "int32": 4, "int64": 5}

_ANY = np.dtype([("type_index", "<i4"), ("padding", "<u4"), ("value", "<u8")])
_CALL = np.dtype([("function", "<u8"), ("self", "<u8"), ("arguments", "<u8"), ("count", "<i8")])
_ARRAY = np.dtype([("data", "<u8"), ("items", "<u8"), ("item_bytes", "<u4"), ("kind", "<u4")])

# TVM FFI's ABI, from its tvm/ffi/c_api.h: a function object has its safe call behind the object's header, and
# the type index of a tensor object.
_HEADER_BYTES = 24
_TENSOR = 70
_SAFE_CALL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p)


class _Program(ctypes.Structure):
    _fields_ = (
        ("calls", ctypes.c_void_p),
        ("layer_ns", ctypes.c_void_p),
        ("inputs", ctypes.c_void_p),
        ("outputs", ctypes.c_void_p),
        ("layers", ctypes.c_uint32),
        ("versions", ctypes.c_uint32),
        ("input_count", ctypes.c_uint32),
        ("output_count", ctypes.c_uint32),
        ("name", ctypes.c_char * NAME_BYTES),
    )


@dataclass(slots=True, eq=False)
class Led:
    """A block at work: its token, its leader's place among the workers, and its grants by number."""

    block: BlockRun
    token: int
    leader: int
    grants: dict[int, Grant]


class CallTables:
    """A query's room, bound: one block of it runs at a time.

    `layer_ns` holds the nanoseconds that each layer took when it ran last, shape (layers,).
    """

    def __init__(self, runnable: Runnable, name: str) -> None:
        """Lay the calls out. Raises ValueError for outputs of a dtype that gang.c cannot compare."""
        self.runnable = runnable
        self.error: Exception | None = None  # of a kernel in Python
        self.led: Led | None = None
        self._shown: list[list[Any]] = [[None] * len(versions) for versions in runnable.calls]
        most = max(len(versions) for versions in runnable.calls)
        if most > MOST_VERSIONS:
            raise ValueError(
                f"{name} has {most} versions of a layer; at most {MOST_VERSIONS} can be told apart"
            )
        self._calls = np.zeros((len(self._shown), most), _CALL)
        self._kept: dict[tuple[int, int], object] = {}  # what the calls point to
        self.layer_ns = np.zeros(len(self._shown), np.uint64)
        self._rooms = tuple(view(tensor) for tensor in runnable.inputs)
        self._answers = tuple(view(tensor) for tensor in runnable.outputs)
        self._inputs, self._outputs = _describe(self._rooms), _describe(self._answers)
        self._program = _Program(
            self._calls.ctypes.data,
            self.layer_ns.ctypes.data,
            self._inputs.ctypes.data,
            self._outputs.ctypes.data,
            *self._calls.shape,
            len(self._rooms),
            len(self._answers),
            name.encode()[: NAME_BYTES - 1],
        )
        self.address = ctypes.addressof(self._program)
        self.shape = (_shape(self._rooms), _shape(self._answers))

    @property
    def layer_seconds(self) -> list[float]:
        """The same in seconds."""
        seconds: list[float] = (1e-9 * self.layer_ns).tolist()
        return seconds

    def refresh(self, start: int, versions: Sequence[int]) -> None:
        """Bind those calls anew that are other ones by now: a model that was loaded again has new weights.

        `versions` are of the layers from `start` on. Raises LookupError for a version that a layer lacks.
        """
        calls, shown = self.runnable.calls, self._shown
        for layer, version in enumerate(versions, start):
            try:
                if calls[layer][version] is not shown[layer][version]:
                    self._bind(layer, version)
            except IndexError:
                raise LookupError(
                    f"layer {layer} has no version {version}; the block names {versions}"
                ) from None

    def _bind(self, layer: int, version: int) -> None:
        call = self.runnable.calls[layer][version]
        kernel, arguments = call
        if not hasattr(kernel, "__chandle__"):
            function = _SAFE_CALL(self._python(kernel, arguments))
            address = ctypes.cast(function, ctypes.c_void_p).value
            self._calls[layer, version] = (address, 0, 0, 0)
            self._kept[layer, version] = function
        else:
            values = np.zeros(len(arguments), _ANY)
            values["type_index"] = _TENSOR
            values["value"] = [tensor.__chandle__() for tensor in arguments]
            handle = kernel.__chandle__()
            safe_call = ctypes.c_uint64.from_address(handle + _HEADER_BYTES).value
            self._calls[layer, version] = (safe_call, handle, values.ctypes.data, len(arguments))
            self._kept[layer, version] = values
        self._shown[layer][version] = call

    def _python(self, kernel: Any, arguments: tuple[Any, ...]) -> Any:
        """Return a kernel that is no function of TVM's as a safe call: a stand-in, say."""

        def safe_call(*_: object) -> int:
            try:
                kernel(*arguments)
            except Exception as error:  # there is nobody above: the gang tells of it
                self.error = error
                return -1
            return 0

        return safe_call


class BoundSample:
    """A sample's arrays as C arrays of pointers."""

    def __init__(self, sample: Sample) -> None:
        """Take the addresses; arrays that are not contiguous are copied."""
        self.sample = sample  # kept alive, so that no other one gets its id
        self._arrays = tuple(
            tuple(np.ascontiguousarray(array) for array in arrays)
            for arrays in (sample.values, sample.answer)
        )
        self.shape = (_shape(self._arrays[0]), _shape(self._arrays[1]))
        self.inputs, self.answers = (
            (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
            for arrays in self._arrays
        )

    def check(self, bound: CallTables) -> None:
        """Raise ValueError unless its arrays are like the model's inputs and outputs."""
        if self.shape != bound.shape:
            pairs = zip(
                (*bound.runnable.inputs, *bound.runnable.outputs),
                (*self._arrays[0], *self._arrays[1]),
                strict=True,
            )
            for tensor, values in pairs:
                check_alike(view(tensor), values)


def _shape(arrays: Sequence[NDArray[Any]]) -> tuple[tuple[tuple[int, ...], Any], ...]:
    return tuple((array.shape, array.dtype) for array in arrays)


def _describe(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    unknown = sorted({str(array.dtype) for array in arrays} - set(KINDS))
    if unknown:
        raise ValueError(
            f"inputs and outputs of {', '.join(unknown)} are not supported; known: {', '.join(KINDS)}"
        )
    if not all(array.flags.c_contiguous for array in arrays):
        raise ValueError("an input or output is not contiguous; allocate it as one block of memory")
    return np.array(
        [(array.ctypes.data, array.size, array.itemsize, KINDS[str(array.dtype)]) for array in arrays], _ARRAY
    )

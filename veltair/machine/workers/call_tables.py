"""The calls of a query's buffers as C arrays, in the layout of pool_types.h."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veltair.machine.c_library import CLibrary
from veltair.machine.workers.pool import BlockRun, Grant, Runnable, Sample, check_alike, view

MOST_VERSIONS = 256  # a grant has one byte for the version of a layer
# The constants of pool_types.h for arrays of a dtype.
KINDS = {
    "float32": "FLOAT32",
    "float64": "FLOAT64",
    "int8": "INT8",
    "uint8": "UINT8",
    "bool": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
}


@dataclass(slots=True, eq=False)
class ActiveBlock:
    """A block that runs: its token, the index of the worker that leads it, and its grants by number."""

    block: BlockRun
    token: int
    leader: int
    grants: dict[int, Grant]


class CallTables:
    """A query's buffers as arguments of its kernels: one block of it runs at a time.

    `layer_ns` holds the nanoseconds that each layer took when it ran last, and `away_ns` for how many of them
    its leader had no core, shape (layers,); the latter once `watch` was called. `least_ns` is how long each
    is to take at least.
    """

    def __init__(self, library: CLibrary, runnable: Runnable, name: str) -> None:
        """Lay the calls out. Raises ValueError for outputs of a dtype that pool.c cannot compare."""
        self.runnable = runnable
        self.error: Exception | None = None  # of a kernel in Python
        self.active: ActiveBlock | None = None
        self._library = library
        self._known: list[list[Any]] = [[None] * len(versions) for versions in runnable.calls]
        most = max(len(versions) for versions in runnable.calls)
        if most > MOST_VERSIONS:
            raise ValueError(
                f"{name} has {most} versions of a layer; at most {MOST_VERSIONS} can be told apart"
            )
        self._calls = np.zeros((len(self._known), most), library.dtype("call_t"))
        self._kept: dict[tuple[int, int], object] = {}  # what the calls point to
        self.layer_ns = np.zeros(len(self._known), np.uint64)
        self.away_ns = np.zeros(len(self._known), np.uint64)
        self.least_ns = np.zeros(len(self._known), np.uint64)
        inputs, outputs = (tuple(map(view, tensors)) for tensors in (runnable.inputs, runnable.outputs))
        self._arrays = _describe(library, inputs), _describe(library, outputs)
        self._views = inputs, outputs  # keep the memory alive
        self._table: Any = library.ffi.new("call_table_t *")
        self._fill(name)
        self.address = library.address(self._table)
        self.shape = (_shape(inputs), _shape(outputs))

    @property
    def layer_seconds(self) -> list[float]:
        """The same in seconds."""
        seconds: list[float] = (1e-9 * self.layer_ns).tolist()
        return seconds

    @property
    def away_seconds(self) -> list[float]:
        """For how long of that the core of its leader was taken away: by other programs, by other guests."""
        seconds: list[float] = (1e-9 * self.away_ns).tolist()
        return seconds

    def watch(self) -> None:
        """Have `away_seconds` noted from now on, which costs each layer a call of the system."""
        self._table.away_ns = self._library.pointer(self.away_ns)

    def hold_back(self, start: int, stop: int, least_s: Sequence[float]) -> None:
        """Let layers [start, stop) take so many seconds at least, or as long as they do if none are given."""
        self.least_ns[start:stop] = [round(1e9 * seconds) for seconds in least_s] if least_s else 0

    def refresh(self, start: int, versions: Sequence[int]) -> None:
        """Bind those calls anew that are other ones by now: a model that was loaded again has new weights.

        `versions` are of the layers from `start` on. Raises LookupError for a version that a layer lacks.
        """
        calls, known = self.runnable.calls, self._known
        for layer, version in enumerate(versions, start):
            try:
                if calls[layer][version] is not known[layer][version]:
                    self._bind(layer, version)
            except IndexError:
                raise LookupError(
                    f"layer {layer} has no version {version}; the block names {versions}"
                ) from None

    def bind_all(self) -> None:
        """Bind every version of every layer, for whoever starts blocks without asking."""
        for layer, versions in enumerate(self.runnable.calls):
            for version in range(len(versions)):
                self._bind(layer, version)

    def _fill(self, name: str) -> None:
        table, pointer = self._table, self._library.pointer
        table.calls, table.layer_ns = pointer(self._calls), pointer(self.layer_ns)
        table.least_ns = pointer(self.least_ns)
        table.inputs, table.outputs = map(pointer, self._arrays)
        table.layers, table.versions = self._calls.shape
        table.input_count, table.output_count = map(len, self._arrays)
        table.name = name.encode()[: self._library.functions.NAME_BYTES - 1]

    def _bind(self, layer: int, version: int) -> None:
        call = self.runnable.calls[layer][version]
        kernel, arguments = call
        if not hasattr(kernel, "__chandle__"):
            function = self._library.ffi.callback("safe_call_t", self._python(kernel, arguments))
            self._calls[layer, version] = (self._library.address(function), 0, 0, 0)
            self._kept[layer, version] = function
        else:
            constants = self._library.functions
            values = np.zeros(len(arguments), self._library.dtype("any_t"))
            values["type_index"] = constants.TENSOR_INDEX
            values["value"] = [tensor.__chandle__() for tensor in arguments]
            handle = kernel.__chandle__()
            safe_call = self._library.ffi.cast("uint64_t *", handle + constants.OBJECT_HEADER_BYTES)[0]
            self._calls[layer, version] = (safe_call, handle, values.ctypes.data, len(arguments))
            self._kept[layer, version] = values
        self._known[layer][version] = call

    def _python(self, kernel: Any, arguments: tuple[Any, ...]) -> Any:
        """Return a kernel that is no function of TVM's as a safe call: a stand-in, say."""

        def safe_call(*_: object) -> int:
            try:
                kernel(*arguments)
            except Exception as error:  # no caller is above: the notice of the block's end reports it
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
        self._pointers = tuple(
            np.array([array.ctypes.data for array in arrays], np.uintp) for arrays in self._arrays
        )
        self.inputs, self.answers = (pointers.ctypes.data for pointers in self._pointers)

    def check(self, buffers: CallTables) -> None:
        """Raise ValueError unless its arrays are like the model's inputs and outputs."""
        if self.shape != buffers.shape:
            pairs = zip(
                (*buffers.runnable.inputs, *buffers.runnable.outputs),
                (*self._arrays[0], *self._arrays[1]),
                strict=True,
            )
            for tensor, values in pairs:
                check_alike(view(tensor), values)


def _shape(arrays: Sequence[NDArray[Any]]) -> tuple[tuple[tuple[int, ...], Any], ...]:
    return tuple((array.shape, array.dtype) for array in arrays)


def _describe(library: CLibrary, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return arrays as records of `array_t`."""
    unknown = sorted({str(array.dtype) for array in arrays} - set(KINDS))
    if unknown:
        raise ValueError(
            f"inputs and outputs of {', '.join(unknown)} are not supported; known: {', '.join(KINDS)}"
        )
    if not all(array.flags.c_contiguous for array in arrays):
        raise ValueError("an input or output is not contiguous; allocate it as one block of memory")
    rows = [
        (
            array.ctypes.data,
            array.size,
            array.itemsize,
            getattr(library.functions, KINDS[str(array.dtype)]),
        )
        for array in arrays
    ]
    return np.array(rows, library.dtype("array_t"))

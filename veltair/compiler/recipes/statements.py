"""Statements that kernels are made of: conditions, sums in registers, and copies with a border of zeros."""

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T  # noqa: N812 - as TVM's own scripts call it

LINE_FLOATS = 16


class Where:
    """A context whose statements run where all conditions hold; without conditions, always."""

    def __init__(self, *conditions: Any) -> None:
        self._frames = [T.If(tirx.all(*conditions)), T.Then()] if conditions else []

    def __enter__(self) -> None:
        for one in self._frames:
            one.__enter__()

    def __exit__(self, *error: Any) -> None:
        for one in reversed(self._frames):
            one.__exit__(*error)


class Sums:
    """Sums of products in registers: rows x vectors of lanes, which begin as zeros."""

    def __init__(self, rows: int, vectors: int, lanes: int) -> None:
        self._lanes = lanes
        self._places = [tirx.Ramp(vector * lanes, 1, lanes) for vector in range(vectors)]
        # A buffer for each row: TVM puts 1024 bytes and more on the heap, where sums are no registers.
        self._rows = [T.alloc_buffer([vectors * lanes], "float32") for _ in range(rows)]
        zero = zeros(lanes)
        for row in self._rows:
            for place in self._places:
                T.buffer_store(row, zero, [place])

    def add(self, values: Sequence[Any], weights: Sequence[Any]) -> None:
        """Add the products of a value of each row and a vector of weights of each column."""
        kept = [T.bind(weight) for weight in weights]
        for row, value in zip(self._rows, values, strict=True):
            wide = T.bind(tirx.Broadcast(value, self._lanes))
            for place, weight in zip(self._places, kept, strict=True):
                T.buffer_store(row, row[place] + wide * weight, [place])

    def vectors(self, row: int) -> list[Any]:
        """Return the sums of a row."""
        return [self._rows[row][place] for place in self._places]


def zeros(lanes: int) -> Any:
    """Return a vector of zeros; a single one for one lane."""
    zero = tirx.FloatImm("float32", 0.0)
    return tirx.Broadcast(zero, lanes) if lanes > 1 else zero


def channels_at(first: Any, lanes: int) -> Any:
    """Return the index of so many channels in a row."""
    return tirx.Ramp(first, 1, lanes) if lanes > 1 else first


def widest(channels: int, lanes: int) -> int:
    """Return the widest register, of so many lanes or fewer, that channels fill without rest."""
    return max(width for width in (lanes, lanes // 2, lanes // 4, 1) if width and channels % width == 0)


def prefetch(first: Any, count: int, is_written: bool) -> None:
    """Let the cache lines of so many floats come into the L1, to be read or written."""
    for offset in range(0, count, LINE_FLOATS):
        *outer, inner = first.indices
        address = tirx.address_of(first.source[(*outer, inner + offset)])
        how = (T.int32(int(is_written)), T.int32(3), T.int32(1))  # into the L1, of data
        T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", address, *how))


def arguments_of(function: Any) -> list[Any]:
    """Declare the parameters of a layer's function as those of the kernel that is built, and return them."""
    return [
        T.arg(f"a{number}", T.buffer([int(extent) for extent in one.ty.shape], str(one.ty.dtype)))
        for number, one in enumerate(function.params)
    ]

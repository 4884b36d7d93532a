"""The constants of a built model: one file that can be mapped into memory, and where each is in it."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A page of x86-64: each constant can be fetched and dropped alone, and lies as kernels want it (64 bytes).
PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ConstantPlan:
    """Where a constant begins in the file, in bytes, and its shape and dtype."""

    offset_bytes: int
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if self.offset_bytes < 0 or self.offset_bytes % PAGE_BYTES:
            raise ValueError(
                f"a constant at byte {self.offset_bytes} cannot be mapped; give a multiple of {PAGE_BYTES}"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the constant alone, without what fills its last page."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def stop_bytes(self) -> int:
        """Where the next constant begins; an empty one has a page too, so that no two begin at one byte."""
        return self.offset_bytes + max(1, -(-self.nbytes // PAGE_BYTES)) * PAGE_BYTES


def write_constants(path: Path, arrays: Sequence[NDArray[Any]]) -> tuple[ConstantPlan, ...]:
    """Write arrays into one file and return where each is. An older file stays whole for who maps it."""
    plans: list[ConstantPlan] = []
    partial = path.with_name(f".{path.name}")
    with partial.open("wb") as stream:
        for array in arrays:
            offset_bytes = plans[-1].stop_bytes if plans else 0
            plans.append(ConstantPlan(offset_bytes, tuple(array.shape), str(array.dtype)))
            stream.seek(offset_bytes)
            array.tofile(stream)  # in C order, however it lies in memory
        stream.truncate(_file_bytes(plans))
    partial.replace(path)
    return tuple(plans)


class MappedConstants:
    """The constants of a built model, mapped: pages are read when they are first used, and never written."""

    def __init__(self, path: Path, plans: Sequence[ConstantPlan]) -> None:
        """Map the file. Raises LookupError if it is not there or is not the one that was planned."""
        wanted, found = _file_bytes(plans), path.stat().st_size if path.is_file() else 0
        if found != wanted:
            raise LookupError(
                f"{path} has {found} bytes, its plan says {wanted}; they are of two builds: delete "
                f"{path.parent} and run rule `build`"
            )
        self._plans = tuple(plans)
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def array(self, number: int) -> NDArray[Any]:
        """Return a constant as it lies in the file, read-only."""
        plan = self._plans[number]
        return np.ndarray(plan.shape, plan.dtype, buffer=self._map, offset=plan.offset_bytes)

    def expect(self, number: int) -> None:
        """Let the system begin to read a constant from disk."""
        self._advise(mmap.MADV_WILLNEED, number)

    def fetch(self, number: int) -> None:
        """Bring all pages of a constant into memory."""
        plan = self._plans[number]
        pages = np.frombuffer(self._map, np.uint8, plan.nbytes, plan.offset_bytes)[::PAGE_BYTES]
        pages.sum()  # one byte of each page

    def drop(self, number: int) -> None:
        """Give the memory of a constant back. Who still reads it fetches it again, with the same values."""
        self._advise(mmap.MADV_DONTNEED, number)

    def _advise(self, advice: int, number: int) -> None:
        plan = self._plans[number]
        self._map.madvise(advice, plan.offset_bytes, plan.stop_bytes - plan.offset_bytes)


def _file_bytes(plans: Sequence[ConstantPlan]) -> int:
    return plans[-1].stop_bytes if plans else PAGE_BYTES  # an empty file cannot be mapped

"""Memory that front and engine share: a slot holds the inputs and outputs of one request of one model.

The engine makes the memory of a model, the front maps it and hands slots out. A slot is all zero when it is
handed out: nobody sees what a request before left there.
"""

import fcntl
import mmap
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from veltair.service.engine.link import Tensor
from veltair.serving.engine.open_engine import SlotAddresses

ALIGNMENT = 64  # a cache line, and the widest vectors
# Larger slots give their pages back, which come back as zeros; smaller ones are overwritten, which is faster.
GIVEN_BACK_BYTES = 1 << 20
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True)
class Layout:
    """Where inputs and outputs of a request lie in its slot, as (offset, bytes), and the bytes of a slot."""

    inputs: tuple[tuple[int, int], ...]
    outputs: tuple[tuple[int, int], ...]
    slot_bytes: int


def layout_of(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Layout:
    """Lay tensors out one after the other, each at the begin of a cache line, slots on pages of their own."""
    at, spans = 0, list[tuple[int, int]]()
    for tensor in (*inputs, *outputs):
        spans.append((at, tensor.nbytes))
        at += tensor.nbytes + -tensor.nbytes % ALIGNMENT
    return Layout(
        tuple(spans[: len(inputs)]), tuple(spans[len(inputs) :]), max(at, 1) + -max(at, 1) % mmap.PAGESIZE
    )


class SlotMemory:
    """The slots of one model, mapped into this process. Its size cannot be changed by anybody."""

    def __init__(self, layout: Layout, slots: int, file: int | None = None) -> None:
        """Map the memory of a file that another process made, or make it. The file is this object's to close.

        Raises ValueError for a file of another size, OSError without memory.
        """
        self.layout, self.slots = layout, slots
        size = layout.slot_bytes * slots
        if file is None:
            file = os.memfd_create("slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(file, size)
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
        self.file = file
        if os.fstat(file).st_size != size:
            raise ValueError(f"the memory of {slots} slots has {os.fstat(file).st_size} bytes, not {size}")
        self._mapped = mmap.mmap(file, size)
        self._zeros = bytes(layout.slot_bytes if layout.slot_bytes <= GIVEN_BACK_BYTES else 0)

    def addresses(self, first: int) -> list[SlotAddresses]:
        """Return where each slot's inputs and outputs are for C, the slots numbered from `first` on."""
        base = int(np.frombuffer(self._mapped, np.uint8).ctypes.data)
        begins = [base + number * self.layout.slot_bytes for number in range(self.slots)]
        return [
            SlotAddresses(
                first + number,
                tuple(begin + offset for offset, _ in self.layout.inputs),
                tuple(begin + offset for offset, _ in self.layout.outputs),
            )
            for number, begin in enumerate(begins)
        ]

    def inputs(self, slot: int) -> list[memoryview]:
        """Return the writable bytes of the inputs of a slot."""
        return self._views(slot, self.layout.inputs)

    def outputs(self, slot: int) -> list[memoryview]:
        """Return the bytes of the outputs of a slot, not to be written."""
        return [view.toreadonly() for view in self._views(slot, self.layout.outputs)]

    def clear(self, slot: int) -> None:
        """Have all of a slot be zero."""
        begin = slot * self.layout.slot_bytes
        if self._zeros:
            self._mapped[begin : begin + self.layout.slot_bytes] = self._zeros
        else:
            self._mapped.madvise(mmap.MADV_REMOVE, begin, self.layout.slot_bytes)

    def close(self) -> None:
        """Close the file. What is mapped goes with the last view of it."""
        os.close(self.file)

    def _views(self, slot: int, spans: Sequence[tuple[int, int]]) -> list[memoryview]:
        begin = slot * self.layout.slot_bytes
        whole = memoryview(self._mapped)
        return [whole[begin + offset : begin + offset + nbytes] for offset, nbytes in spans]


class SlotPool:
    """Hands out the slots of one model, and takes them back."""

    def __init__(self, key: str, memory: SlotMemory, first: int) -> None:
        """Take the memory of all slots; the engine numbers them from `first` on."""
        self.key, self.memory, self.first = key, memory, first
        self._free = deque(range(memory.slots))

    @property
    def free(self) -> int:
        """How many slots can be had."""
        return len(self._free)

    def take(self) -> "PooledSlot | None":
        """Return a slot; None if all are in use. The one that was used last comes first: it is in caches."""
        return PooledSlot(self, self._free.pop()) if self._free else None

    def give_back(self, slot: int) -> None:
        """Take a slot back, once neither side uses it, and clear it."""
        self.memory.clear(slot)
        self._free.append(slot)


class PooledSlot:
    """A slot that was handed out: `Slot` of link.py.

    While `under_way`, the engine may read and write it: it goes back to the pool only after that.
    """

    def __init__(self, pool: SlotPool, index: int) -> None:
        """Take one from a pool."""
        self.pool, self._index = pool, index
        self.under_way = self.is_released = False
        self.inputs: Sequence[memoryview] = pool.memory.inputs(index)
        self.outputs: Sequence[memoryview] = pool.memory.outputs(index)

    @property
    def key(self) -> str:
        """The model that it is for."""
        return self.pool.key

    @property
    def number(self) -> int:
        """What the engine calls it."""
        return self.pool.first + self._index

    def release(self) -> None:
        """Give it back as soon as the engine is done with it; a second call does nothing."""
        if not self.is_released:
            self.is_released = True
            self._give_back()

    def end(self) -> None:
        """Note that the engine is done with it."""
        self.under_way = False
        if self.is_released:
            self._give_back()

    def _give_back(self) -> None:
        if self.under_way:
            return
        for view in (*self.inputs, *self.outputs):
            view.release()
        self.pool.give_back(self._index)

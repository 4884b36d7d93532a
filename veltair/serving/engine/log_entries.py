"""The entries of a live run's log, as live_loop.h declares them, in Python."""

import struct
from collections.abc import Collection, Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from veltair.machine.c_library import CLayoutError, CLibrary
from veltair.serving.loop.dispatcher import UNFINISHED_REASON
from veltair.serving.loop.query import Ending, Query, QueryRecord
from veltair.serving.policies.discipline import late_reason

_READ_BYTES = 1 << 20
_ENDINGS = (Ending.SERVED, Ending.REJECTED, Ending.UNFINISHED)  # ending_t


class EntryKind(IntEnum):
    """What an entry tells: `entry_kind_t`."""

    ARRIVED = 0
    FLUSHED = 1
    BLOCK_ENDED = 2
    CORES_ADOPTED = 3
    DUE = 4
    DECIDED = 5
    BLOCK_STARTED = 6
    BLOCK_RESIZED = 7
    BLOCK_YIELDS = 8
    QUERY_ENDED = 9
    BUFFERS_LACK = 10
    BROKEN = 11
    LEFT = 12
    OVER = 13
    WAKE_CAME = 14
    WAKE_SET = 15
    WITHDRAWN_BY_CLIENT = 16
    CHANGED = 17


class Entry(NamedTuple):
    """An entry: the fields of `entry_t`, and the bytes that follow it."""

    kind: EntryKind
    time_s: float
    seconds: float
    since_s: float
    slack_s: float
    least_s: float
    pressure: float
    id: int
    model: int
    sample: int
    first: int
    layer: int
    cores: int
    wanted: int
    number: int
    code: int
    extra: bytes

    @property
    def versions(self) -> tuple[int, ...] | None:
        """The version of each layer, of a start or of a change that has new ones."""
        return tuple(self.extra[: self.layer - self.first]) if self.number else None

    @property
    def held(self) -> tuple[int, ...]:
        """The indices of the workers that the block holds, its leader's first."""
        return tuple(np.frombuffer(self.extra[len(self.versions or ()) :], np.uint16).tolist())

    @property
    def ended_layers(self) -> tuple[int, ...]:
        """The ended layers of running blocks, oldest first, as a decision read them; none if it did not."""
        return tuple(np.frombuffer(self.extra, np.int32).tolist())

    @property
    def reason(self) -> str:
        """Why a query was rejected."""
        if self.first:
            return self.extra.decode(errors="replace")
        return late_reason(self.slack_s, self.least_s)


def record_of(entry: Entry, query: Query) -> QueryRecord:
    """Return what an entry says of the end of a query."""
    ending = _ENDINGS[entry.code]
    reasons = {
        Ending.SERVED: "",
        Ending.REJECTED: entry.reason,
        Ending.UNFINISHED: UNFINISHED_REASON,
    }
    times = entry.since_s, entry.time_s
    return QueryRecord(query, ending, *times, entry.number, entry.wanted, entry.seconds, reasons[ending])


def _struct_of(dtype: np.dtype[np.void], names: Sequence[str]) -> struct.Struct:
    """Return what unpacks the first fields of a structure: some times as fast as NumPy, one at a time."""
    assert dtype.fields is not None
    described, at = "@", 0  # the alignment adds nothing: offsets have it
    for name in names:
        kind, offset = dtype.fields[name][:2]
        described += f"{offset - at}x{kind.char}"
        at = offset + kind.itemsize
    return struct.Struct(described)


class LogReader:
    """Reads entries from bytes: those of a file, or of a run that goes on."""

    def __init__(self, library: CLibrary) -> None:
        """Take the library that declares `entry_t`. Raises CLayoutError if it has other kinds."""
        wrong = library.numbers(EntryKind, "entry_kind_t") != {kind: kind for kind in EntryKind}
        if wrong or tuple(library.numbers(Ending, "ending_t")[ending] for ending in _ENDINGS) != (0, 1, 2):
            raise CLayoutError("entry_kind_t or ending_t is numbered otherwise in C; make both agree")
        self._dtype = library.dtype("entry_t")
        if (names := ("kind", "extra_bytes", *Entry._fields[1:-1])) != self._dtype.names:
            raise CLayoutError(
                f"entry_t has fields {self._dtype.names}, Entry needs {names}; make them agree"
            )
        self._whole = _struct_of(self._dtype, self._dtype.names)
        self._head = _struct_of(self._dtype, self._dtype.names[:2])
        self._buffer = library.ffi.new("char[]", _READ_BYTES)
        self._library = library

    def read(self, live: Any) -> bytes:
        """Return the new entries of a run, as many as there is room for."""
        count = self._library.functions.live_read(live, self._buffer, _READ_BYTES)
        return bytes(self._library.ffi.buffer(self._buffer, count))

    def entries(self, log: bytes, kinds: Collection[EntryKind] = tuple(EntryKind)) -> Iterator[Entry]:
        """Yield what whole entries of some kinds say. Raises ValueError if the last one is cut short.

        Others are passed over at little cost: who reads while kernels run takes a core from them.
        """
        at, size, asked = 0, self._dtype.itemsize, frozenset(map(int, kinds))
        while at < len(log):
            if at + size > len(log):
                raise ValueError(f"the log ends in the middle of an entry, at byte {at} of {len(log)}")
            kind, extra_bytes = self._head.unpack_from(log, at)
            end = at + size + extra_bytes
            if kind in asked:
                _, _, *fields = self._whole.unpack_from(log, at)
                yield Entry._make((EntryKind(kind), *fields, log[at + size : end]))
            at = end + -end % 8

"""The timeline of a live run, from its log."""

import math
from collections.abc import Iterable, Mapping

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.engine.log_entries import Entry, EntryKind, record_of
from veltair.serving.loop.backend import Arrival, BlockEnd, Closed, Command, Event, Resized, Woken
from veltair.serving.loop.policy import Allocation, Context, Resize, Wake, Yield
from veltair.serving.loop.query import Query
from veltair.serving.loop.timeline import LIMIT, Recorder, Timeline


def timeline_of(entries: Iterable[Entry], context: Context, placement: str, limit: int = LIMIT) -> Timeline:
    """Return what a run's log tells, of at most `limit` blocks, samples and given up queries each."""
    told = _Told(context)
    recorder = Recorder(told, context, placement, limit=limit, cores_of=told.cores_of, now_s=told.now_s)
    for entry in entries:
        if (event := told.event_of(entry)) is not None:
            told.event = event
            recorder.wait()
        elif (command := told.command_of(entry)) is not None:
            recorder.do(command)
        elif entry.kind is EntryKind.DECIDED:
            recorder.pressure()
        elif entry.kind is EntryKind.QUERY_ENDED:
            recorder.end(record_of(entry, told.queries[entry.id]))
    return recorder.timeline()


class _Told:
    """A backend that says what an entry says."""

    def __init__(self, context: Context) -> None:
        self.event: Event | None = None
        self.queries: dict[int, Query] = {}
        self._names, self._models = list(context.models), context.models
        self._core_ids = context.machine.core_ids
        self._held: dict[int, tuple[int, ...]] = {}
        self._now_s, self._pressure = 0.0, 0.0

    def event_of(self, entry: Entry) -> Event | None:
        """Return the event that an entry tells, if it is one."""
        self._now_s = entry.time_s
        match entry.kind:
            case EntryKind.ARRIVED:
                model = self._models[self._names[entry.model]]
                query = Query(entry.id, model.name, entry.time_s, model.qos_s)
                self.queries[entry.id] = query
                return Arrival(entry.time_s, query)
            case EntryKind.BLOCK_ENDED:
                return BlockEnd(entry.time_s, entry.id, entry.layer)
            case EntryKind.CORES_ADOPTED:
                self._hold(entry)
                return Resized(entry.time_s, entry.id, entry.cores)
            case EntryKind.WAKE_CAME:
                return Woken(entry.time_s)
            case EntryKind.DUE:
                return Closed(entry.time_s)
            case EntryKind.DECIDED if not math.isnan(entry.pressure):
                self._pressure = entry.pressure
        return None

    def command_of(self, entry: Entry) -> Command | None:
        """Return the command that an entry tells, if it is one."""
        match entry.kind:
            case EntryKind.BLOCK_STARTED:
                self._hold(entry)
                block = LayerBlock(self._names[entry.model], entry.first, entry.layer)
                limit = entry.seconds or None
                asked = entry.versions or (), entry.cores, entry.wanted
                return Allocation(entry.id, block, *asked, dram_bytes_per_s=limit)
            case EntryKind.BLOCK_RESIZED:
                self._hold(entry)
                return Resize(entry.id, entry.cores, entry.versions)
            case EntryKind.BLOCK_YIELDS:
                return Yield(entry.id)
            case EntryKind.WAKE_SET:
                return Wake(entry.seconds)
        return None

    def cores_of(self, query_id: int) -> tuple[int, ...]:
        """Return the cores that a query's block holds."""
        return self._held.get(query_id, ())

    def now_s(self) -> float:
        """Return the time of the entry."""
        return self._now_s

    def do(self, command: Command) -> None:
        """Do nothing: it was done."""

    def wait(self) -> Event | None:
        """Return the event of the entry."""
        return self.event

    def pressure(self) -> float:
        """Return what was read last."""
        return self._pressure

    def progress(self) -> Mapping[int, int]:
        """Return nothing: nobody decides."""
        return {}

    def _hold(self, entry: Entry) -> None:
        self._held[entry.id] = tuple(self._core_ids[index] for index in entry.held)

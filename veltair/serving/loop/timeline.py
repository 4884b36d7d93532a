"""The timeline of a run: which block ran on which cores and when, recorded between serve() and a backend."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.topology.placement import PLACEMENTS, Holdings
from veltair.machine.topology.topology import Machine
from veltair.serving.loop.backend import (
    Arrival,
    Backend,
    BackendWrapper,
    BlockEnd,
    Closed,
    Command,
    Event,
    Resized,
)
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Allocation, Context, Evict, Load, Resize, Wake, Yield
from veltair.serving.loop.query import Ending, Query, QueryRecord

# A block takes about a kilobyte here and some in each file that is drawn from it, times the cores it had.
LIMIT = 20_000


@dataclass(frozen=True, slots=True)
class Tenure:
    """The time that a block held one core: its own from `begin_s`, in use from `use_s`, free from `end_s` on.

    A block that grows reserves cores before it uses them. `use_s` equals `end_s` where it ended first.
    """

    core: int
    begin_s: float
    use_s: float
    end_s: float

    def __post_init__(self) -> None:
        if not self.begin_s <= self.use_s <= self.end_s:
            raise ValueError(
                f"Tenure of core {self.core}: held from {self.begin_s} s, used from {self.use_s} s, free at "
                f"{self.end_s} s; give times that follow each other"
            )


@dataclass(frozen=True, slots=True)
class Resizing:
    """A change of a running block: asked for at `asked_s`, adopted at its next layer end, `adopted_s`.

    `versions` has one entry for each layer of the block; None where it kept those that it had.
    """

    asked_s: float
    adopted_s: float
    cores: int
    versions: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Yielding:
    """The early end of a block before layer `next_layer` of its model: asked for at `asked_s`."""

    asked_s: float
    next_layer: int


@dataclass(frozen=True, slots=True)
class BlockSpan:
    """One layer block as it ran.

    `versions` (one for each layer), `cores` and `wanted_cores` are those of its allocation, `pressure` in
    [0, 1] what a block started then was to meet. `resizes` are those that it adopted. `completed` is False
    where the run ended first. `yielding` is None where it was not to yield or did in its last layer. One that
    shared its cores has no `tenures`.
    """

    query: Query
    block: LayerBlock
    versions: tuple[int, ...]
    cores: int
    wanted_cores: int
    pressure: float
    start_s: float
    end_s: float
    tenures: tuple[Tenure, ...]
    resizes: tuple[Resizing, ...]
    completed: bool
    yielding: Yielding | None = None

    def __post_init__(self) -> None:
        if self.end_s < self.start_s:
            raise ValueError(
                f"BlockSpan of query {self.query.id}: ends at {self.end_s} s, but starts at {self.start_s} s"
            )

    @property
    def ran(self) -> LayerBlock:
        """Its layers, but for those that it left when it yielded."""
        if self.yielding is None:
            return self.block
        return LayerBlock(self.block.model, self.block.start, self.yielding.next_layer)

    @property
    def in_conflict(self) -> bool:
        """Whether it started on fewer cores than it wanted."""
        return self.cores < self.wanted_cores


@dataclass(frozen=True, slots=True)
class StateSample:
    """The state after an event was dealt with: pressure in [0, 1] at the event, queries that still wait."""

    time_s: float
    pressure: float
    pending: int


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A query that was rejected, or unfinished when the run ended."""

    time_s: float
    query: Query
    ending: Ending
    reason: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run as recorded: `spans` by their end, `samples` and `given_up` in the order of time.

    `layers` is the number of layers of each model. `cores_from` says where core ids come from. `left_out`
    counts blocks, samples and given up queries that were beyond the recorder's limit, by those names.
    """

    machine: Machine
    layers: Mapping[str, int]
    cores_from: str
    spans: tuple[BlockSpan, ...]
    samples: tuple[StateSample, ...]
    given_up: tuple[GivenUp, ...]
    end_s: float
    left_out: Mapping[str, int]

    def between(self, begin_s: float, end_s: float) -> list[BlockSpan]:
        """Return the blocks that ran in [begin_s, end_s). Raises ValueError if that is no span of time."""
        if not 0 <= begin_s < end_s < math.inf:
            raise ValueError(
                f"the window from {begin_s} s to {end_s} s is empty; give an end after its begin"
            )
        return [span for span in self.spans if span.start_s < end_s and span.end_s > begin_s]


@dataclass(slots=True)
class _Open:
    """A running block: since when it holds and uses each core, and the last resize that it was sent."""

    allocation: Allocation
    query: Query
    pressure: float
    start_s: float
    held: dict[int, float] = field(default_factory=dict)
    used: dict[int, float] = field(default_factory=dict)
    tenures: list[Tenure] = field(default_factory=list)
    resizes: list[Resizing] = field(default_factory=list)
    asked: tuple[float, Resize] | None = None
    yield_asked_s: float | None = None

    def hold(self, cores: Sequence[int], using: int, time_s: float) -> None:
        """Hold exactly these cores from now on, and use at least the first `using` of them."""
        kept = set(cores)
        self.tenures += [self._tenure(core, time_s) for core in self.held if core not in kept]
        for core in [core for core in self.held if core not in kept]:
            del self.held[core]
            self.used.pop(core, None)
        for index, core in enumerate(cores):
            begin_s = self.held.setdefault(core, time_s)
            if index < using:
                self.used.setdefault(core, max(time_s, begin_s))

    def close(self, time_s: float, next_layer: int | None = None) -> BlockSpan:
        """Return the block as it ran until now, up to `next_layer`; None: the run ended first."""
        # A worker may have ended it while the dispatcher was still about to give it more cores.
        end_s = max(time_s, self.start_s, *self.held.values(), *self.used.values())
        given, yielding = self.allocation, None
        if next_layer is not None and next_layer < given.block.stop:
            asked_s = end_s if self.yield_asked_s is None else self.yield_asked_s
            yielding = Yielding(asked_s, next_layer)
        return BlockSpan(
            self.query,
            given.block,
            given.versions,
            given.cores,
            given.wanted_cores or given.cores,
            self.pressure,
            self.start_s,
            end_s,
            (*self.tenures, *(self._tenure(core, end_s) for core in self.held)),
            tuple(self.resizes),
            next_layer is not None,
            yielding,
        )

    def _tenure(self, core: int, time_s: float) -> Tenure:
        begin_s = self.held[core]
        end_s = max(time_s, begin_s, self.used.get(core, begin_s))
        return Tenure(core, begin_s, self.used.get(core, end_s), end_s)


class Recorder(BackendWrapper):
    """A backend that passes everything on to another one, and keeps the timeline of what it does.

    Backends that count cores have no ids: then the ids are assigned here, grant by grant, by the placement of
    that name; `Timeline.cores_from` says so. At most `limit` blocks, samples and given up queries are kept,
    the first of each; the others are counted.
    """

    def __init__(
        self,
        backend: Backend,
        context: Context,
        placement: str,
        *,
        limit: int = LIMIT,
        cores_of: Callable[[int], Sequence[int]] | None = None,
        now_s: Callable[[], float] | None = None,
    ) -> None:
        """Record from the backend's first event on.

        `cores_of` returns the ids that a running query's block holds, where the backend knows them. `now_s`
        is a real backend's clock: blocks then start at its time, not at that of the event before. Raises
        ValueError on a limit below 1 or an unknown placement.
        """
        if limit < 1:
            raise ValueError(f"the limit of a timeline is {limit}; give 1 block or more")
        super().__init__(backend)
        self._machine, self._limit, self._clock = context.machine, limit, now_s
        self._layers = {name: len(model.layers) for name, model in context.models.items()}
        self._holdings: Holdings | None = None
        self._cores_from = "granted by the backend"
        self._cores_of = cores_of or self._assign(placement)
        self._now_s, self._pressure, self._pending = 0.0, 0.0, 0
        self._queries: dict[int, Query] = {}
        self._models: dict[int, str] = {}  # of the blocks that run
        self._open: dict[int, _Open] = {}
        self._spans: list[BlockSpan] = []
        self._samples, self._given_up = list[StateSample](), list[GivenUp]()
        self._left_out = {"blocks": 0, "samples": 0, "given up queries": 0}

    def timeline(self) -> Timeline:
        """Return what was recorded so far; blocks that still run end at the last event, not completed."""
        cut = [block.close(self._now_s) for block in self._open.values()]
        return Timeline(
            self._machine,
            self._layers,
            self._cores_from,
            (*self._spans, *cut),
            tuple(self._samples),
            tuple(self._given_up),
            self._now_s,
            dict(self._left_out),
        )

    def end(self, record: QueryRecord) -> None:
        """Take in the end of a query, which only the dispatcher knows of where it was given up."""
        query = record.query
        self._queries.pop(query.id, None)
        if record.ending is Ending.SERVED:
            return
        self._pending -= record.ending is Ending.REJECTED
        if len(self._given_up) < self._limit:
            self._given_up.append(GivenUp(record.end_s, query, record.ending, record.reason))
        else:
            self._left_out["given up queries"] += 1

    def do(self, command: Command) -> None:
        """Pass a command on and record it."""
        match command:
            case Allocation():
                self._start(command, self._stamp())
            case Resize():
                self._resize(command, self._stamp())
            case Yield(query_id=query_id):
                if (block := self._open.get(query_id)) is not None:
                    block.yield_asked_s = self._stamp()
                self._backend.do(command)
            case Wake() | Load() | Evict():
                self._backend.do(command)

    def wait(self) -> Event | None:
        """Return the backend's next event."""
        self._sample()
        event = self._backend.wait()
        if event is not None:
            # Events of real workers may arrive a little out of order.
            self._now_s = max(self._now_s, event.time_s)
            self._record(event)
        return event

    def pressure(self) -> float:
        """Return the backend's pressure."""
        self._pressure = self._backend.pressure()
        return self._pressure

    def _assign(self, placement: str) -> Callable[[int], Sequence[int]]:
        if placement not in PLACEMENTS:
            raise ValueError(f"{placement!r} is no placement; choose from {', '.join(PLACEMENTS)}")
        self._holdings = Holdings(self._machine, PLACEMENTS[placement])
        self._cores_from = f"assigned by placement `{placement}` to the counts that were granted"
        return self._holdings.of

    def _stamp(self) -> float:
        if self._clock is not None:
            self._now_s = max(self._now_s, self._clock())
        return self._now_s

    def _start(self, allocation: Allocation, time_s: float) -> None:
        self._pending -= 1 + len(allocation.others)
        query_id = allocation.query_id
        self._backend.do(allocation)
        if self._holdings is not None and allocation.shares_cores:
            self._holdings.enter(query_id)
        elif self._holdings is not None:
            self._holdings.take(query_id, allocation.cores, allocation.first_core)
        self._models[query_id] = allocation.block.model
        if len(self._spans) + len(self._open) >= self._limit:
            self._left_out["blocks"] += 1
            return
        block = _Open(allocation, self._queries[query_id], self._pressure, time_s)
        block.hold(self._cores_of(query_id), allocation.cores, time_s)
        self._open[query_id] = block

    def _resize(self, resize: Resize, time_s: float) -> None:
        self._backend.do(resize)
        if self._holdings is not None:
            self._holdings.resize(resize.query_id, resize.cores)
        if (block := self._open.get(resize.query_id)) is not None:
            block.hold(self._cores_of(resize.query_id), 0, time_s)
            block.asked = (time_s, resize)

    def _record(self, event: Event) -> None:
        match event:
            case Arrival(query=query):
                self._queries[query.id] = query
                self._pending += 1
            case BlockEnd(query_id=query_id):
                if self._holdings is not None:
                    self._holdings.release(query_id)
                self._pending += event.next_layer < self._layers[self._models.pop(query_id)]
                if (span := self._open.pop(query_id, None)) is not None:
                    self._spans.append(span.close(event.time_s, event.next_layer))
            case Resized():
                self._adopt(event)
            case Closed():
                self._pending = 0

    def _adopt(self, event: Resized) -> None:
        if self._holdings is not None:
            self._holdings.adopt(event.query_id, event.cores)
        block = self._open.get(event.query_id)
        if block is None:
            return
        block.hold(self._cores_of(event.query_id), event.cores, event.time_s)
        if block.asked is not None:
            asked_s, resize = block.asked
            adopted_s = max(asked_s, event.time_s)
            block.resizes.append(Resizing(asked_s, adopted_s, event.cores, resize.versions))
            block.asked = None

    def _sample(self) -> None:
        sample = StateSample(self._now_s, self._pressure, self._pending)
        last = self._samples[-1] if self._samples else None
        if last is not None and (last.pressure, last.pending) == (sample.pressure, sample.pending):
            return
        if len(self._samples) < self._limit:
            self._samples.append(sample)
        else:
            self._left_out["samples"] += 1


def serve_recorded(dispatcher: Dispatcher, recorder: Recorder) -> Iterator[QueryRecord]:
    """Run to the end and yield each query's record once, as `serve`; the recorder has the timeline then."""
    for record in serve(dispatcher, recorder):
        recorder.end(record)
        yield record

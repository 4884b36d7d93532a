"""The engine whose loop is in C: workers, and the thread at the door, decide; Python sets up and watches.

For any policy, all of whose models are in memory: one with a native spec decides in C, others are called
back. `engine.py` is for models that are loaded under way. See docs/engine.md for the threads. What happens
comes through a log, from which `serve` makes the records.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.c_library import KeptArrays
from veltair.machine.interference.source import InterferenceSource
from veltair.machine.workers.call_tables import CallTables
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import (
    STOP_S,
    BlockRun,
    CoreLostError,
    Grant,
    Launch,
    Sample,
    Servable,
)
from veltair.machine.workers.priorities import Promptness, run_promptly
from veltair.serving.engine.live_tables import LiveSamples, LiveTables, core_layout, load
from veltair.serving.engine.log_entries import Entry, EntryKind, LogReader, record_of
from veltair.serving.engine.running_blocks import (
    CANNOT_SHARE_CORES,
    RunningBlock,
    WorkerStates,
    profiled_s,
)
from veltair.serving.engine.warm_up import warm_up_models
from veltair.serving.engine.watchdog import (
    DecisionWatch,
    EngineError,
    Watchdog,
    check_tables,
    failed_error,
    left_error,
)
from veltair.serving.loop.open_queries import stall
from veltair.serving.loop.policy import Allocation, Context, Policy
from veltair.serving.loop.query import Query, QueryRecord
from veltair.serving.policies.deciders import Decider, decider_of

HUNG_STOP_S = 0.1  # what ends by then is not what hangs
# How long the log is left alone while blocks run: so old may the pressure be that blocks tell.
READ_S = 0.02
_IDLE_S = 0.001  # between looks whether the blocks of a run that was cut off have ended
RINGS = (EntryKind.BUFFERS_LACK, EntryKind.BROKEN, EntryKind.LEFT, EntryKind.OVER)
TAKEN = (
    *(EntryKind.ARRIVED, EntryKind.FLUSHED, EntryKind.BLOCK_STARTED, EntryKind.BLOCK_RESIZED),
    *(EntryKind.BLOCK_ENDED, EntryKind.QUERY_ENDED, *RINGS),
)
_BLOCKS_REMEMBERED = 1 << 14
CheckClient = Callable[[bool], None]
"""Raises if LoadGen hangs; or, where it is given True, because it has left."""
# Of engines whose kernels did not end: their workers may read all this until the process ends.
_HUNG: "list[NativeEngine]" = []


@dataclass(frozen=True, slots=True)
class Site:
    """Where queries are served, by a `placement` of PLACEMENTS, and until `drain_s` after the last came."""

    context: Context
    placement: str
    interference: InterferenceSource
    drain_s: float


class NativeEngine:
    """Serves queries on the cores of this machine, as a policy decides.

    Every answer is compared with the right one; `wrong_answers` counts those that differ by more than 1e-4
    relative. Times are seconds since the run began, on the monotonic clock (`zero_s`). `log` is what has been
    read of the log so far; `arrivals` and `is_flushed` tell which queries of the run had come by then.
    """

    def __init__(
        self,
        site: Site,
        models: Mapping[str, Servable],
        samples: Sequence[tuple[str, Sample]],
        launch: Launch,
    ) -> None:
        """Start the workers with `launch`. `samples` maps LoadGen's sample index to a model and its input.

        Raises EngineError if the cost table is another machine's.
        """
        context = site.context
        check_tables(context.costs, context.machine)
        self.wrong_answers, self.arrivals, self.is_flushed = 0, 0, False
        self.log: list[bytes] = []
        self._site, self._samples, self._models = site, samples, models
        self._pool = _native(launch(context.machine.core_ids))
        self._library = library = load(self._pool.build_dir)
        self._buffers = {name: [self._new_buffers(name) for _ in context.machine.core_ids] for name in models}
        self._arrays, self._reader = KeptArrays(library), LogReader(library)
        self._check_client: CheckClient = _nobody_asks
        self._watchdog = Watchdog(
            WorkerStates(self._pool, context.machine.core_ids), context.costs, context.machine.core_ids
        )
        self._tables: LiveTables | None = None
        self._samples_in_c: LiveSamples | None = None
        self._policy: Policy | None = None
        self._decider: Decider | None = None
        self._decisions: DecisionWatch | None = None
        self._blocks: dict[int, Entry] = {}  # the starts of running blocks
        self._profiled_s = lru_cache(_BLOCKS_REMEMBERED)(partial(profiled_s, context.costs))
        self._changed: set[int] = set()
        self._queries: dict[int, Query] = {}
        self._names = list(context.models)
        self._error: Exception | None = None
        self._is_over, self._ended_at = False, 0
        self._changes = 0  # of the models, so far as they were read of
        self.promptness = Promptness.NORMAL  # of the thread that takes queries in, while a run goes on
        self._live: Any = None
        self.zero_s = time.monotonic()

    # Before the run.

    def warm_up(self, names: Collection[str] | None = None) -> None:
        """Run every buffer of some models, or of all, once, so that no query pays for first touches.

        Raises EngineError if one fails or hangs.
        """
        costs, cores = self._site.context.costs, self._site.context.machine.core_ids
        watchdog = Watchdog(self._pool, costs, cores)  # the loop in C does not run these blocks
        warm_up_models(self._pool, watchdog, costs, cores, self._buffers, self._samples, names)

    def begin(self, policy: Policy, *, rings_at_ends: bool = False) -> None:
        """Let the loop in C have the workers for a run in which a fresh policy decides: queries may arrive.

        `rings_at_ends` makes `serve` yield each record at once, not some milliseconds later. The blocks of a
        run before, which was cut off, end first; raises EngineError if one hangs.
        """
        self._end_run()
        parts = self._library, self._pool, self._site.context, self._buffers
        self._samples_in_c = samples = LiveSamples(*parts, self._samples)
        tables = LiveTables(self._library, self._site.context, self._buffers, samples.rows)
        decider = decider_of(policy, self._site.context, self._library)
        rings = {*RINGS, EntryKind.QUERY_ENDED} if rings_at_ends else set(RINGS)
        self._open(policy, decider, tables, rings)

    def _open(
        self,
        policy: Policy,
        decider: Decider,
        tables: LiveTables,
        rings: Collection[EntryKind],
        *,
        tells_outcomes: bool = False,
    ) -> None:
        self._policy, self._decider, self._tables = policy, decider, tables
        self._decisions = DecisionWatch(policy, decider)
        self.wrong_answers, self.arrivals, self.is_flushed = 0, 0, False
        self.log, self._blocks, self._changed, self._queries = [], {}, set(), {}
        self._is_over, self._error, self._check_client, self._changes = False, None, _nobody_asks, 0
        self.zero_s = time.monotonic()
        site, ffi = self._site, self._library.ffi
        settings = {
            **tables.settings,
            "layout": core_layout(site.context.machine, site.placement, self._arrays),
            "zero_ns": round(1e9 * self.zero_s),
            "drain_s": site.drain_s,
            "cores": site.context.machine.cores,
            "rings": sum(1 << kind for kind in rings),
            "tells_outcomes": tells_outcomes,
        }
        pool, functions = (ffi.cast("void *", address) for address in self._pool.in_c)
        error, given = ffi.new("int *"), ffi.new("live_settings_t *", settings)
        live = self._library.functions.live_open(pool, functions, decider.decider, given, error)
        if not live:
            raise OSError(error[0], "cannot start the loop over the workers")
        self._live = live
        self.promptness = run_promptly(self._library.functions.live_door_id(live))

    # What other threads call, once it has begun.

    def arrive(self, query_id: int, sample: int, monotonic_s: float) -> None:
        """Take in a query, from any thread."""
        self._library.functions.live_arrive(self._live, query_id, sample, round(1e9 * monotonic_s))

    def flush(self) -> None:
        """No more queries will arrive."""
        self._library.functions.live_flush(self._live)

    def fail(self, error: Exception) -> None:
        """End the run with an error, from any thread."""
        self._error = error

    def listen(self, descriptor: int, check_client: "CheckClient | None" = None) -> None:
        """Take queries in from LoadGen's socket, and tell it there of those that have ended.

        Once a run. `serve` calls `check_client` now and then, and with True once the other end is closed: it
        may raise. Raises OSError if the descriptor cannot be duplicated.
        """
        self._check_client = check_client or _nobody_asks
        if error := self._library.functions.live_listen(self._live, descriptor):
            raise OSError(error, "cannot listen to LoadGen's socket")

    def now_s(self) -> float:
        """Return seconds since the run began."""
        return time.monotonic() - self.zero_s

    # The run.

    def serve(self) -> Iterator[QueryRecord]:
        """Run to the end and yield each query's record once.

        Raises EngineError if a kernel failed or hangs, or a core was taken away, PolicyError if the policy
        breaks its contract, hangs, or leaves queries waiting for good, what else it raises, and the error
        that `fail` was given.
        """
        while not self._is_over:
            read = self._reader.read(self._live)
            if read:
                self.log.append(read)
            for entry in self._reader.entries(read, TAKEN):
                if (record := self._take(entry)) is not None:
                    yield record
            if not read:
                self._wait()

    def entries(self) -> Iterator[Entry]:
        """Yield the entries of the log that have been read so far."""
        return self._reader.entries(b"".join(self.log))

    def layer_seconds(self, model: str) -> Sequence[float]:
        """Return what each layer took of the query of a model that ended last, if one ran at a time."""
        return self._buffers[model][-1].layer_seconds  # idle buffers are a stack

    def stop(self) -> None:
        """Let running kernels end, and stop the threads.

        Raises EngineError if one does not end: only the end of the process will.
        """
        functions, live = self._library.functions, self._live
        if self._decisions is not None and not self._decisions.outlasts():
            _HUNG.append(self)  # the thread that decides may be any of them
            return
        if live is not None:
            functions.live_stop(live)
        left = self._pool.stop(HUNG_STOP_S if self._watchdog.found_hang else STOP_S)
        if left:
            _HUNG.append(self)
        elif live is not None:
            self._live = None
            functions.live_close(live)
        if left and not self._watchdog.found_hang:
            raise left_error(left)

    def _end_run(self) -> None:
        functions, live = self._library.functions, self._live
        if live is None:
            return
        functions.live_stop(live)
        while not functions.live_is_idle(live):
            self._check_hangs()
            time.sleep(_IDLE_S)
        functions.live_hand_back(live)
        self._live = None
        functions.live_close(live)

    def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._check_client(False)
        self._set_pressure()
        self._check_hangs()
        timeout_s = READ_S if self._blocks else self._watchdog.period_s
        if (
            self._library.functions.live_wait(self._live, round(1e9 * timeout_s))
            != self._library.functions.OK
        ):
            raise MemoryError("no memory for the log of the run")

    def _check_hangs(self) -> None:
        assert self._decisions is not None
        self._decisions.check()
        if self._blocks and not self._decisions.is_deciding:  # a worker that decides is not in a layer
            self._watchdog.check(map(self._running, self._blocks.values()))

    def _set_pressure(self) -> None:
        self._library.functions.live_set_pressure(self._live, self._site.interference.pressure())

    # Entries of the log.

    def _take(self, entry: Entry) -> QueryRecord | None:
        match entry.kind:
            case EntryKind.ARRIVED:
                self.arrivals += 1
                model = self._site.context.models[self._names[entry.model]]
                self._queries[entry.id] = Query(entry.id, model.name, entry.time_s, model.qos_s)
            case EntryKind.FLUSHED:
                self.is_flushed = True
            case EntryKind.LEFT:
                self._check_client(True)
            case EntryKind.BLOCK_STARTED:
                self._blocks[entry.id] = entry
                self._changed.discard(entry.id)
            case EntryKind.BLOCK_RESIZED:
                self._changed.add(entry.id)
            case EntryKind.BLOCK_ENDED:
                self._end(entry)
            case EntryKind.BUFFERS_LACK:
                self._add_buffers(entry.model)
            case EntryKind.QUERY_ENDED:
                return record_of(entry, self._queries.pop(entry.id))
            case EntryKind.BROKEN:
                self._break(entry)
            case EntryKind.OVER:
                self._finish(entry)
        return None

    def _running(self, entry: Entry) -> RunningBlock:
        """Return the block whose start an entry tells."""
        assert entry.versions is not None
        allocation = Allocation(entry.id, *self._block(entry), entry.wanted)
        grant = Grant(
            tuple(self._site.context.machine.core_ids[index] for index in entry.held), entry.versions
        )
        buffers = self._buffers[allocation.block.model][0]
        return RunningBlock(allocation, BlockRun(entry.id, buffers, entry.first, entry.layer, grant), grant)

    def _block(self, entry: Entry) -> tuple[LayerBlock, tuple[int, ...], int]:
        """Return the layers, the versions and the cores of the block whose start an entry tells."""
        assert entry.versions is not None
        return LayerBlock(self._names[entry.model], entry.first, entry.layer), entry.versions, entry.cores

    def _end(self, entry: Entry) -> None:
        started, self._ended_at = self._blocks.pop(entry.id), entry.layer
        self.wrong_answers += entry.number
        if entry.id in self._changed or entry.layer != started.layer or started.seconds:
            return  # changed under way, or held back: no profiled time to compare with
        self._site.interference.observe(entry.seconds, *self._profiled_s(*self._block(started)))

    def _add_buffers(self, model: int) -> None:
        buffers = self._new_buffers(self._names[model])
        self._buffers[self._names[model]].append(buffers)
        table = self._library.ffi.cast("call_table_t *", buffers.address)
        self._library.functions.live_add_buffers(self._live, model, table, self._changes)

    def _break(self, entry: Entry) -> None:
        """Raise what broke the run off."""
        if self._decider is not None and self._decider.error is not None:
            raise self._decider.error
        if entry.code == self._library.functions.CANNOT_SHARE_CORES:
            raise EngineError(CANNOT_SHARE_CORES)
        if entry.code < 0 or entry.id not in self._queries:
            raise EngineError(f"the loop over the workers broke off: query {entry.id}, code {entry.code}")
        name = self._queries[entry.id].model
        buffers = self._buffers[name]
        failed = next((one for one in buffers if one.error is not None), buffers[0])
        error = self._pool.fault(entry.code, entry.cores, failed)
        if isinstance(error, CoreLostError):
            raise EngineError(f"{name}: {error}") from error
        self._watchdog.check_allowance()  # where that is why, it must not be put on the kernel
        raise failed_error(self._ended_at, name, error) from error

    def _finish(self, entry: Entry) -> None:
        self._is_over = True
        if entry.number:
            oldest = min(self._queries.values(), key=lambda query: (query.arrival_s, query.id))
            assert self._policy is not None
            raise stall(self._policy, entry.number, oldest, self._site.context.machine.cores)

    def _new_buffers(self, model: str) -> CallTables:
        buffers = self._pool.bind(self._models[model].instance(), model)
        buffers.bind_all()
        return buffers


def _nobody_asks(has_left: bool) -> None:
    """Do nothing: queries come from this process, which knows whether more will."""


def _native(pool: Any) -> NativePool:
    if not isinstance(pool, NativePool):
        raise TypeError(f"the loop in C runs over workers in C only; {type(pool).__name__} are others")
    return pool

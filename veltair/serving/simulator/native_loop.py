"""A whole simulated run in C: the same records as of the loop in Python, bit for bit.

The loop (`serving_loop.c`) runs over the simulator; `decisions.c` decides for policies with a spec, others
are called back.
"""

import weakref
from collections.abc import Iterator
from itertools import islice
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from veltair.machine.c_library import KeptArrays
from veltair.serving.loop.dispatcher import UNFINISHED_REASON, Dispatcher, serve
from veltair.serving.loop.ended_queries import EndedQueries
from veltair.serving.loop.open_queries import stall
from veltair.serving.loop.policy import Context, Policy, limits_of, most_blocks
from veltair.serving.loop.python_decider import PythonDecider
from veltair.serving.loop.query import Ending, QueryRecord
from veltair.serving.loop.queues import SeenIds
from veltair.serving.policies.discipline import late_reason
from veltair.serving.policies.native_policy import NativePolicy
from veltair.serving.policies.native_spec import spec_of
from veltair.serving.simulator.native_core import NativeCore
from veltair.serving.simulator.simulator import PINNED_SHARING, CoreChange, Simulator

# Records of a loop in Python that are put in columns at a time.
FEW = 512


def serve_simulated(policy: Policy, context: Context, simulator: Simulator) -> Iterator[QueryRecord]:
    """Yield each query's record once, as `serve` does with a dispatcher of the policy and the simulator.

    In C where the simulator's core is. The records are the same.
    """
    core = simulator.core
    if isinstance(core, NativeCore):
        yield from _Loop(policy, context, simulator, core).records()
    else:
        yield from serve(Dispatcher(policy, context), simulator)


def end_simulated(policy: Policy, context: Context, simulator: Simulator) -> Iterator[EndedQueries]:
    """Yield what became of a run's queries, some at a time: what `serve_simulated` yields, in columns."""
    core = simulator.core
    if isinstance(core, NativeCore):
        yield from _Loop(policy, context, simulator, core).ended()
        return
    index_of = {query.id: index for index, query in enumerate(simulator.arrivals)}
    records = serve(Dispatcher(policy, context), simulator)
    while some := list(islice(records, FEW)):
        yield EndedQueries.of(some, index_of)


class _Loop:
    """One run: what C asks for is looked up here."""

    def __init__(self, policy: Policy, context: Context, simulator: Simulator, core: NativeCore) -> None:
        self._policy = policy
        self._simulator, self._core = simulator, core
        self._queries = simulator.arrivals
        self._seen = SeenIds()
        self._library = library = core.library
        self._functions = functions = library.functions
        self._arrays = KeptArrays(library)
        # What C reads until it asks for more.
        self._batch: list[Any] = []
        self._errors: NDArray[np.float64] = np.empty(0)
        self._records = library.dtype("record_t")
        self._endings = {number: ending for ending, number in library.numbers(Ending, "ending_t").items()}
        changes = library.numbers(CoreChange, "core_change_t")
        self._changes = {number: change for change, number in changes.items()}
        spec = spec_of(policy)
        self._native = None if spec is None else NativePolicy(spec, context, library)
        queries = simulator.arrivals  # not of self: what C calls would keep this object, as it is kept by it
        self._decider = self._native or PythonDecider(
            policy, context, library, lambda account: queries[account.index]
        )
        self._backend = core.backend()  # which reads the core's memory, so both are kept
        run = library.ffi.new("run_t *", self._run(context))
        self._handle = functions.loop_new(self._backend, self._decider.decider, run)
        if not self._handle:
            raise MemoryError("no memory for the simulated run")
        weakref.finalize(self, functions.loop_free, self._handle)
        self._state = functions.loop_state(self._handle)

    def records(self) -> Iterator[QueryRecord]:
        """Run to the end and yield the records in the order in which queries end."""
        for rows in self._rows():
            yield from self._read(rows)

    def ended(self) -> Iterator[EndedQueries]:
        """Run to the end and yield what became of the queries, in the order in which they end."""
        served = self._library.numbers(Ending, "ending_t")[Ending.SERVED]
        for rows in self._rows():
            index, end_s, core_s, batch = (rows[name] for name in ("index", "end_s", "core_s", "batch"))
            yield EndedQueries(index, rows["ending"] == served, end_s, core_s, batch.astype(np.int64))

    def _rows(self) -> Iterator[NDArray[Any]]:
        """Run to the end and yield the records as C has them; their reasons are there until the next ones."""
        functions, handle, state = self._functions, self._handle, self._state
        answers = {
            functions.NEED_BLOCK: self._form_block,
            functions.NEED_PINNING: self._pin,
            functions.NEED_ARRIVALS: self._add_arrivals,
            functions.NEED_ERRORS: self._add_errors,
        }
        while (what := functions.loop_run(handle)) != functions.DONE:
            if what == functions.RECORDS:
                yield from self._take_rows()
            elif what in answers:
                answers[what]()
            else:
                self._fail(what)
        yield from self._take_rows()
        if state.waiting:
            raise stall(self._policy, state.waiting, self._queries[state.oldest], state.free_cores)

    def _form_block(self) -> None:
        assert self._native is not None
        self._native.form_block()

    def _run(self, context: Context) -> dict[str, Any]:
        simulator = self._simulator
        error = simulator.sensor_error
        layers = [len(model.layers) for model in context.models.values()]
        limits = limits_of(self._policy, context)
        loads = [] if limits is None else [limits.load_s[name] for name in context.models]
        return {
            "layers": self._arrays.pointer(layers, np.int32),
            "load_s": self._arrays.pointer(loads) if loads else self._library.ffi.NULL,
            "queries": len(self._queries),
            "own_bytes": max(layers) * np.dtype(np.uint32).itemsize,
            "close_s": simulator.close_s,
            "sigma": error.sigma if error else 0.0,
            "cores": context.machine.cores,
            "slots": most_blocks(context.machine),
            "pinned": simulator.pinned,
            "is_noisy": error is not None,
        }

    def _take_rows(self) -> Iterator[NDArray[Any]]:
        state = self._state
        if not state.record_count:
            return
        nbytes = state.record_count * self._records.itemsize
        yield np.frombuffer(bytes(self._library.ffi.buffer(state.records, nbytes)), self._records)
        # Reasons are in memory of C that this gives back.
        self._functions.loop_take_records(self._handle)

    def _read(self, taken: NDArray[Any]) -> Iterator[QueryRecord]:
        queries, rows = self._queries, taken.tolist()
        said = {row[7]: self._text(row[5]) for row in rows if row[5]}
        for start_s, end_s, core_s, slack_s, least_s, _, _, index, number, *used, batch in rows:
            blocks, conflicts = used
            ending = self._endings[number]
            reason = ""
            if ending is Ending.REJECTED:
                reason = said[index] if index in said else late_reason(slack_s, least_s)
            elif ending is Ending.UNFINISHED:
                reason = UNFINISHED_REASON
            seen = queries[index], ending, start_s, end_s, blocks, conflicts, core_s
            yield QueryRecord(*seen, reason, batch)

    def _text(self, address: int) -> str:
        ffi = self._library.ffi
        text: Any = ffi.string(ffi.cast("char *", address))
        return str(text, errors="replace")

    def _add_arrivals(self) -> None:
        batch = next(self._simulator.batches)
        ids, _, arrivals_s, targets_s, _ = zip(*batch.queries, strict=True)
        for query_id in ids:
            if not self._seen.add(query_id):
                raise ValueError(f"query {query_id} arrived twice")
        columns: dict[str, NDArray[Any]] = {
            "ids": np.array(ids, np.int64),
            "models": batch.models,
            "arrivals_s": np.array(arrivals_s),
            "targets_s": np.array(targets_s),
            "own": batch.noise_index,
        }
        self._batch = list(columns.values())
        pointers = {name: self._library.pointer(values) for name, values in columns.items()}
        arrivals = self._library.ffi.new("arrivals_t *", {**pointers, "count": len(ids)})
        self._functions.loop_add_arrivals(self._handle, arrivals)

    def _add_errors(self) -> None:
        self._errors = self._simulator.next_sensor_errors()
        errors = self._library.pointer(self._errors)
        self._functions.loop_add_errors(self._handle, errors, len(self._errors))

    def _pin(self) -> None:
        state = self._state
        # Numbers of cores count from 1 in C, where 0 is none.
        first = state.first_core - 1 if state.first_core else None
        group_cores = self._simulator.hold(self._changes[state.change], state.slot, state.cores, first)
        if group_cores is not None:
            self._core.pin_slot(state.slot, group_cores)

    def _fail(self, what: int) -> NoReturn:
        if self._decider.error is not None:
            raise self._decider.error
        if what == self._functions.NOT_PROFILED and isinstance(self._decider, PythonDecider):
            for block in self._decider.asked():
                self._core.check(*block)
        if what == self._functions.SHARES_PINNED_CORES:
            raise ValueError(PINNED_SHARING)
        if what == self._functions.NOT_PROFILED:
            raise LookupError(
                f"{type(self._policy).__name__} starts or resizes a block in versions or on cores "
                "that were not profiled; rerun rule `profile`"
            )
        raise MemoryError("no memory for the simulated run")

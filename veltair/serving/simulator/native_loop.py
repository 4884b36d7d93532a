"""A whole simulated run in C (`serving_loop.c`) for policies with a plan: the same records, bit for bit."""

import ctypes
import weakref
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from veltair.serving.loop.dispatcher import UNFINISHED_REASON, Dispatcher, serve, stall
from veltair.serving.loop.policy import Context, Policy
from veltair.serving.loop.query import Ending, QueryRecord
from veltair.serving.loop.queues import SeenIds
from veltair.serving.policies.blocks import SCALES, TOLERANCE, UNSCALED
from veltair.serving.policies.discipline import Conflict, DropLate, Order, late_reason
from veltair.serving.policies.native_spec import DecisionKind, NativePolicySpec, plan_of
from veltair.serving.simulator.native_core import NativeCore, Pointers
from veltair.serving.simulator.simulator import CoreChange, Simulator

# What loop_run() returns.
_NEED_ARRIVALS, _NEED_BLOCK, _NEED_SEAT, _NEED_ERRORS, _RECORDS, _DONE = range(1, 7)
_NOT_PROFILED = -1
_ORDERS, _CONFLICTS, _DROPS = list(Order), list(Conflict), list(DropLate)
_ENDINGS = (Ending.SERVED, Ending.REJECTED, Ending.UNFINISHED)

_ARRAY = ctypes.c_void_p
_DOUBLE, _LONG, _INT = ctypes.c_double, ctypes.c_int64, ctypes.c_int32

_RECORD = np.dtype(
    [
        *((name, np.float64) for name in ("start_s", "end_s", "core_s", "slack_s", "least_s")),
        ("place", np.int64),
        *((name, np.int32) for name in ("ending", "blocks", "conflicts", "unused")),
    ]
)
_PROPOSAL = np.dtype([("layers", np.int32), ("cores", np.int32)])


class _PlanModel(ctypes.Structure):
    _fields_ = (
        *((name, _ARRAY) for name in ("seconds", "shares_s", "remaining", "least", "budgets", "averages")),
        *((name, _ARRAY) for name in ("versions", "proposals")),
        ("layers", _LONG),
    )


class _Plan(ctypes.Structure):
    _fields_ = (
        *((name, _ARRAY) for name in ("models", "levels", "scales", "enough", "loaded", "counts")),
        *((name, _LONG) for name in ("level_count", "count_count", "scale_count", "limit_count")),
        *((name, _DOUBLE) for name in ("alpha", "tolerance", "slightly_more")),
        *((name, _INT) for name in ("cores", "asks", "order", "conflict", "drop_late")),
        *((name, _INT) for name in ("follows_slack", "follows_load", "grows")),
        *((name, _INT) for name in ("block_layers", "coalesce_layers")),
    )


class _Run(ctypes.Structure):
    _fields_ = (
        *((name, _LONG) for name in ("queries", "most_layers")),
        *((name, _DOUBLE) for name in ("close_s", "grant_s", "relative_sigma", "sigma", "step")),
        *((name, _INT) for name in ("seated", "proxied")),
    )


class _Arrivals(ctypes.Structure):
    _fields_ = (
        *((name, _ARRAY) for name in ("ids", "models", "arrivals_s", "targets_s", "noise")),
        ("count", _LONG),
    )


class _State(ctypes.Structure):
    _fields_ = (
        ("records", _ARRAY),
        *((name, _LONG) for name in ("record_count", "waiting", "oldest")),
        *((name, _INT) for name in ("free_cores", "level", "limit", "scale")),
        *((name, _INT) for name in ("model", "first", "slot", "cores", "change")),
    )


def serve_simulated(policy: Policy, context: Context, simulator: Simulator) -> Iterator[QueryRecord]:
    """Yield each query's record once, as `serve` does with a dispatcher of the policy and the simulator.

    In C where that is possible: the simulator's core is, and the policy has a plan. The records are the same.
    """
    plan, core = plan_of(policy), simulator.core
    if plan is None or not isinstance(core, NativeCore):
        yield from serve(Dispatcher(policy, context), simulator)
    else:
        yield from _Loop(policy, plan, context, simulator, core).records()


class _Loop:
    """One run: what C asks for is looked up here."""

    def __init__(
        self, policy: Policy, plan: NativePolicySpec, context: Context, simulator: Simulator, core: NativeCore
    ) -> None:
        self._policy, self._plan = policy, plan
        self._simulator, self._core = simulator, core
        self._queries = simulator.arrivals
        self._names = list(context.models)
        self._most_layers = max(len(model.layers) for model in context.models.values())
        self._seen = SeenIds()
        self._pointers = Pointers()
        self._part: list[Any] = []
        self._errors: NDArray[np.float64] = np.empty((0, 2))
        self._proposals: list[NDArray[Any]] = []
        settings = self._settings(context)
        self._library = library = core.library
        self._handle = library.loop_new(core.handle, ctypes.byref(settings), ctypes.byref(self._run()))
        if not self._handle:
            raise MemoryError("no memory for the simulated run")
        weakref.finalize(self, library.loop_free, self._handle)
        self._state: Any = _State.from_address(library.loop_state(self._handle))

    def records(self) -> Iterator[QueryRecord]:
        """Run to the end and yield the records in the order in which queries end."""
        run, handle, state = self._library.loop_run, self._handle, self._state
        while (what := run(handle)) != _DONE:
            if what == _RECORDS:
                yield from self._take_records()
            elif what == _NEED_BLOCK:
                self._form_block()
            elif what == _NEED_SEAT:
                self._seat()
            elif what == _NEED_ARRIVALS:
                self._add_arrivals()
            elif what == _NEED_ERRORS:
                self._add_errors()
            else:
                self._fail(what)
        yield from self._take_records()
        if state.waiting:
            raise stall(self._policy, state.waiting, self._queries[state.oldest], state.free_cores)

    def _settings(self, context: Context) -> _Plan:
        plan, pointer = self._plan, self._pointers.to
        tables, former = plan.tables, plan.former
        follows_slack = plan.budgets is not None and plan.budgets.follows_slack
        limits = len(tables.counts) if former else 1
        models = [self._model(name, limits, follows_slack) for name in self._names]
        loaded = former.loaded_averages if former else None
        return _Plan(
            models=self._pointers.to_all(models),
            levels=pointer(tables.pressures),
            scales=pointer(SCALES),
            enough=pointer(former.enough_averages) if former else 0,
            loaded=0 if loaded is None else pointer(loaded),
            counts=pointer(tables.counts, np.int32),
            level_count=len(tables.pressures),
            count_count=len(tables.counts),
            scale_count=len(SCALES) if follows_slack else 1,
            limit_count=limits,
            alpha=plan.budgets.alpha if plan.budgets else plan.alpha,
            tolerance=TOLERANCE,
            slightly_more=1 + TOLERANCE,
            cores=context.machine.cores,
            asks=plan.asks,
            order=_ORDERS.index(plan.order),
            conflict=_CONFLICTS.index(plan.conflict),
            drop_late=_DROPS.index(plan.drop_late),
            follows_slack=follows_slack,
            follows_load=former is not None,
            grows=plan.grows,
            block_layers=plan.block_layers,
            coalesce_layers=former.coalesce_layers if former else 1,
        )

    def _model(self, name: str, limits: int, follows_slack: bool) -> _PlanModel:
        plan, pointer = self._plan, self._pointers.to
        tables = plan.tables
        remaining = tables.remaining_by_layer(name)
        levels, layers = len(remaining), remaining.shape[1] - 1
        former, budgets = plan.former, plan.budgets
        shape = (levels, limits, len(SCALES) if follows_slack else 1, layers)
        proposals = np.zeros(shape if plan.asks is DecisionKind.BLOCKS else 0, _PROPOSAL)
        self._proposals.append(proposals)
        averages = [former.average_cores(name, level) for level in tables.levels()] if former else []
        seconds = [tables.seconds(name, level) for level in tables.levels()] if former else []
        return _PlanModel(
            seconds=pointer(seconds) if former else 0,
            shares_s=pointer(budgets.of(name)) if budgets else 0,
            remaining=pointer(remaining),
            least=pointer(remaining.min(axis=2)),
            budgets=pointer(budgets.left_s(name)) if budgets else 0,
            averages=pointer(averages) if averages else 0,
            versions=pointer(tables.versions_by_layer(name).transpose(0, 2, 1), np.uint8),
            proposals=proposals.ctypes.data,
            layers=layers,
        )

    def _run(self) -> _Run:
        simulator = self._simulator
        error = simulator.proxy_error
        return _Run(
            queries=len(self._queries),
            most_layers=self._most_layers,
            close_s=simulator.close_s,
            grant_s=self._core.grant_s,
            relative_sigma=error.relative_sigma if error else 0.0,
            sigma=error.sigma if error else 0.0,
            step=error.step if error else 0.0,
            seated=simulator.seated,
            proxied=error is not None,
        )

    def _take_records(self) -> Iterator[QueryRecord]:
        state, queries = self._state, self._queries
        if not state.record_count:
            return
        nbytes = state.record_count * _RECORD.itemsize
        rows = np.frombuffer(ctypes.string_at(state.records, nbytes), _RECORD).tolist()
        self._library.loop_take_records(self._handle)
        for start_s, end_s, core_s, slack_s, least_s, index, ending, blocks, conflicts, _ in rows:
            reason = ("", late_reason(slack_s, least_s), UNFINISHED_REASON)[ending] if ending else ""
            yield QueryRecord(
                queries[index], _ENDINGS[ending], start_s, end_s, blocks, conflicts, core_s, reason
            )

    def _add_arrivals(self) -> None:
        part = next(self._simulator.parts)
        ids, _, arrivals_s, targets_s = zip(*part.queries, strict=True)
        for query_id in ids:
            if not self._seen.add(query_id):
                raise ValueError(f"query {query_id} arrived twice")
        self._part = [
            np.array(ids, np.int64),
            part.models,
            np.array(arrivals_s),
            np.array(targets_s),
            part.noise_index,
        ]
        arrivals = _Arrivals(*(values.ctypes.data for values in self._part), len(ids))
        self._library.loop_add_arrivals(self._handle, ctypes.byref(arrivals))

    def _form_block(self) -> None:
        state, plan = self._state, self._plan
        assert plan.form is not None
        follows_slack = plan.budgets is not None and plan.budgets.follows_slack
        step = state.scale if follows_slack else UNSCALED
        proposal = plan.form(self._names[state.model], state.first, step)
        index = (state.level, state.limit, state.scale, state.first)
        self._proposals[state.model][index] = (len(proposal.block), proposal.cores)

    def _add_errors(self) -> None:
        self._errors = self._simulator.next_proxy_errors()
        self._library.loop_add_errors(self._handle, self._errors.ctypes.data, len(self._errors))

    def _seat(self) -> None:
        state = self._state
        seat = self._simulator.hold(CoreChange(state.change), state.slot, state.cores)
        if seat is not None:
            self._core.seat_slot(state.slot, seat)

    def _fail(self, what: int) -> NoReturn:
        if what == _NOT_PROFILED:
            raise LookupError(
                f"{type(self._policy).__name__} starts or resizes a block in versions or on cores "
                "that were not profiled; rerun rule `profile`"
            )
        raise MemoryError("no memory for the simulated run")

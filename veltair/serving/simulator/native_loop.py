"""A whole simulated run in C (`serving_loop.c`) for policies with a spec: the same records, bit for bit."""

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
from veltair.serving.policies.native_spec import DecisionKind, NativePolicySpec, spec_of
from veltair.serving.simulator.native_core import KeptArrays, NativeCore
from veltair.serving.simulator.simulator import CoreChange, Simulator


def serve_simulated(policy: Policy, context: Context, simulator: Simulator) -> Iterator[QueryRecord]:
    """Yield each query's record once, as `serve` does with a dispatcher of the policy and the simulator.

    In C where that is possible: the simulator's core is, and the policy has a spec. The records are the same.
    """
    spec, core = spec_of(policy), simulator.core
    if spec is None or not isinstance(core, NativeCore):
        yield from serve(Dispatcher(policy, context), simulator)
    else:
        yield from _Loop(policy, spec, context, simulator, core).records()


class _Loop:
    """One run: what C asks for is looked up here."""

    def __init__(
        self, policy: Policy, spec: NativePolicySpec, context: Context, simulator: Simulator, core: NativeCore
    ) -> None:
        self._policy, self._spec = policy, spec
        self._simulator, self._core = simulator, core
        self._queries = simulator.arrivals
        self._names = list(context.models)
        self._most_layers = max(len(model.layers) for model in context.models.values())
        self._seen = SeenIds()
        self._library = library = core.library
        self._functions = functions = library.functions
        self._arrays = KeptArrays(library)
        # What C reads until it asks for more.
        self._batch: list[Any] = []
        self._errors: NDArray[np.float64] = np.empty(0)
        self._proposals: list[NDArray[Any]] = []
        self._records = library.dtype("record_t")
        self._endings = {number: ending for ending, number in library.numbers(Ending, "ending_t").items()}
        changes = library.numbers(CoreChange, "core_change_t")
        self._changes = {number: change for change, number in changes.items()}
        plan = library.ffi.new("plan_t *", self._plan(context))
        self._handle = functions.loop_new(core.handle, plan, library.ffi.new("run_t *", self._run()))
        if not self._handle:
            raise MemoryError("no memory for the simulated run")
        weakref.finalize(self, functions.loop_free, self._handle)
        self._state = functions.loop_state(self._handle)

    def records(self) -> Iterator[QueryRecord]:
        """Run to the end and yield the records in the order in which queries end."""
        functions, handle, state = self._functions, self._handle, self._state
        answers = {
            functions.NEED_BLOCK: self._form_block,
            functions.NEED_PINNING: self._pin,
            functions.NEED_ARRIVALS: self._add_arrivals,
            functions.NEED_ERRORS: self._add_errors,
        }
        while (what := functions.loop_run(handle)) != functions.DONE:
            if what == functions.RECORDS:
                yield from self._take_records()
            elif what in answers:
                answers[what]()
            else:
                self._fail(what)
        yield from self._take_records()
        if state.waiting:
            raise stall(self._policy, state.waiting, self._queries[state.oldest], state.free_cores)

    def _plan(self, context: Context) -> dict[str, Any]:
        spec, pointer, numbers = self._spec, self._arrays.pointer, self._library.numbers
        tables, former = spec.tables, spec.former
        follows_slack = spec.budgets is not None and spec.budgets.follows_slack
        limits = len(tables.counts) if former else 1
        models = [self._model(name, limits, follows_slack) for name in self._names]
        loaded = former.loaded_averages if former else None
        null = self._library.ffi.NULL
        return {
            "models": self._arrays.structs("plan_model_t", models),
            "levels": pointer(tables.pressures),
            "scales": pointer(SCALES),
            "enough": pointer(former.enough_averages) if former else null,
            "loaded": null if loaded is None else pointer(loaded),
            "counts": pointer(tables.counts, np.int32),
            "level_count": len(tables.pressures),
            "count_count": len(tables.counts),
            "scale_count": len(SCALES) if follows_slack else 1,
            "limit_count": limits,
            "alpha": spec.budgets.alpha if spec.budgets else 1.0,
            "tolerance": TOLERANCE,
            "slightly_more": 1 + TOLERANCE,
            "cores": context.machine.cores,
            "kind": numbers(DecisionKind, "decision_kind_t")[spec.kind],
            "order": numbers(Order, "order_t")[spec.options.order],
            "conflict": numbers(Conflict, "conflict_t")[spec.options.conflict],
            "drop_late": numbers(DropLate, "drop_late_t")[spec.options.drop_late],
            "follows_slack": follows_slack,
            "follows_load": former is not None,
            "grows": spec.grows,
            "coalesce_layers": former.coalesce_layers if former else 1,
        }

    def _model(self, name: str, limits: int, follows_slack: bool) -> dict[str, Any]:
        spec, pointer = self._spec, self._arrays.pointer
        tables, former, budgets = spec.tables, spec.former, spec.budgets
        remaining = tables.remaining_by_layer(name)
        levels, layers = len(remaining), remaining.shape[1] - 1
        shape = (levels, limits, len(SCALES) if follows_slack else 1, layers)
        dtype = self._library.dtype("proposal_t")
        proposals = np.zeros(shape if spec.kind is DecisionKind.BLOCKS else 0, dtype)
        self._proposals.append(proposals)
        model = {
            "remaining": pointer(remaining),
            "least": pointer(remaining.min(axis=2)),
            "versions": pointer(tables.versions_by_layer(name).transpose(0, 2, 1), np.uint8),
            "proposals": self._library.pointer(proposals),
            "layers": layers,
        }
        if budgets:
            model |= {"shares_s": pointer(budgets.of(name)), "budgets": pointer(budgets.left_s(name))}
        if former:
            model["averages"] = pointer([former.average_cores(name, level) for level in tables.levels()])
            model["seconds"] = pointer([tables.seconds(name, level) for level in tables.levels()])
        return model

    def _run(self) -> dict[str, Any]:
        simulator = self._simulator
        error = simulator.sensor_error
        return {
            "queries": len(self._queries),
            "most_layers": self._most_layers,
            "close_s": simulator.close_s,
            "grant_s": self._core.grant_s,
            "sigma": error.sigma if error else 0.0,
            "pinned": simulator.pinned,
            "is_noisy": error is not None,
        }

    def _take_records(self) -> Iterator[QueryRecord]:
        state, queries = self._state, self._queries
        if not state.record_count:
            return
        nbytes = state.record_count * self._records.itemsize
        read = bytes(self._library.ffi.buffer(state.records, nbytes))
        rows = np.frombuffer(read, self._records).tolist()
        self._functions.loop_take_records(self._handle)
        for start_s, end_s, core_s, slack_s, least_s, index, number, blocks, conflicts in rows:
            ending = self._endings[number]
            reason = ""
            if ending is Ending.REJECTED:
                reason = late_reason(slack_s, least_s)
            elif ending is Ending.UNFINISHED:
                reason = UNFINISHED_REASON
            yield QueryRecord(queries[index], ending, start_s, end_s, blocks, conflicts, core_s, reason)

    def _add_arrivals(self) -> None:
        batch = next(self._simulator.batches)
        ids, _, arrivals_s, targets_s = zip(*batch.queries, strict=True)
        for query_id in ids:
            if not self._seen.add(query_id):
                raise ValueError(f"query {query_id} arrived twice")
        columns: dict[str, NDArray[Any]] = {
            "ids": np.array(ids, np.int64),
            "models": batch.models,
            "arrivals_s": np.array(arrivals_s),
            "targets_s": np.array(targets_s),
            "noise": batch.noise_index,
        }
        self._batch = list(columns.values())
        pointers = {name: self._library.pointer(values) for name, values in columns.items()}
        arrivals = self._library.ffi.new("arrivals_t *", {**pointers, "count": len(ids)})
        self._functions.loop_add_arrivals(self._handle, arrivals)

    def _form_block(self) -> None:
        state, spec = self._state, self._spec
        assert spec.form is not None
        follows_slack = spec.budgets is not None and spec.budgets.follows_slack
        step = state.scale if follows_slack else UNSCALED
        proposal = spec.form(self._names[state.model], state.first, step)
        index = (state.level, state.limit, state.scale, state.first)
        self._proposals[state.model][index] = (len(proposal.block), proposal.cores)

    def _add_errors(self) -> None:
        self._errors = self._simulator.next_sensor_errors()
        errors = self._library.pointer(self._errors)
        self._functions.loop_add_errors(self._handle, errors, len(self._errors))

    def _pin(self) -> None:
        state = self._state
        group_cores = self._simulator.hold(self._changes[state.change], state.slot, state.cores)
        if group_cores is not None:
            self._core.pin_slot(state.slot, group_cores)

    def _fail(self, what: int) -> NoReturn:
        if what == self._functions.NOT_PROFILED:
            raise LookupError(
                f"{type(self._policy).__name__} starts or resizes a block in versions or on cores "
                "that were not profiled; rerun rule `profile`"
            )
        raise MemoryError("no memory for the simulated run")

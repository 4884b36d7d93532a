"""What must hold of every simulated run, whatever the policy: a run that breaks it shows a bug of ours.

The fluid bound is asserted in its sharpest form. A query that ended on time needed core-seconds: at least
those of the cheapest plan, in fractions of layers if need be, that brings *this* query home within its
target, with the service factors drawn for it, in the versions, on the counts and at the levels at which its
layers are profiled to be fastest. It cannot have held fewer. All of them held their cores between the first
arrival and the last deadline, so together they cannot have needed more than C x (window + longest target).
That is stronger than to compare rates: the bound on QPS sheds the costliest 5 % of the queries, this counts
the very queries that were served on time. With the smallest factor that can be drawn in place of those that
were it would hold as well, but be looser by as much as that one outlier: over the layers of a query, factors
nearly average out.

On a described machine, whose clock depends on how many cores are at work, work is counted a second time: by
times at the clock of all cores. So counted, all cores together get no more done than the work that they do at
that clock, and a query in few fast cores needs no less: on a full machine this is the tighter bound.
"""

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from itertools import tee
from typing import cast

import numpy as np
from numpy.typing import NDArray

from veltair.evaluation.metrics.targets import ROUNDING, LeastPlan, least_plan
from veltair.machine.costs.table import CostTable
from veltair.serving.loop.ended_queries import ArrivalColumns, EndedQueries
from veltair.serving.loop.policy import Context
from veltair.serving.loop.query import Query, QueryRecord
from veltair.serving.simulator.noise import NoiseBatch

# The least core-seconds of a query: by its own times, and as the fluid bound counts.
_Needs = tuple[float, float]


class InvariantError(RuntimeError):
    """A run did what cannot be done; the message says what, with both numbers."""


class LeastWork:
    """The least core-seconds of a context's queries; what was worked out for one run is known for others.

    Work is counted by the times of `counted`, a table of the same cells; None: by the context's own.
    """

    def __init__(self, context: Context, counted: CostTable | None = None) -> None:
        self._counted = None if counted is None else [counted.model(name) for name in context.models]
        self._costs = [context.costs.model(name) for name in context.models]
        self._cores = context.costs.cores
        self._plans: dict[int, LeastPlan] = {}
        self._known: dict[bytes, NDArray[np.float64]] = {}

    def of_each(self, parts: Iterable[NoiseBatch]) -> Iterator[float]:
        """Yield the least core-seconds of each query with its noise; inf where none is enough."""
        for least in self.of_parts(parts):
            yield from least.tolist()

    def of_parts(self, parts: Iterable[NoiseBatch]) -> Iterator[NDArray[np.float64]]:
        """Yield the same of the queries of each part, shape (queries,)."""
        return map(self._of, parts)

    def _of(self, part: NoiseBatch) -> NDArray[np.float64]:
        if part.digest not in self._known:
            self._known[part.digest] = self._work_out(part)
        return self._known[part.digest]

    def _work_out(self, part: NoiseBatch) -> NDArray[np.float64]:
        qos_s = np.array([query.qos_s for query in part.queries])
        least = np.empty(len(qos_s))
        for model in np.unique(part.models).tolist():
            rows, costs = np.flatnonzero(part.models == model), self._costs[model]
            factors = costs.noise[part.noise_index[rows, : len(costs.seconds)]]
            least[rows] = self._plan(model).core_s(factors, qos_s[rows])
        return least

    def _plan(self, model: int) -> LeastPlan:
        if model not in self._plans:
            # Repeats scatter: a layer may have been profiled faster under pressure than without.
            seconds = cast(NDArray[np.float64], self._costs[model].seconds.min(axis=3))
            counted = None if self._counted is None else self._counted[model].seconds.min(axis=3)
            self._plans[model] = least_plan(seconds, self._cores, counted)
        return self._plans[model]


def checked(
    records: Iterable[QueryRecord],
    arrivals: Sequence[Query],
    context: Context,
    least_core_s: Iterable[float],
    fluid: tuple[Iterable[float], float] | None = None,
) -> Iterator[QueryRecord]:
    """Yield the records of a run as they come, each checked before it is handed on.

    `least_core_s` are the least core-seconds of each arrival, in order (`LeastWork`); `fluid` the same as the
    fluid bound counts them, and how many the machine gets done in a second (None: counted alike, all cores).
    Raises InvariantError if a query ends twice or never, if one that is on time held fewer core-seconds than
    the least that it needs, if those on time together needed more than there were, or if more were held than
    there were. What a query needs that was served together with others is not known: it counts as nothing.
    A consumer may stop early: what it has seen is checked.
    """
    cores = context.machine.cores
    least_core_s, counted = tee(least_core_s)
    fluid_core_s, fluid_cores = fluid or (counted, float(cores))
    coming = zip(arrivals, zip(least_core_s, fluid_core_s, strict=True), strict=True)
    open_core_s: dict[int, _Needs] = {}
    totals = _Totals(context, arrivals, fluid_cores)
    for record in records:
        totals.add(record, *_take(record.query, open_core_s, coming))
        yield record
    never = len(open_core_s) + sum(1 for _ in coming)
    if never:
        raise InvariantError(f"the run ended, but {never} of its queries did not; each ends exactly once")


def checked_columns(
    ended: Iterable[EndedQueries],
    arrivals: Sequence[Query],
    columns: ArrivalColumns,
    context: Context,
    least_core_s: Iterable[NDArray[np.float64]],
    fluid: tuple[Iterable[NDArray[np.float64]], float],
) -> Iterator[EndedQueries]:
    """Yield what became of a run's queries, some at a time, all of them checked as by `checked`.

    `columns` are of the same `arrivals`; the least core-seconds come for some arrivals at a time, in order.
    """
    least, least_fluid = _Coming(least_core_s), _Coming(fluid[0])
    totals = _Totals(context, arrivals, fluid[1])
    has_ended = np.zeros(len(arrivals), np.bool_)
    for some in ended:
        counts = np.bincount(some.index, minlength=1)
        twice = np.flatnonzero((counts > 1) | ((counts > 0) & has_ended[: len(counts)]))
        if len(twice):
            query = arrivals[twice[0]]
            raise InvariantError(f"query {query.id} of {query.model} ended twice, or never arrived")
        has_ended[some.index] = True
        totals.add_columns(some, columns, least.of(some.index), least_fluid.of(some.index), arrivals)
        yield some
    never = int(np.count_nonzero(~has_ended))
    if never:
        raise InvariantError(f"the run ended, but {never} of its queries did not; each ends exactly once")


class _Coming:
    """Numbers of arrivals, drawn as far as they are asked for."""

    def __init__(self, parts: Iterable[NDArray[np.float64]]) -> None:
        self._parts = iter(parts)
        self._known: NDArray[np.float64] = np.empty(0)

    def of(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return those of some arrivals."""
        last = int(index.max(initial=-1))
        while last >= len(self._known):
            self._known = np.concatenate([self._known, next(self._parts)])
        numbers: NDArray[np.float64] = self._known[index]
        return numbers


class _Totals:
    """What the records of a run so far held, and what those on time needed, counted in both ways."""

    def __init__(self, context: Context, arrivals: Sequence[Query], fluid_cores: float) -> None:
        self._cores, self._fluid_cores = context.machine.cores, fluid_cores
        self._first_s, last_s = (arrivals[0].arrival_s, arrivals[-1].arrival_s) if arrivals else (0.0, 0.0)
        targets_s = {query.qos_s for query in arrivals} or {model.qos_s for model in context.models.values()}
        self._until_s = last_s + max(targets_s)
        self._held = self._needed = self._needed_fluid = 0.0

    def add(self, record: QueryRecord, least: float, least_fluid: float) -> None:
        """Take a record into account. Raises InvariantError as `checked` does."""
        self._held += record.core_s
        if record.on_time and record.batch == 1:
            _check_query(record, least)
            self._needed += least
            self._needed_fluid += least_fluid
            window_s = self._until_s - self._first_s
            needs = "the queries on time need"
            _check_total(needs, self._needed, self._cores * window_s, self._until_s)
            at_full = f"at the clock of all cores {needs}"
            _check_total(at_full, self._needed_fluid, self._fluid_cores * window_s, self._until_s)
        held_s = record.end_s - self._first_s
        _check_total("queries held", self._held, self._cores * held_s, record.end_s)

    def add_columns(
        self,
        ended: EndedQueries,
        columns: ArrivalColumns,
        least: NDArray[np.float64],
        least_fluid: NDArray[np.float64],
        arrivals: Sequence[Query],
    ) -> None:
        """Take some records into account, as `add` would one after the other."""
        before = copy(self)
        counted = ended.on_time(columns) & (ended.batch == 1)
        held = _running(self._held, ended.core_s)
        self._held = held[-1]
        self._needed = _running(self._needed, least[counted])[-1]
        self._needed_fluid = _running(self._needed_fluid, least_fluid[counted])[-1]
        window_s = self._until_s - self._first_s
        is_possible = (
            (ended.core_s[counted] >= least[counted] * (1 - ROUNDING)).all()
            and self._needed <= self._cores * window_s * (1 + ROUNDING)
            and self._needed_fluid <= self._fluid_cores * window_s * (1 + ROUNDING)
            and (held[1:] <= self._cores * (ended.end_s - self._first_s) * (1 + ROUNDING)).all()
        )
        if not is_possible:
            # One after the other, for the words.
            rows = zip(ended.records(arrivals), least.tolist(), least_fluid.tolist(), strict=True)
            for record, *needs in rows:
                before.add(record, *needs)


def _running(start: float, amounts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the running total from `start` on, which is its first; shape (amounts + 1,)."""
    return np.cumsum(np.concatenate([[start], amounts]))


def _take(query: Query, open_core_s: dict[int, _Needs], coming: Iterator[tuple[Query, _Needs]]) -> _Needs:
    """Return the least core-seconds of a query that ended, once; those passed on the way are open."""
    while query.id not in open_core_s:
        following = next(coming, None)
        if following is None:
            raise InvariantError(f"query {query.id} of {query.model} ended twice, or never arrived")
        arrival, least = following
        open_core_s[arrival.id] = least
    return open_core_s.pop(query.id)


def _check_query(record: QueryRecord, least_core_s: float) -> None:
    if record.core_s < least_core_s * (1 - ROUNDING):
        raise InvariantError(
            f"query {record.query.id} of {record.query.model} was on time with {record.core_s:.6g} core-s, "
            f"but needs {least_core_s:.6g} core-s at least to end within {record.query.qos_s} s: the "
            "simulator charges less than the cost tables say, or counts fewer cores than it runs on"
        )


def _check_total(what: str, core_s: float, available_core_s: float, until_s: float) -> None:
    if core_s > available_core_s * (1 + ROUNDING):
        raise InvariantError(
            f"{what} {core_s:.6g} core-s, but all cores together have {available_core_s:.6g} core-s from the "
            f"first arrival until {until_s:.6g} s: the run beats the fluid bound, so its harness has a bug"
        )

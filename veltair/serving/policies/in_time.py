"""Admission by predicted finish: a query that would be late is turned away at once, not when it is late.

Its finish is predicted step by step, each on a resource with a timeline of its own: its inputs are copied in,
its model is loaded if it is absent, it waits for cores and runs, and its outputs are copied out. What a step
takes is what was profiled or measured, times what the last ones of its model took beyond that.

Service and simulator ask the same object. No clock is read here.
Sources: Gujarati et al., "Clockwork", OSDI 2020 (prediction, window, buffer); Li et al., "AlpaServe", OSDI
2023 (decision at arrival).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from veltair.serving.loop.policy import Answer, Context, Pending, Policy, Rejection, Snapshot
from veltair.serving.loop.query import Ending
from veltair.serving.policies.admission import WINDOW, least_core_s, parts_of

PERCENTILE = 0.99
BUFFER_S = 0.005
KEPT_S = 5.0


@dataclass(frozen=True, slots=True)
class Work:
    """What a query needs of each resource: seconds of copying and loading, and of `core_s` core-seconds.

    `execution_s` is what it takes from its first core to its last; `load_s` is 0 for a model in memory.
    """

    execution_s: float
    core_s: float
    copy_in_s: float = 0.0
    load_s: float = 0.0
    copy_out_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """When a query would end, how long of that it waits for cores, and whether that is early enough."""

    finish_s: float
    wait_s: float
    in_time: bool


class Correction:
    """How much longer than predicted the last ones took: a percentile of the ratios, 1 without any.

    A ratio is forgotten after `KEPT_S`. Else one that was held up by something else once could be the last
    ever measured: all others would be turned away for it.
    """

    def __init__(self, window: int = WINDOW, percentile: float = PERCENTILE) -> None:
        self._ratios: deque[tuple[float, float]] = deque(maxlen=window)
        self._percentile = percentile

    def add(self, measured_s: float, predicted_s: float, time_s: float) -> None:
        """Take note of what one took that ended now; one that was to take no time tells nothing."""
        if predicted_s > 0:
            self._ratios.append((time_s, measured_s / predicted_s))

    def factor(self, time_s: float) -> float:
        """Return by what the next prediction is multiplied: the nearest rank, of ten ratios the largest."""
        ratios = sorted(ratio for since_s, ratio in self._ratios if time_s - since_s <= KEPT_S)
        return ratios[ceil(self._percentile * len(ratios)) - 1] if ratios else 1.0


def fair_wait_s(
    backlogs: Mapping[str, float], weights: Mapping[str, float], tenant: str, cores: float
) -> float:
    """Return how long a new query of a tenant waits for cores that tenants share fairly by weight.

    `backlogs` are the core-seconds of each tenant's queries in the system. Ahead of it are all of its own
    tenant, and of each other tenant as much as has its turn by then.
    """
    own = backlogs.get(tenant, 0.0)
    turns = own / weights[tenant]
    others = sum(min(backlog, turns * weights[name]) for name, backlog in backlogs.items() if name != tenant)
    return (own + others) / cores


@dataclass(frozen=True, slots=True)
class _Admitted:
    tenant: str
    model: str
    work: Work
    core_s: float  # corrected, as it is booked


class InTime:
    """Which queries come in, by a prediction of what those that came in before leave of each resource."""

    def __init__(
        self,
        weights: Mapping[str, float],
        cores: int,
        *,
        buffer_s: float = BUFFER_S,
        window: int = WINDOW,
        percentile: float = PERCENTILE,
        fair: bool = True,
    ) -> None:
        """Begin with an idle machine. `fair` says that tenants take turns (`FairTurns`); else the oldest do.

        Raises ValueError for a weight that is not above 0.
        """
        parts_of(weights, cores)
        self._weights, self._cores, self._fair = dict(weights), cores, fair
        self._buffer_s, self._window, self._percentile = buffer_s, window, percentile
        self._corrections: dict[str, Correction] = {}
        self._inside: dict[int, _Admitted] = {}
        self._copies_free_s = self._loads_free_s = 0.0
        self._done_core_s = 0.0  # of the queries inside, as far as the time since tells
        self._seen_s = 0.0

    def __len__(self) -> int:
        return len(self._inside)

    def factor(self, model: str, time_s: float) -> float:
        """Return by what the execution time of a model is multiplied now."""
        return self._correction(model).factor(time_s)

    def predict(self, tenant: str, model: str, work: Work, deadline_s: float, time_s: float) -> Prediction:
        """Return when a query that arrives now would end. Raises LookupError for a tenant without weight."""
        if tenant not in self._weights:
            raise LookupError(f"tenant {tenant} has no weight ({', '.join(self._weights)} have); name it")
        self._pass_until(time_s)
        ready_s = max(time_s, self._copies_free_s) + work.copy_in_s
        if work.load_s > 0:
            ready_s = max(ready_s, self._loads_free_s) + work.load_s
        factor = self.factor(model, time_s)
        wait_s = self._wait_s(tenant)
        start_s = max(ready_s, time_s + wait_s)
        finish_s = start_s + work.execution_s * factor + work.copy_out_s
        return Prediction(finish_s, wait_s, finish_s <= deadline_s - self._buffer_s)

    def offer(
        self, number: int, tenant: str, model: str, work: Work, deadline_s: float, time_s: float
    ) -> Prediction:
        """Predict a query and, if it is in time, let it in: later ones wait for it, until `ended`."""
        predicted = self.predict(tenant, model, work, deadline_s, time_s)
        if predicted.in_time:
            if work.copy_in_s > 0:
                self._copies_free_s = max(time_s, self._copies_free_s) + work.copy_in_s
            if work.load_s > 0:
                self._loads_free_s = max(time_s + work.copy_in_s, self._loads_free_s) + work.load_s
            core_s = work.core_s * self.factor(model, time_s)
            self._inside[number] = _Admitted(tenant, model, work, core_s)
        return predicted

    def ended(self, number: int, execution_s: float | None, time_s: float) -> None:
        """Let a query go that ran so long (None: it did not).

        Raises LookupError for one that is not inside.
        """
        if number not in self._inside:
            raise LookupError(f"query {number} is not inside; let each go once")
        self._pass_until(time_s)
        gone = self._inside.pop(number)
        if execution_s is None:
            return
        # Time passed for it first; what is more than its part was done for others.
        self._done_core_s = max(0.0, self._done_core_s - gone.core_s) if self._inside else 0.0
        self._correction(gone.model).add(execution_s, gone.work.execution_s, time_s)

    def _wait_s(self, tenant: str) -> float:
        backlogs: dict[str, float] = {}
        for one in self._inside.values():
            backlogs[one.tenant] = backlogs.get(one.tenant, 0.0) + one.core_s
        total = sum(backlogs.values())
        if not total:
            return 0.0
        left = max(0.0, 1.0 - self._done_core_s / total)
        if not self._fair:
            return total * left / self._cores
        backlogs = {name: core_s * left for name, core_s in backlogs.items()}
        return fair_wait_s(backlogs, self._weights, tenant, self._cores)

    def _pass_until(self, time_s: float) -> None:
        """Count what was done since: all cores worked while anybody was inside, on no more than was there."""
        if time_s > self._seen_s:
            booked = sum(one.core_s for one in self._inside.values())
            done = self._done_core_s + self._cores * (time_s - self._seen_s)
            self._done_core_s = min(booked, done)
            self._seen_s = time_s

    def _correction(self, model: str) -> Correction:
        return self._corrections.setdefault(model, Correction(self._window, self._percentile))


class AdmitInTime:
    """A policy that sees only those queries that were predicted to be in time when they came."""

    def __init__(self, policy: Policy, context: Context, *, fair: bool = False) -> None:
        tenants = context.tenants or dict.fromkeys(context.models, 1.0)
        self.loads_models = getattr(policy, "loads_models", False)
        self._policy = policy
        self._in_time = InTime(tenants, context.machine.cores, fair=fair)
        self._works = {
            name: Work(context.costs.isolated_latency_s(name), least_core_s(context, name))
            for name in context.models
        }
        self._inside: set[int] = set()
        self._rejected: set[int] = set()

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of what would be late, and what the policy answers for the others."""
        ended = [record for record in snapshot.ended if record.query.id not in self._rejected]
        self._rejected = set()
        for record in ended:
            served = record.ending is Ending.SERVED
            self._inside.remove(record.query.id)
            self._in_time.ended(
                record.query.id, record.end_s - record.start_s if served else None, snapshot.time_s
            )
        seen, rejections = [], []
        for entry in snapshot.pending:
            if entry.query.id not in self._inside and (rejection := self._reject(entry, snapshot.time_s)):
                rejections.append(rejection)
            else:
                seen.append(entry)
        if rejections or len(ended) < len(snapshot.ended):
            snapshot = replace(snapshot, pending=seen, ended=ended)
        return [*rejections, *self._policy.allocate(snapshot)]

    def _reject(self, entry: Pending, time_s: float) -> Rejection | None:
        query = entry.query
        predicted = self._in_time.offer(
            query.id, query.sender, query.model, self._works[query.model], query.deadline_s, time_s
        )
        if predicted.in_time:
            self._inside.add(query.id)
            return None
        self._rejected.add(query.id)
        late_ms = 1e3 * (predicted.finish_s - query.deadline_s)
        return Rejection(
            query.id, f"predicted to end {late_ms:.3g} ms after its deadline, or too close to it"
        )

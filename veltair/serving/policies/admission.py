"""Admission around any policy: a tenant that asks for more than its part of the machine is turned away first.

Each tenant earns core-seconds at the rate of its part and pays for its queries as they arrive. Who cannot pay
is admitted while nobody waits and cores are idle, so that nothing is held back for nobody; else the query is
rejected. What a query costs is what the last ones of its model held, corrected when it ends.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from veltair.serving.loop.policy import Answer, Context, Pending, Policy, Rejection, Snapshot
from veltair.serving.loop.query import Ending, Query, QueryRecord

WINDOW = 10  # ended queries that tell what the next one costs, as in Clockwork


class Credit(NamedTuple):
    """What a tenant may still spend at a time, in core-seconds; below 0 it has spent too much."""

    core_s: float
    time_s: float


def earned(credit: Credit, time_s: float, cores: float, most_core_s: float) -> Credit:
    """Return the credit at a later time, of a tenant whose part of the machine is so many cores.

    It grows by `cores` core-seconds a second, to at most `most_core_s`: who was silent may send a burst, but
    no more.
    """
    grown_core_s = credit.core_s + cores * (time_s - credit.time_s)
    return Credit(min(most_core_s, grown_core_s), time_s)


def is_admitted(credit: Credit, price_core_s: float, is_idle: bool) -> bool:
    """Return whether a query may come in: its tenant can pay, or cores would be idle without it."""
    return is_idle or credit.core_s >= price_core_s


def parts_of(tenants: Mapping[str, float], cores: int) -> dict[str, float]:
    """Return each tenant's part of the machine in cores, by weight.

    Raises ValueError for a weight that is not above 0.
    """
    for name, weight in tenants.items():
        if not weight > 0:
            raise ValueError(f"tenant {name} has weight {weight}; give a number above 0")
    total = sum(tenants.values())
    return {name: cores * weight / total for name, weight in tenants.items()}


class ProtectShares:
    """A policy that sees only those queries that are within their tenants' parts, or need nobody's."""

    def __init__(self, policy: Policy, context: Context) -> None:
        tenants = context.tenants or dict.fromkeys(context.models, 1.0)
        self._policy = policy
        self._parts = parts_of(tenants, context.machine.cores)
        self._prices = {name: Price(least_core_s(context, name)) for name in context.models}
        self._burst_s = max(model.qos_s for model in context.models.values())
        self._step = context.machine.core_unit
        self._credits: dict[str, Credit] = {}
        self._paid: dict[int, float] = {}  # by query, while it is in the system
        self._rejected: set[int] = set()

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of what tenants may not send now, and what the policy answers for the others."""
        ended = [record for record in snapshot.ended if record.query.id not in self._rejected]
        self._rejected.clear()
        for record in ended:
            self._settle(record, snapshot.time_s)
        came = self._newcomers(snapshot.pending)
        if not came:
            seen = snapshot if len(ended) == len(snapshot.ended) else replace(snapshot, ended=ended)
            return self._policy.allocate(seen)
        waiting = len(snapshot.pending) - len(came)
        refused = []
        for entry in came:
            if self._admit(entry.query, snapshot, is_idle=not waiting):
                waiting += 1
            else:
                refused.append(entry.query)
        self._rejected = {query.id for query in refused}
        pending = [entry for entry in snapshot.pending if entry.query.id not in self._rejected]
        seen = replace(snapshot, pending=pending if refused else snapshot.pending, ended=ended)
        return [*map(self._rejection, refused), *self._policy.allocate(seen)]

    def _newcomers(self, pending: Sequence[Pending]) -> list[Pending]:
        """Return who has arrived since the last decision, oldest first: the end of the queue."""
        came: list[Pending] = []
        for entry in reversed(pending):
            if entry.query.id in self._paid:
                break
            came.append(entry)
        return came[::-1]

    def _admit(self, query: Query, snapshot: Snapshot, is_idle: bool) -> bool:
        price = self._prices[query.model].core_s
        credit = self._credit(query.sender, snapshot.time_s)
        has_cores = snapshot.free_cores >= self._step
        if not is_admitted(credit, price, is_idle and has_cores):
            return False
        # Who comes in on idle cores takes nothing from the others, so it need not pay for it.
        self._paid[query.id] = price if credit.core_s >= price else 0.0
        self._credits[query.sender] = credit._replace(core_s=credit.core_s - self._paid[query.id])
        return True

    def _settle(self, record: QueryRecord, time_s: float) -> None:
        paid, query = self._paid.pop(record.query.id), record.query
        if record.ending is Ending.SERVED:
            self._prices[query.model].add(record.core_s)
        if paid:
            credit = self._credit(query.sender, time_s)
            self._credits[query.sender] = credit._replace(core_s=credit.core_s + paid - record.core_s)

    def _credit(self, tenant: str, time_s: float) -> Credit:
        cores = self._parts.get(tenant)
        if cores is None:
            raise LookupError(
                f"tenant {tenant} has no part of the machine ({', '.join(self._parts)} have); name it in "
                "`tenants`"
            )
        dearest = max(price.core_s for price in self._prices.values())
        most_core_s = max(cores * self._burst_s, dearest)
        return earned(self._credits.get(tenant, Credit(most_core_s, time_s)), time_s, cores, most_core_s)

    def _rejection(self, query: Query) -> Rejection:
        cores = self._parts[query.sender]
        return Rejection(query.id, f"{query.sender} has used up its part of {cores:.3g} cores")


class Price:
    """What a query of a model costs: the mean of those that ended last, or a guess before."""

    def __init__(self, guess_core_s: float) -> None:
        self._ended: deque[float] = deque(maxlen=WINDOW)
        self.core_s = guess_core_s

    def add(self, core_s: float) -> None:
        """Take the core-seconds into account that a query held."""
        self._ended.append(core_s)
        self.core_s = _mean(self._ended)


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)


def least_core_s(context: Context, model: str) -> float:
    """Return the least core-seconds of a query on a count that meets its target, else on the fastest."""
    costs = context.costs
    seconds = costs.solo_seconds(model).sum(axis=0)
    known = np.flatnonzero(np.isfinite(seconds))
    within = [index for index in known if seconds[index] <= context.models[model].qos_s]
    best = min(
        within or [known[int(seconds[known].argmin())]], key=lambda index: seconds[index] * costs.cores[index]
    )
    return float(seconds[best] * costs.cores[best])

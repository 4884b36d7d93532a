"""Tenants as they are offered: who asks for which model, how often, and when each of their queries comes.

Where LoadGen could draw the queries of all tenants, they are LoadGen's, bit for bit. Else each tenant has a
path of its own, drawn by us: from the seed and its name, so that it is the same whoever else takes part and
at every rate, rescaled.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil

import numpy as np
from numpy.typing import NDArray

from veltair.config.trace_file import RecordedTrace
from veltair.evaluation.loadgen.arrivals import MAX_SAMPLES, server_queries, share_samples
from veltair.serving.loop.query import Query

LOADGEN_SERVER, OURS = "LoadGen's Server scenario", "our own client, a path a tenant"
Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TenantLoad:
    """A tenant of a workload on one machine: the model that it asks for, its target there, and its queries.

    `offered` is its part of the queries relative to the others', `weight` its part of the machine. Gaps are
    exponential, or gamma-distributed with the coefficient of variation `cv`, or those of `trace`. `qos_s` is
    `asked_qos_s` or, if the machine is too slow for that, more.
    """

    name: str
    model: str
    offered: float
    qos_s: float
    weight: float = 1.0
    cv: float | None = None
    trace: RecordedTrace | None = None
    asked_qos_s: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("offered", self.offered), ("qos_s", self.qos_s), ("weight", self.weight)):
            if not value > 0:
                raise ValueError(f"TenantLoad {self.name}: {name} is {value}; give a number above 0")
        if self.cv is not None and not self.cv > 0:
            raise ValueError(f"TenantLoad {self.name}: cv is {self.cv}; give a number above 0")

    @property
    def is_poisson(self) -> bool:
        """Whether its queries come as LoadGen draws them."""
        return self.cv is None and self.trace is None


def drawn_by(tenants: Sequence[TenantLoad]) -> str:
    """Return who draws their queries: LoadGen where all are Poisson in whole shares, else our own client."""
    return OURS if _sample_weights(tenants) is None else LOADGEN_SERVER


def sample_tenants(tenants: Sequence[TenantLoad], copies: int = 1) -> tuple[str, ...]:
    """Return the tenant of each sample of the library, as `share_samples` does of models.

    Where LoadGen cannot draw the tenants, each has `copies` samples: shares are then in the times drawn.
    """
    weights = _sample_weights(tenants)
    return share_samples(weights or {tenant.name: 1 for tenant in tenants}, copies)


def drawn_samples(
    tenants: Sequence[TenantLoad],
    qps: float,
    min_duration_ms: int,
    min_query_count: int,
    seed: int,
    copies: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return when our own client sends queries, in ns from the first, and which sample each asks for.

    They are those of `tenant_queries` for tenants that LoadGen cannot draw; both of shape (queries,). Each
    tenant asks for its samples of `sample_tenants` in turn.
    """
    times_s, owners = _own_arrivals(tenants, qps, min_duration_ms, min_query_count, seed)
    turns = np.zeros(len(owners), dtype=np.int64)
    for tenant in range(len(tenants)):
        turns[owners == tenant] = np.arange((owners == tenant).sum()) % copies
    return np.rint((times_s - times_s[0]) * 1e9).astype(np.int64), owners * copies + turns


def tenant_queries(
    tenants: Sequence[TenantLoad], qps: float, min_duration_ms: int, min_query_count: int, seed: int
) -> tuple[Query, ...]:
    """Return the queries of all tenants in the order of arrival, `qps` a second together.

    The last one is the first that is not before `min_duration_ms` and makes `min_query_count`.
    """
    if drawn_by(tenants) == LOADGEN_SERVER:
        by_name = {tenant.name: tenant for tenant in tenants}
        targets_s = {tenant.name: tenant.qos_s for tenant in tenants}
        drawn = server_queries(
            *(qps, min_duration_ms, min_query_count, seed),
            sample_models=sample_tenants(tenants),
            qos_s=targets_s,
        )
        return tuple(_query(query.id, by_name[query.model], query.arrival_s) for query in drawn)
    return _queries(tenants, *_own_arrivals(tenants, qps, min_duration_ms, min_query_count, seed))


def _own_arrivals(
    tenants: Sequence[TenantLoad], qps: float, min_duration_ms: int, min_query_count: int, seed: int
) -> tuple[Times, NDArray[np.int64]]:
    total, duration_s = sum(tenant.offered for tenant in tenants), min_duration_ms / 1e3
    rates = [qps * tenant.offered / total for tenant in tenants]
    end_s = max(duration_s, min_query_count / qps)
    while True:
        end_s *= 1.25
        times_s, owners = merged_arrivals(tenants, rates, end_s, seed)
        last = max(int(np.searchsorted(times_s, duration_s)) + 1, min_query_count)
        if last <= len(times_s):
            return times_s[:last], owners[:last]


def queries_until(
    tenants: Sequence[TenantLoad], rates: Sequence[float], end_s: float, seed: int
) -> tuple[Query, ...]:
    """Return the queries that tenants send until `end_s`, each at a rate of its own, in queries/s.

    A tenant's queries depend on its name, its rate and the seed alone; at rate 0 it sends none.
    """
    return _queries(tenants, *merged_arrivals(tenants, rates, end_s, seed))


def merged_arrivals(
    tenants: Sequence[TenantLoad], rates: Sequence[float], end_s: float, seed: int
) -> tuple[Times, NDArray[np.int64]]:
    """Return all arrivals before `end_s`, ascending, and the index of each one's tenant; shape (queries,)."""
    paths = [
        unit_path(tenant, rate * end_s, seed) / rate if rate > 0 else np.empty(0)
        for tenant, rate in zip(tenants, rates, strict=True)
    ]
    times_s = np.concatenate(paths)
    owners = np.repeat(np.arange(len(tenants)), [len(path) for path in paths])
    order = np.argsort(times_s, kind="stable")
    return times_s[order], owners[order]


def unit_path(tenant: TenantLoad, end: float, seed: int) -> Times:
    """Return when a tenant's queries come before `end`, in mean gaps; a longer path goes on from it."""
    if tenant.trace is not None:
        return _replayed(tenant.trace, end, seed)
    shape = 1.0 if tenant.cv is None else tenant.cv**-2

    def gaps(number: int) -> Times:
        # Of a fresh generator each time: the first gaps of a longer path are those of a shorter one.
        drawn = np.random.default_rng([seed, *tenant.name.encode()]).standard_gamma(shape, number)
        return drawn / shape

    return _until(end, gaps)


def _until(end: float, gaps: Callable[[int], Times]) -> Times:
    for doubling in count():
        path = np.cumsum(gaps((ceil(end) + 16) << doubling))
        if path[-1] >= end:
            return path[: int(np.searchsorted(path, end))]
    raise AssertionError  # count() does not end


def _replayed(trace: RecordedTrace, end: float, seed: int) -> Times:
    """Return a recording stretched to mean gaps of 1, begun at a place that the seed says, and repeated."""
    number = len(trace.arrivals_s)
    scaled = np.array(trace.arrivals_s) * (number / trace.length_s)
    # The same place of all recordings of a run: those of one file stay beside each other.
    start = np.random.default_rng(seed).random() * number
    once = np.sort((scaled - start) % number)
    path = (once + number * np.arange(ceil(end / number))[:, None]).ravel()
    return path[: int(np.searchsorted(path, end))]


def _queries(tenants: Sequence[TenantLoad], times_s: Times, owners: NDArray[np.int64]) -> tuple[Query, ...]:
    return tuple(
        _query(number, tenants[owner], arrival_s)
        for number, (arrival_s, owner) in enumerate(zip(times_s.tolist(), owners.tolist(), strict=True))
    )


def _query(number: int, tenant: TenantLoad, arrival_s: float) -> Query:
    name = "" if tenant.name == tenant.model else tenant.name
    return Query(number, tenant.model, arrival_s, tenant.qos_s, name)


def _sample_weights(tenants: Sequence[TenantLoad]) -> dict[str, int] | None:
    """Return whole shares of the samples of a library, None where there are none."""
    if not all(tenant.is_poisson and float(tenant.offered).is_integer() for tenant in tenants):
        return None
    shares = {tenant.name: int(tenant.offered) for tenant in tenants}
    return shares if sum(shares.values()) <= MAX_SAMPLES else None

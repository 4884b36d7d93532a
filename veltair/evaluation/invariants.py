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
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import cast

import numpy as np
from numpy.typing import NDArray

from veltair.evaluation.targets import ROUNDING, LeastPlan, least_plan
from veltair.serving.policy import Context
from veltair.serving.query import Query, QueryRecord
from veltair.serving.simulator import Draw

# Queries whose least work is computed at a time: enough to pay for the call, few enough to stay in a cache.
CHUNK = 512


class InvariantError(RuntimeError):
    """A run did what cannot be done; the message says what, with both numbers."""


def checked(
    records: Iterable[QueryRecord],
    arrivals: Sequence[Query],
    context: Context,
    factors: Iterable[NDArray[np.float64]],
) -> Iterator[QueryRecord]:
    """Yield the records of a run without batching as they come, each checked before it is handed on.

    `factors` has for each arrival, in order, the service factors of its layers (`service_factors`). Raises
    InvariantError if a query ends twice or never, if one that is on time held fewer core-seconds than the
    least that it needs, if those on time together needed more than there were, or if more were held than
    there were. A consumer may stop early: what it has seen is checked.
    """
    cores, longest_s = context.machine.cores, max(model.qos_s for model in context.models.values())
    first_s, last_s = (arrivals[0].arrival_s, arrivals[-1].arrival_s) if arrivals else (0.0, 0.0)
    available = cores * (last_s - first_s + longest_s)
    work = _LeastWork(arrivals, context, factors)
    needed = held = 0.0
    for record in records:
        least = work.take(record.query)
        held += record.core_s
        if record.on_time:
            needed += least
            _check_query(record, least)
            _check_total("the queries on time need", needed, available, last_s + longest_s)
        _check_total("queries held", held, cores * (record.end_s - first_s), record.end_s)
        yield record
    work.check_empty()


def service_factors(arrivals: Sequence[Query], context: Context, rng: Draw) -> Iterator[NDArray[np.float64]]:
    """Yield the factors that the simulator draws for each arrival from an equal generator, layer by layer."""
    for query in arrivals:
        noise = context.costs.model(query.model).noise
        yield noise[rng.integers(len(noise), size=len(context.models[query.model].layers))]


class _LeastWork:
    """The least core-seconds of each query that has not ended yet, computed as queries are asked for."""

    def __init__(
        self, arrivals: Sequence[Query], context: Context, factors: Iterable[NDArray[np.float64]]
    ) -> None:
        self._coming = zip(arrivals, factors, strict=True)
        self._plans = _plans(context)
        self._open: dict[int, float] = {}

    def take(self, query: Query) -> float:
        """Return the least core-seconds of a query that ended, once."""
        while query.id not in self._open:
            chunk = list(islice(self._coming, CHUNK))
            if not chunk:
                raise InvariantError(f"query {query.id} of {query.model} ended twice, or never arrived")
            self._add(chunk)
        return self._open.pop(query.id)

    def check_empty(self) -> None:
        """Raise InvariantError if a query never ended."""
        never = len(self._open) + sum(1 for _ in self._coming)
        if never:
            raise InvariantError(f"the run ended, but {never} of its queries did not; each ends exactly once")

    def _add(self, chunk: Sequence[tuple[Query, NDArray[np.float64]]]) -> None:
        by_model: dict[str, list[tuple[Query, NDArray[np.float64]]]] = {}
        for query, factors in chunk:
            by_model.setdefault(query.model, []).append((query, factors))
        for model, group in by_model.items():
            drawn = np.stack([factors for _, factors in group])
            least = self._plans[model].core_s(drawn, np.array([query.qos_s for query, _ in group]))
            self._open.update(zip((query.id for query, _ in group), least.tolist(), strict=True))


def _plans(context: Context) -> Mapping[str, LeastPlan]:
    # Repeats scatter: a layer may have been profiled faster under pressure than without.
    costs = context.costs
    return {
        name: least_plan(cast(NDArray[np.float64], costs.model(name).seconds.min(axis=3)), costs.cores)
        for name in context.models
    }


def _check_query(record: QueryRecord, least_core_s: float) -> None:
    if record.core_s < least_core_s * (1 - ROUNDING):
        raise InvariantError(
            f"query {record.query.id} of {record.query.model} was on time with {record.core_s:.6g} core-s, "
            f"but needs {least_core_s:.6g} core-s at least to end within {record.query.qos_s} s: the "
            "simulator charges less than the cost tables say, or books fewer cores than it runs on"
        )


def _check_total(what: str, core_s: float, available_core_s: float, until_s: float) -> None:
    if core_s > available_core_s * (1 + ROUNDING):
        raise InvariantError(
            f"{what} {core_s:.6g} core-s, but all cores together have {available_core_s:.6g} core-s from the "
            f"first arrival until {until_s:.6g} s: the run beats the fluid bound, so its harness has a bug"
        )

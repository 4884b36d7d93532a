"""A LoadGen process for each model of a mixed run, so that each gets LoadGen's official verdict.

A mixed run asks one LoadGen for all models, and LoadGen judges by one target latency. Here every model has a
LoadGen of its own with its own target; all load, wait, and are let go together. Toward the engine they
are one: the same callbacks, query ids and sample indices that no two models share. Tables and messages call
a model that has a LoadGen of its own a tenant.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from veltair.evaluation.loadgen.child import TARGET_PERCENTILE
from veltair.evaluation.loadgen.client import (
    Limits,
    LoadGenProcess,
    OnArrival,
    OnFailure,
    OnFlush,
)
from veltair.evaluation.loadgen.client_runs import ClientRun, ServerRun
from veltair.evaluation.loadgen.logs import MIXED, LoadGenError, LoadGenResult, LoadGenSummary, delay_problem
from veltair.machine.workers.priorities import Promptness
from veltair.serving.loop.query import Ending, QueryRecord

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, eq=False)
class PerModelSummary:
    """What the LoadGens of all models say about a run that ended, by model in the order of their ids.

    `tightest_qos_s` is the least of the models' latency targets.
    """

    by_model: Mapping[str, LoadGenSummary]
    tightest_qos_s: float

    @property
    def verdicts(self) -> dict[str, LoadGenResult]:
        """LoadGen's official verdict on each tenant."""
        return {tenant: summary.verdict for tenant, summary in self.by_model.items()}

    @property
    def issue_delay_p50_s(self) -> float:
        """Median issue delay of the tenant that had the longest."""
        return max(summary.issue_delay_p50_s for summary in self.by_model.values())

    @property
    def issue_delay_p99_s(self) -> float:
        """99th percentile of the issue delay of the tenant that had the longest."""
        return max(summary.issue_delay_p99_s for summary in self.by_model.values())

    @property
    def delivery_p50_s(self) -> float:
        """Median time from LoadGen's callback to ours, of the tenant that had the longest."""
        return max(summary.delivery_p50_s for summary in self.by_model.values())

    @property
    def delivery_p99_s(self) -> float:
        """99th percentile of the time from LoadGen's callback to ours, of the tenant that had the longest."""
        return max(summary.delivery_p99_s for summary in self.by_model.values())

    @property
    def client(self) -> str:
        """Who sent the queries: alike for all tenants."""
        return next(iter(self.by_model.values())).client

    @property
    def promptness(self) -> Promptness:
        """How LoadGen's threads were put before others: alike for all tenants."""
        return next(iter(self.by_model.values())).promptness

    @property
    def problem(self) -> str:
        """Which tenants' issue delay spoils the run and what to do; "" where none does.

        All are held to the tightest target: the tenants share the cores, and a burst of one delays the rest.
        """
        problems = {
            tenant: delay_problem(summary.log, self.tightest_qos_s)
            for tenant, summary in self.by_model.items()
        }
        return "; ".join(f"tenant {tenant}: {problem}" for tenant, problem in problems.items() if problem)

    def join(self, records: Sequence[QueryRecord], zero_s: float) -> tuple[QueryRecord, ...]:
        """Return the records of the run with each tenant's LoadGen's times, in the order of arrival.

        `zero_s` is when the clock of the records read 0, on that of time.monotonic(). Raises LoadGenError
        or ValueError, as `LoadGenSummary.join` does for a tenant.
        """
        joined: list[QueryRecord] = []
        for position, (tenant, summary) in enumerate(self.by_model.items()):
            own = [
                _renumbered(record, record.query.id // len(self.by_model))
                for record in records
                if record.query.id % len(self.by_model) == position
            ]
            try:
                official = summary.join(own, zero_s)
            except LoadGenError as error:
                raise _named(tenant, error) from error
            joined += [_renumbered(one, one.query.id * len(self.by_model) + position) for one in official]
        return tuple(sorted(joined, key=lambda record: (record.query.arrival_s, record.query.id)))


class LoadGenPerModel:
    """A LoadGen process for each model of a mixed run; a context that leaves no process behind.

    Used as a `LoadGenProcess` is. A query's id is its sequence number in its tenant x the number of tenants
    + the tenant's position, and its sample index is one of the mixed run's. Callbacks run on a thread a
    tenant and must return at once.
    """

    def __init__(self, run: ClientRun, qos_s: Mapping[str, float], limits: Limits | None = None) -> None:
        """Prepare the processes. Raises ValueError for a run whose queries LoadGen does not draw."""
        if not isinstance(run, ServerRun):
            raise ValueError(f"the queries are sent by {run.client}; set measured.loadgen_per_model: false")
        self._limits = limits or Limits()
        self._runs = split(run, qos_s)
        self._tightest_qos_s = min(one.target_latency_s for one in self._runs.values())
        self._samples = {
            tenant: [index for index, model in enumerate(run.sample_models) if model == tenant]
            for tenant in self._runs
        }
        self._processes = {tenant: LoadGenProcess(one, limits) for tenant, one in self._runs.items()}
        self._processes_left = ExitStack()
        # Flushes and failures come from as many threads as there are tenants; arrivals need no lock.
        self._lock = threading.Lock()
        self._flushed = 0
        self._failure: LoadGenError | None = None

    def __enter__(self) -> Self:
        for process in self._processes.values():
            self._processes_left.enter_context(process)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._processes_left.close()

    def start(
        self,
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_arrival: OnArrival,
        on_flush: OnFlush,
        on_failure: OnFailure,
    ) -> None:
        """Start all LoadGens, call `on_ready` here once all wait, then let all their clocks run.

        `on_flush` comes once, after every tenant's last query; `on_failure` at most once. Raises
        LoadGenError, with the tenant, if one does not come up.
        """
        for process in self._processes.values():
            process.launch()
        ready_by_s = time.monotonic() + self._limits.start_s
        self._each(lambda process: process.await_ready(ready_by_s - time.monotonic()))
        on_ready()
        for position, (tenant, process) in enumerate(self._processes.items()):
            process.listen(
                partial(self._arrive, position, self._samples[tenant], on_arrival),
                partial(self._flush, on_flush),
                partial(self._fail, tenant, on_failure),
            )
        self._each(LoadGenProcess.go)

    @property
    def pids(self) -> tuple[int, ...]:
        """Ids of all processes, once started."""
        return tuple(pid for process in self._processes.values() for pid in process.pids)

    def complete(self, *query_ids: int) -> None:
        """Tell the tenants' LoadGens that these queries have ended: each exactly once.

        Raises LookupError for a query that is not open, LoadGenError if its LoadGen is gone.
        """
        count = len(self._processes)
        for position, (tenant, process) in enumerate(self._processes.items()):
            sequences = [number // count for number in query_ids if number % count == position]
            if not sequences:
                continue
            try:
                process.complete(*sequences)
            except LoadGenError as error:
                raise _named(tenant, error) from error

    def wait(self, timeout_s: float) -> PerModelSummary:
        """Return all summaries once every LoadGen has seen its completions, written its logs and gone.

        Raises LoadGenError, with the tenant, if that takes longer than `timeout_s` or if a LoadGen failed.
        """
        end_s = time.monotonic() + timeout_s
        summaries = self._each(lambda process: process.wait(max(end_s - time.monotonic(), 0.0)))
        return PerModelSummary(summaries, self._tightest_qos_s)

    def _each(self, step: Callable[[LoadGenProcess], _Result]) -> dict[str, _Result]:
        """Return what a step gives for each tenant; raise the run's first failure."""
        results = {}
        for tenant, process in self._processes.items():
            try:
                results[tenant] = step(process)
            except LoadGenError as error:
                raise self._failure or _named(tenant, error) from error
        return results

    def _arrive(
        self,
        position: int,
        samples: Sequence[int],
        on_arrival: OnArrival,
        sequence: int,
        sample: int,
        received_s: float,
    ) -> None:
        on_arrival(sequence * len(self._processes) + position, samples[sample], received_s)

    def _flush(self, on_flush: OnFlush) -> None:
        with self._lock:
            self._flushed += 1
            last = self._flushed == len(self._processes)
        if last:
            on_flush()

    def _fail(self, tenant: str, on_failure: OnFailure, error: LoadGenError) -> None:
        with self._lock:
            if self._failure is not None:
                return
            self._failure = _named(tenant, error)
        on_failure(self._failure)


def split(run: ServerRun, qos_s: Mapping[str, float]) -> dict[str, ServerRun]:
    """Return a run for each model of a mixed one, in the order of their first samples.

    A model's share of the samples is its share of the rate and of the least number of queries, rounded up;
    its latency target is that of `qos_s`, in seconds, and its logs have a folder of its name in the outdir.
    Each has a seed of its own, mixed from the run's, so that the arrivals are independent Poisson processes.
    """
    models = list(dict.fromkeys(run.sample_models))
    missing = [model for model in models if model not in qos_s]
    if missing:
        raise ValueError(f"no latency target for {', '.join(missing)}; give seconds for each model in qos_s")
    runs = {}
    for position, model in enumerate(models):
        samples = tuple(name for name in run.sample_models if name == model)
        share = len(samples) / len(run.sample_models)
        seeds = np.random.SeedSequence(run.seed, spawn_key=(position,))
        runs[model] = replace(
            run,
            qps=run.qps * share,
            min_query_count=ceil(run.min_query_count * share),
            seed=int(seeds.generate_state(1)[0]),
            sample_models=samples,
            target_latency_s=qos_s[model],
            outdir=run.outdir / model,
        )
    return runs


def verdict_rows(
    summary: LoadGenSummary | PerModelSummary, records: Sequence[QueryRecord]
) -> list[dict[str, Any]]:
    """Return LoadGen's verdict beside ours, a row a tenant, of joined records of the whole run.

    Ours: `on_time` is the share of the queries served within their targets, warm-up included as by LoadGen,
    and `satisfied` whether that is 95 % or more. LoadGen also asks for so many queries that the share is no
    luck, but takes a rejection for a fast answer. The row of a mixed run has the tenant "*" and no verdict.
    """
    rows = []
    for tenant, verdict in summary.verdicts.items():
        own = [record for record in records if tenant in (MIXED, record.query.model)]
        on_time = sum(record.on_time for record in own) / len(own)
        rows.append(
            {
                "tenant": tenant,
                "queries": len(own),
                "on_time": on_time,
                "satisfied": on_time >= TARGET_PERCENTILE,
                "rejected": sum(record.ending is Ending.REJECTED for record in own),
                "unfinished": sum(record.ending is Ending.UNFINISHED for record in own),
                "loadgen_valid": verdict.valid,
                "loadgen_reason": verdict.reason,
                "loadgen_target_s": verdict.target_latency_ns / 1e9,
                "loadgen_late": verdict.late_count,
                "loadgen_mean_s": verdict.mean_latency_ns / 1e9,
                "loadgen_p95_s": verdict.p95_latency_ns / 1e9,
            }
        )
    return rows


def _renumbered(record: QueryRecord, query_id: int) -> QueryRecord:
    return record._replace(query=record.query._replace(id=query_id))


def _named(tenant: str, error: LoadGenError) -> LoadGenError:
    return LoadGenError(f"tenant {tenant}: {error}")

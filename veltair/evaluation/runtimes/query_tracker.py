"""Queries in from LoadGen, on to whoever serves, and each completed and recorded once: for any backend."""

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan

from veltair.evaluation.loadgen.client import END_TIMEOUT_S, LoadGenProcess, ServerRun
from veltair.evaluation.loadgen.logs import LoadGenSummary
from veltair.evaluation.metrics.capacity import Satisfaction, satisfaction_of, warmup_s
from veltair.evaluation.runtimes.registry import Done, RuntimeBackend
from veltair.serving.loop.query import Ending, Query, QueryRecord


@dataclass(frozen=True, slots=True)
class RateResult:
    """What became of one rate: the shares of queries on time, and why the run says nothing, "" if it does."""

    qps: float
    queries: int
    pooled: float
    minimum: float
    issue_delay_p99_s: float
    problem: str

    @property
    def satisfaction(self) -> Satisfaction:
        """The shares of queries on time."""
        return Satisfaction(self.pooled, self.minimum, invalid=bool(self.problem))

    def describe(self) -> str:
        """Return it in one line."""
        delay = f"issue delay p99 {1e3 * self.issue_delay_p99_s:.2f} ms"
        return (
            f"{self.qps:.4g} QPS: {self.queries} queries, {self.pooled:.1%} on time, {delay} {self.problem}"
        )


class _Flushed:
    """No more queries will arrive."""


class QueryTracker:
    """The queries of one run and what became of them.

    Other threads put notices on a queue; the one that calls `wait` does the rest. `complete` tells
    LoadGen of an end, see `LoadGenProcess.complete`. Times are of time.monotonic().
    """

    def __init__(
        self,
        complete: Callable[[int], None],
        sample_models: Sequence[str],
        qos_s: Mapping[str, float],
    ) -> None:
        self._complete = complete
        self._sample_models, self._qos_s = sample_models, qos_s
        self._open: dict[int, Query] = {}
        self._arrived = 0
        self._notices: queue.SimpleQueue[QueryRecord | _Flushed | Exception] = queue.SimpleQueue()

    def arrive(self, number: int, sample: int, received_s: float) -> None:
        """Take in a query, from LoadGen's reader."""
        model = self._sample_models[sample]
        self._open[number] = Query(number, model, received_s, self._qos_s[model])
        self._arrived += 1

    def done(self, number: int, start_s: float, failure: Exception | None) -> None:
        """Complete a query, from any thread; one that was given up in the meantime stays unfinished."""
        if failure is not None:
            self._notices.put(failure)
            return
        self._end(number, Ending.SERVED, start_s)

    def flush(self) -> None:
        """No more queries will arrive, from LoadGen's reader."""
        self._notices.put(_Flushed())

    def fail(self, error: Exception) -> None:
        """End the run with an error, from any thread."""
        self._notices.put(error)

    def wait(self, drain_s: float) -> list[QueryRecord]:
        """Return a record of each query once all have ended; `drain_s` after the flush they are given up.

        Raises what `fail` was given, and what a query failed with.
        """
        records: list[QueryRecord] = []
        give_up_s: float | None = None
        while give_up_s is None or len(records) < self._arrived:
            timeout_s = None if give_up_s is None else max(0.0, give_up_s - time.monotonic())
            try:
                notice = self._notices.get(timeout=timeout_s)
            except queue.Empty:
                for number in list(self._open):
                    self._end(number, Ending.UNFINISHED, time.monotonic())
                continue
            if isinstance(notice, Exception):
                raise notice
            if isinstance(notice, QueryRecord):
                records.append(notice)
            else:
                give_up_s = time.monotonic() + drain_s
        return records

    def _end(self, number: int, ending: Ending, start_s: float) -> None:
        # Whoever takes the query out is the one that ends it.
        query = self._open.pop(number, None)
        if query is None:
            return
        try:
            self._complete(number)
        except Exception as error:
            self._notices.put(error)
            return
        blocks = int(ending is Ending.SERVED)
        # Nobody can tell the cores that another runtime's threads held.
        self._notices.put(QueryRecord(query, ending, start_s, time.monotonic(), blocks, 0, nan))


def serve_rate(
    run: ServerRun,
    qos_s: Mapping[str, float],
    drain_s: float,
    open_backend: Callable[[Done], RuntimeBackend],
    warm_up: Callable[[RuntimeBackend], None],
) -> RateResult:
    """Let LoadGen ask a backend, warmed up before the first query, and return what became of the queries.

    Raises LoadGenError if LoadGen failed, and what a query failed with.
    """
    with LoadGenProcess(run) as loadgen:
        tracker = QueryTracker(loadgen.complete, run.sample_models, qos_s)
        backend = open_backend(tracker.done)

        def take(number: int, sample: int, received_s: float) -> None:
            tracker.arrive(number, sample, received_s)
            backend.submit(number, sample)

        try:
            loadgen.start(
                on_ready=lambda: warm_up(backend),
                on_arrival=take,
                on_flush=tracker.flush,
                on_failure=tracker.fail,
            )
            records, summary = tracker.wait(drain_s), loadgen.wait(END_TIMEOUT_S)
        finally:
            backend.stop()
    return _outcome(run, records, summary, max(qos_s.values()))


def _outcome(
    run: ServerRun, records: Sequence[QueryRecord], summary: LoadGenSummary, longest_qos_s: float
) -> RateResult:
    joined = summary.join(records, 0.0)
    queries = [record.query for record in joined]
    first_s, last_s = queries[0].arrival_s, queries[-1].arrival_s
    shares = satisfaction_of(joined, queries, first_s + warmup_s(last_s - first_s, longest_qos_s))
    problem = summary.problem or ("no query was counted" if shares.invalid else "")
    return RateResult(run.qps, len(joined), shares.pooled, shares.minimum, summary.issue_delay_p99_s, problem)

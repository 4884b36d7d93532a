"""Queries in from LoadGen, on to whoever serves, and each completed and recorded once: for any backend."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from math import nan

from veltair.evaluation.loadgen.client import END_TIMEOUT_S, LoadGenProcess
from veltair.evaluation.loadgen.client_runs import ClientRun
from veltair.evaluation.loadgen.logs import LoadGenSummary
from veltair.evaluation.runtimes.registry import RuntimeBackend
from veltair.serving.loop.query import Ending, Query, QueryRecord


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


class Relay:
    """A backend that stays up while the trackers of its queries come and go.

    It is made before the backend, which is told of `done`.
    """

    def __init__(self) -> None:
        self._tracker: QueryTracker | None = None
        self._open = 0
        self._changed = threading.Condition()

    def use(self, tracker: QueryTracker) -> None:
        """Tell this tracker of the ends of queries from now on."""
        self._tracker = tracker

    def submit(self, backend: RuntimeBackend, number: int, sample: int) -> None:
        """Hand a query to the backend."""
        with self._changed:
            self._open += 1
        backend.submit(number, sample)

    def done(self, number: int, start_s: float, failure: Exception | None) -> None:
        """Take the end of a query, from any thread."""
        if self._tracker is not None:
            self._tracker.done(number, start_s, failure)
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def settle(self, timeout_s: float) -> None:
        """Wait until the backend has ended what it was handed, also what a tracker gave up.

        Raises TimeoutError where that takes longer.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._open == 0, timeout_s):
                raise TimeoutError(f"{self._open} queries have not ended {timeout_s:g} s after the run")


def serve_run(
    run: ClientRun, qos_s: Mapping[str, float], drain_s: float, backend: RuntimeBackend, relay: Relay
) -> tuple[list[QueryRecord], LoadGenSummary]:
    """Let LoadGen ask a backend, and return what became of the queries, and LoadGen's account.

    Raises LoadGenError if LoadGen failed, and what a query failed with.
    """
    with LoadGenProcess(run) as loadgen:
        tracker = QueryTracker(loadgen.complete, run.sample_models, qos_s)
        relay.use(tracker)

        def take(number: int, sample: int, received_s: float) -> None:
            tracker.arrive(number, sample, received_s)
            relay.submit(backend, number, sample)

        loadgen.start(on_arrival=take, on_flush=tracker.flush, on_failure=tracker.fail)
        return tracker.wait(drain_s), loadgen.wait(END_TIMEOUT_S)

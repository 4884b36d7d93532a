import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.evaluation.loadgen.arrivals import share_samples
from veltair.evaluation.loadgen.client_runs import ServerRun
from veltair.evaluation.loadgen.logs import LoadGenSummary
from veltair.evaluation.runtimes.query_tracker import QueryTracker, Relay, serve_run
from veltair.evaluation.runtimes.registry import Done
from veltair.serving.loop.query import Ending, QueryRecord

MODELS = share_samples({"a": 1, "b": 1})
QOS_S = {"a": 10.0, "b": 10.0}


def tracker(complete: Callable[[int], None] = lambda number: None) -> QueryTracker:
    return QueryTracker(complete, MODELS, QOS_S)


class FakeBackend:
    """Answers at once, but for queries of the models it is told to forget."""

    def __init__(self, done: Done, forgotten: tuple[str, ...] = (), failing: tuple[str, ...] = ()) -> None:
        self.done, self.forgotten, self.failing = done, forgotten, failing

    def answers(self, sample: int) -> list[list[Any]]:
        return []

    def submit(self, query: int, sample: int) -> None:
        if MODELS[sample] in self.failing:
            self.done(query, time.monotonic(), RuntimeError("the model broke"))
        elif MODELS[sample] not in self.forgotten:
            self.done(query, time.monotonic(), None)

    def stop(self) -> None:
        """Nothing runs."""


Served = tuple[list[QueryRecord], LoadGenSummary]


def serve(folder: Path, drain_s: float = 10.0, **options: Any) -> Served:
    """Serve a quarter of a second of the real LoadGen."""
    relay = Relay()
    run = ServerRun(200.0, 250, 1, 3, MODELS, 10.0, folder)
    return serve_run(run, QOS_S, drain_s, FakeBackend(relay.done, **options), relay)


def test_loadgen_gets_an_answer_to_every_query(tmp_path: Path) -> None:
    records, summary = serve(tmp_path)
    assert {record.ending for record in records} == {Ending.SERVED}
    assert len(records) == len(summary.log) > 20


def test_a_model_that_is_never_answered_leaves_its_queries_unfinished(tmp_path: Path) -> None:
    records, _ = serve(tmp_path, drain_s=0.1, forgotten=("b",))
    endings = {(record.query.model, record.ending) for record in records}
    assert endings == {("a", Ending.SERVED), ("b", Ending.UNFINISHED)}


def test_a_query_that_fails_ends_the_run_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the model broke"):
        serve(tmp_path, failing=("a",))


def test_a_served_query_is_completed_and_recorded() -> None:
    completed: list[int] = []
    desk = tracker(completed.append)
    desk.arrive(0, 1, 5.0)
    desk.done(0, 6.0, None)
    desk.flush()
    (record,) = desk.wait(1.0)
    assert completed == [0]
    assert (record.query.model, record.query.arrival_s, record.start_s) == ("b", 5.0, 6.0)
    assert record.ending is Ending.SERVED


@given(st.permutations(range(6)), st.integers(0, 6))
def test_every_query_ends_once_whatever_the_order_and_however_many_are_given_up(
    order: list[int], served: int
) -> None:
    completed: list[int] = []
    desk = tracker(completed.append)
    for number in range(6):
        desk.arrive(number, 0, 0.0)
    for number in order[:served]:
        desk.done(number, 0.0, None)
    desk.flush()
    records = desk.wait(0.0)
    for number in order:
        desk.done(number, 0.0, None)  # too late, or said before
    assert sorted(completed) == list(range(6))
    assert sorted(record.query.id for record in records) == list(range(6))
    endings = {record.query.id: record.ending for record in records}
    assert all(endings[number] is Ending.SERVED for number in order[:served])
    assert all(endings[number] is Ending.UNFINISHED for number in order[served:])


def test_queries_that_end_after_the_flush_are_waited_for() -> None:
    desk = tracker()
    desk.arrive(0, 0, 0.0)
    desk.flush()
    threading.Timer(0.01, desk.done, (0, 0.0, None)).start()
    (record,) = desk.wait(10.0)
    assert record.ending is Ending.SERVED


def test_a_run_without_a_query_ends_with_the_flush() -> None:
    desk = tracker()
    desk.flush()
    assert desk.wait(10.0) == []


def test_what_loadgen_fails_with_ends_the_run() -> None:
    desk = tracker()
    desk.fail(ConnectionError("gone"))
    with pytest.raises(ConnectionError, match="gone"):
        desk.wait(1.0)


def test_a_completion_that_cannot_be_told_ends_the_run() -> None:
    def refuse(number: int) -> None:
        raise ConnectionError("the socket is closed")

    desk = tracker(refuse)
    desk.arrive(0, 0, 0.0)
    desk.done(0, 0.0, None)
    with pytest.raises(ConnectionError, match="the socket is closed"):
        desk.wait(1.0)


def test_queries_of_one_run_after_another_go_to_their_own_trackers() -> None:
    relay, ended = Relay(), list[tuple[str, int]]()
    backend = FakeBackend(relay.done)
    for name in ("first", "second"):
        desk = tracker(lambda number, name=name: ended.append((name, number)))  # type: ignore[misc]
        relay.use(desk)
        desk.arrive(0, 0, 0.0)
        relay.submit(backend, 0, 0)
        desk.flush()
        assert len(desk.wait(1.0)) == 1
        relay.settle(1.0)
    assert ended == [("first", 0), ("second", 0)]


def test_what_a_run_gave_up_is_waited_for_before_the_next() -> None:
    relay = Relay()
    relay.use(tracker())
    relay.submit(FakeBackend(relay.done, forgotten=("a",)), 0, 0)
    with pytest.raises(TimeoutError, match=r"1 queries have not ended 0\.01 s after the run"):
        relay.settle(0.01)
    threading.Timer(0.01, relay.done, (0, 0.0, None)).start()
    relay.settle(10.0)

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.serving.sim_builders import Cost, Greedy, context
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Answer, Context, Snapshot
from veltair.serving.loop.query import Query, QueryRecord
from veltair.serving.policies.fair import FairQueue, FairTurns
from veltair.serving.simulator.noise import noise_batches
from veltair.serving.simulator.simulator import Simulator


def filled(weights: dict[str, float], count: int = 50) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue(weights)
    for number in range(count):
        for name in weights:
            queue.push(name, name, number)
    return queue


def test_tenants_that_wait_get_core_seconds_by_weight() -> None:
    queue = filled({"a": 1.0, "b": 3.0})
    assert Counter(queue.pop(1.0) for _ in range(40)) == {"a": 10, "b": 30}


def test_dear_queries_have_fewer_turns() -> None:
    queue = filled({"dear": 1.0, "cheap": 1.0})
    costs = {"dear": 4.0, "cheap": 1.0}
    assert Counter(queue.pop(costs[queue.next_tenant()]) for _ in range(50)) == {"dear": 10, "cheap": 40}


def test_within_a_tenant_the_least_order_comes_first_then_the_oldest() -> None:
    queue: FairQueue[str] = FairQueue({"a": 1.0})
    for entry, order in (("late", 9.0), ("first", 1.0), ("second", 1.0)):
        queue.push("a", entry, order)
    assert [queue.pop(1.0) for _ in range(3)] == ["first", "second", "late"]


def test_who_was_silent_has_saved_nothing() -> None:
    queue = filled({"busy": 1.0, "silent": 1.0}, count=0)
    for _ in range(30):
        queue.push("busy", "busy", 0.0)
    assert [queue.pop(1.0) for _ in range(10)] == ["busy"] * 10
    for _ in range(30):
        queue.push("silent", "silent", 0.0)
    assert Counter(queue.pop(1.0) for _ in range(20)) == {"busy": 10, "silent": 10}


def test_what_a_query_held_counts_and_not_what_it_was_thought_to() -> None:
    queue = filled({"a": 1.0, "b": 1.0})
    assert queue.pop(1.0) == "a"
    queue.settle("a", 1.0, 5.0)
    assert [queue.pop(1.0) for _ in range(6)] == ["b"] * 5 + ["a"]


def test_once_all_is_served_nobody_owes_anybody() -> None:
    queue: FairQueue[str] = FairQueue({"a": 1.0, "b": 1.0})
    queue.push("a", "a", 0.0)
    queue.pop(100.0)
    queue.settle("a", 100.0, 100.0)
    for name in "abab":
        queue.push(name, name, 0.0)
    assert sorted(queue.pop(1.0) for _ in range(2)) == ["a", "b"]


def test_who_goes_away_is_not_served() -> None:
    queue: FairQueue[str] = FairQueue({"a": 1.0})
    for entry in ("x", "y", "z"):
        queue.push("a", entry, 0.0)
    assert queue.remove("a", "y")
    assert not queue.remove("a", "y")
    assert [queue.pop(1.0), queue.pop(1.0)] == ["x", "z"]
    with pytest.raises(IndexError, match="nobody waits"):
        queue.pop(1.0)
    with pytest.raises(IndexError, match="nobody waits"):
        queue.peek()


def test_a_tenant_without_a_weight_is_named() -> None:
    with pytest.raises(LookupError, match="tenant b has no weight"):
        FairQueue({"a": 1.0}).push("b", 0, 0.0)
    with pytest.raises(ValueError, match="tenant a has weight 0"):
        FairQueue({"a": 0.0})


@given(
    st.lists(st.floats(0.5, 4), min_size=2, max_size=4),
    st.lists(st.floats(0.1, 3), min_size=40, max_size=80),
)
def test_tenants_that_wait_are_never_further_apart_than_a_query_each(
    weights: list[float], costs: list[float]
) -> None:
    names = [f"t{number}" for number in range(len(weights))]
    queue = filled(dict(zip(names, weights, strict=True)), count=100)
    had = dict.fromkeys(names, 0.0)
    for cost in costs:
        had[queue.pop(cost)] += cost
    for one, weight in zip(names, weights, strict=True):
        for other, others in zip(names, weights, strict=True):
            assert had[one] / weight - had[other] / others <= 3 / weight + 3 / others + 1e-9


# A query takes 4 s of one core; two cores.
def shared() -> Context:
    made = context({"net": [[Cost(4.0)]]}, (1, 2))
    return replace(made, tenants={"loud": 1.0, "quiet": 1.0})


def served(policy: Greedy | FairTurns, made: Context, queries: list[Query]) -> list[QueryRecord]:
    noise = noise_batches(queries, made, np.random.default_rng(1))
    return list(serve(Dispatcher(policy, made), Simulator(queries, made, noise, drain_s=1000.0)))


def crowd() -> list[Query]:
    loud = [Query(number, "net", 0.0, 100.0, "loud") for number in range(20)]
    return [*loud, *(Query(20 + number, "net", 1.0, 100.0, "quiet") for number in range(3))]


def ends(records: list[QueryRecord], tenant: str) -> list[float]:
    return [record.end_s for record in records if record.query.sender == tenant]


def test_one_tenants_crowd_does_not_keep_anothers_queries_waiting() -> None:
    made = shared()
    assert min(ends(served(Greedy(made), made, crowd()), "quiet")) >= 44.0
    fair = served(FairTurns(Greedy(made), made), made, crowd())
    # Two run and one more had its turn when they came; then the tenants take turns.
    assert ends(fair, "quiet") == [8.0, 12.0, 16.0]
    assert len(fair) == 23


def test_no_core_is_idle_while_somebody_waits() -> None:
    made = shared()
    fair = served(FairTurns(Greedy(made), made), made, crowd())
    assert max(record.end_s for record in fair) == 48.0  # 23 queries, two at a time


class Watching(Greedy):
    seen = 0

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        assert len(snapshot.pending) <= max(1, snapshot.free_cores)
        self.seen = max(self.seen, len(snapshot.pending))
        return super().allocate(snapshot)


def test_the_policy_sees_no_more_waiting_queries_than_there_are_free_cores() -> None:
    made = shared()
    inner = Watching(made)
    served(FairTurns(inner, made), made, crowd())
    assert inner.seen == 1  # cores come free one at a time

"""Policies in Python that the loop in C calls back, against the dispatcher: what they see, and records."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.contended_builders import VERSIONS, contended_context, random_cost_model
from tests.support.random_policies import Capricious
from tests.support.sim_builders import Cost, allocation, context, trace
from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.costs.block_costs import BlockCosts
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.open_queries import IDLE_WAKES, PolicyError
from veltair.serving.loop.policy import (
    Allocation,
    Context,
    Policy,
    Rejection,
    Resize,
    Snapshot,
    Wake,
    Yield,
)
from veltair.serving.loop.query import Ending, Query, QueryRecord
from veltair.serving.simulator.native_loop import serve_simulated
from veltair.serving.simulator.noise import noise_batches
from veltair.serving.simulator.simulator import SensorError, Simulator

CONTEXT = context({"m": [[Cost(1.0)]] * 3})  # on 4 cores a layer takes 0.25 s
Serve = Callable[[Policy, Context, Simulator], Iterator[QueryRecord]]


def in_python(policy: Policy, served: Context, simulator: Simulator) -> Iterator[QueryRecord]:
    return serve(Dispatcher(policy, served), simulator)


BOTH: list[Serve] = [in_python, serve_simulated]


def simulator(served: Context, arrivals: list[Query], rng: np.random.Generator, **inputs: Any) -> Simulator:
    return Simulator(arrivals, served, noise_batches(arrivals, served, rng), **{"drain_s": 100.0, **inputs})


def served_by(serve_one: Serve, policy: Policy, *arrivals: tuple[float, str], **inputs: Any) -> Any:
    """Return the records, and the message of the error that ended the run, if one did."""
    records: list[Any] = []
    try:
        records.extend(
            serve_one(
                policy, CONTEXT, simulator(CONTEXT, trace(*arrivals), np.random.default_rng(0), **inputs)
            )
        )
    except Exception as error:
        return records, type(error), str(error)
    return records


class Scripted:
    """Answers each call with the next line of a script, then with nothing; remembers when it was called."""

    def __init__(self, *script: Any) -> None:
        self.script, self.times_s, self.ended = list(script), list[float](), list[Any]()
        self.waiting: list[int] = []

    def allocate(self, snapshot: Snapshot) -> Any:
        self.times_s.append(snapshot.time_s)
        self.ended.append(list(snapshot.ended))
        self.waiting.append(len(snapshot.pending))
        return self.script.pop(0) if self.script else []


@settings(deadline=None, max_examples=120)
@given(
    seed=st.integers(0, 10_000),
    gap_s=st.sampled_from([0.0, 0.2, 0.7, 2.0]),
    by_cost_model=st.booleans(),
    inputs=st.fixed_dictionaries(
        {
            "drain_s": st.sampled_from([0.5, 1000.0]),
            "placement": st.sampled_from(["spread", "pinned"]),
            "costs": st.builds(
                BlockCosts,
                start_s=st.sampled_from([0.0, 0.1]),
                resize_s=st.sampled_from([0.0, 0.05]),
                yield_s=st.sampled_from([0.0, 0.07]),
            ),
            "sensor_error": st.sampled_from([None, SensorError(0.2, seed=1)]),
        }
    ),
)
def test_a_policy_that_is_called_back_sees_and_does_the_same_as_under_the_dispatcher(
    seed: int, gap_s: float, by_cost_model: bool, inputs: Mapping[str, Any]
) -> None:
    found = []
    for serve_one in BOTH:
        rng = np.random.default_rng(seed)
        served = contended_context(rng)
        model = random_cost_model(rng) if by_cost_model else None
        times = rng.exponential(gap_s, 24).cumsum().tolist()
        arrivals = [Query(24 - n, "mn"[int(rng.integers(2))], at, float(n)) for n, at in enumerate(times)]
        backend = simulator(served, arrivals, rng, cost_model=model, **inputs)
        policy = Capricious(served, seed, VERSIONS, wake_s=0.4)
        found.append((list(serve_one(policy, served, backend)), policy.seen, backend.events))
    assert found[0][1] == found[1][1]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([[allocation(0, "m", (0, 3), 5)]], "gives 5 cores to query 0, but 4 of 4 are free"),
        ([[allocation(7, "m", (0, 3), 1)]], "answers for query 7, which is not waiting"),
        ([[allocation(0, "m", (1, 3), 1)]], "whose next layer is 0 of 3 of m"),
        ([[Rejection(7, "no")]], "answers for query 7, which is not waiting"),
        ([[Resize(0, 2)]], "resizes query 0, which is not running"),
        ([[allocation(0, "m", (0, 3), 2), Resize(0, 1, (0,))]], "with 1 versions for 3 layers"),
        ([[allocation(0, "m", (0, 3), 2), Resize(0, 4)], [Resize(0, 1)]], "takes back cores from query 0"),
        ([[Yield(0)]], "yields query 0, which is not running"),
        ([[allocation(0, "m", (0, 3), 4), Yield(0)], [Yield(0)]], "yields query 0 twice"),
        ([[Wake(0.0)]], "asks at 0.0 s to be woken at 0.0 s; name a later time"),
        ([["start"]], "answered 'start'; return Allocation, Resize, Yield, Rejection, Wake, Load or Evict"),
        ([None], "'NoneType' object is not iterable"),
        ([[]], "Scripted stalls: 2 queries wait (the oldest is 0, a m), 4 cores are free"),
    ],
)
def test_a_broken_promise_is_the_same_error_on_both_loops(script: Any, message: str) -> None:
    python, c = (served_by(one, Scripted(*script), (0.0, "m"), (0.1, "m")) for one in BOTH)
    assert message in c[2]
    assert c == python


def test_a_policy_that_raises_ends_the_run_with_what_it_raised() -> None:
    class Raises:
        def allocate(self, snapshot: Snapshot) -> Any:
            raise ZeroDivisionError("by me")

    assert served_by(serve_simulated, Raises(), (0.0, "m")) == ([], ZeroDivisionError, "by me")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([[allocation(0, "m", (0, 3), 3)]], "3 cores were not profiled"),
        ([[Allocation(0, LayerBlock("m", 0, 2), (0, 1), 4)]], "version 1"),
        ([[allocation(0, "m", (0, 3), 1), Resize(0, 2, (0, 2, 2))]], "version 2"),
        ([[allocation(0, "m", (0, 3), 1), Resize(0, 3)]], "3 cores were not profiled"),
    ],
)
def test_what_was_not_profiled_is_named_as_the_loop_in_python_names_it(script: Any, message: str) -> None:
    python, c = (served_by(one, Scripted(*script), (0.0, "m")) for one in BOTH)
    assert c[1] is LookupError
    assert message in c[2]
    assert c == python


@pytest.mark.parametrize("versions", [(0, 0, 300), (0, 0, -1)])
def test_versions_that_no_layer_has_are_refused(versions: tuple[int, ...]) -> None:
    start = allocation(0, "m", (0, 3), 4)
    object.__setattr__(start, "versions", versions)
    _, kind, message = served_by(serve_simulated, Scripted([start]), (0.0, "m"))
    assert kind is LookupError
    assert "not profiled" in message


def test_a_policy_is_woken_when_it_asks_and_once_where_it_asked_twice() -> None:
    found = []
    for serve_one in BOTH:
        policy = Scripted(
            [Wake(0.7), Wake(0.3), Wake(0.5), Wake(0.7), Wake(float("inf"))],
            [],
            [],
            [],
            [Rejection(0, "late")],
        )
        found.append((served_by(serve_one, policy, (0.0, "m"), (0.5, "m")), policy.times_s))
    assert found[0] == found[1]
    assert found[1][1] == [0.0, 0.3, 0.5, 0.5, 0.7]
    assert policy.waiting == [1, 1, 2, 2, 2]  # at equal times a query comes first


def test_a_wake_beyond_the_end_of_the_run_does_not_prolong_it() -> None:
    python, c = (served_by(one, Scripted([Wake(9.0)]), (0.0, "m"), drain_s=2.0) for one in BOTH)
    (record,) = c
    assert (record.ending, record.end_s) == (Ending.UNFINISHED, 2.0)
    assert c == python


def test_to_be_woken_for_ever_while_queries_wait_is_an_error_not_a_hang() -> None:
    class Dreamer:
        def allocate(self, snapshot: Snapshot) -> Any:
            return [Wake(snapshot.time_s + 1e-6)]

    _, kind, message = served_by(serve_simulated, Dreamer(), (0.0, "m"))
    assert kind is PolicyError
    assert message.startswith(
        "Dreamer waits for ever: 1 queries wait (the oldest is 0, a m), nothing runs, and woken "
        f"{IDLE_WAKES} times in a row it started none"
    )


def test_a_policy_hears_why_it_rejected_and_so_does_the_record() -> None:
    policy = Scripted([Rejection(0, "größer als 1")], [allocation(1, "m", (0, 3), 4)], [])
    records = served_by(serve_simulated, policy, (0.0, "m"), (0.5, "m"))
    assert [record.reason for record in records] == ["größer als 1", ""]
    assert policy.ended == [[], [records[0]], [records[1]]]


def test_a_policy_may_answer_for_many_queries_at_once() -> None:
    rejections = [Rejection(number, f"number {number}") for number in range(99)]
    policy = Scripted(*[[]] * 99, [*rejections, allocation(99, "m", (0, 3), 4)])
    records = served_by(serve_simulated, policy, *[(0.0, "m")] * 100)
    assert [record.reason for record in records] == [*(one.reason for one in rejections), ""]
    assert policy.ended[-1] == records

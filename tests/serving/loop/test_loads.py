"""Loads and evictions by a policy in bounded memory: the same on both loops, checked, and worked by hand."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.memory_builders import with_memory
from tests.support.sim_builders import Cost, allocation, context, trace
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.open_queries import PolicyError
from veltair.serving.loop.policy import Context, Evict, Load, MemoryLimits, Policy, Snapshot, Wake
from veltair.serving.loop.query import Query, QueryRecord
from veltair.serving.simulator.native_loop import serve_simulated
from veltair.serving.simulator.noise import noise_batches
from veltair.serving.simulator.simulator import Simulator

# On 4 cores a layer takes 0.25 s. Loads of a and b take 0.6 and 0.4 s; both do not fit.
PLAIN = context({"a": [[Cost(1.0)]] * 2, "b": [[Cost(1.0)]] * 2})
CONTEXT = with_memory(PLAIN, 8, {"a": 6, "b": 4}, 10.0)
Serve = Callable[[Policy, Context, Simulator], Iterator[QueryRecord]]


def in_python(policy: Policy, served: Context, simulator: Simulator) -> Iterator[QueryRecord]:
    return serve(Dispatcher(policy, served), simulator)


BOTH: list[Serve] = [in_python, serve_simulated]


class Loader:
    """Answers each call with the next line of a script, then with nothing; remembers what was in memory."""

    loads_models = True

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.seen: list[Any] = []

    def allocate(self, snapshot: Snapshot) -> Any:
        load = None if snapshot.load is None else (snapshot.load.model, round(snapshot.load.end_s, 6))
        self.seen.append((snapshot.time_s, sorted(snapshot.resident), load))
        return self.script.pop(0) if self.script else []


class Trusting(Loader):
    """A policy that leaves memory to others."""

    loads_models = False


def served_by(
    serve_one: Serve, policy: Policy, arrivals: list[Query], served: Context = CONTEXT, drain_s: float = 100.0
) -> Any:
    rng = np.random.default_rng(0)
    backend = Simulator(arrivals, served, noise_batches(arrivals, served, rng), drain_s=drain_s)
    records: list[QueryRecord] = []
    try:
        records.extend(serve_one(policy, served, backend))
    except Exception as error:
        return records, type(error), str(error)
    return records


@pytest.mark.parametrize("serve_one", BOTH)
def test_a_model_is_resident_from_the_end_of_its_load_until_it_is_evicted(serve_one: Serve) -> None:
    policy = Loader(
        [Load("a")],
        [],
        [allocation(0, "a", (0, 2), 4)],
        [Evict("a"), Load("b")],
        [allocation(1, "b", (0, 2), 4)],
    )
    first, second = served_by(serve_one, policy, trace((0.0, "a"), (0.25, "b")))
    assert policy.seen == [
        (0.0, [], None),
        (0.25, [], ("a", 0.6)),
        (0.6, ["a"], None),
        (1.1, ["a"], None),
        (1.5, ["b"], None),
        (2.0, ["b"], None),
    ]
    assert (first.start_s, first.end_s) == pytest.approx((0.6, 1.1))
    assert (second.start_s, second.end_s) == pytest.approx((1.5, 2.0))


@pytest.mark.parametrize("serve_one", BOTH)
def test_at_equal_times_cores_come_free_then_a_load_ends_then_queries_come_then_wakes(
    serve_one: Serve,
) -> None:
    # The block of query 0 ends at 0.5 s + 0.5 s, as the load of b (8 bytes/s) does.
    served = with_memory(PLAIN, 8, {"a": 4, "b": 4}, 8.0)
    policy = Loader([Load("a"), Wake(1.0)], [allocation(0, "a", (0, 2), 4), Load("b")])
    served_by(serve_one, policy, trace((0.0, "a"), (1.0, "b")), served, drain_s=1.0)
    assert policy.seen == [
        (0.0, [], None),
        (0.5, ["a"], None),
        (1.0, ["a"], ("b", 1.0)),
        (1.0, ["a", "b"], None),
        (1.0, ["a", "b"], None),
        (1.0, ["a", "b"], None),
    ]


@pytest.mark.parametrize("serve_one", BOTH)
def test_to_a_policy_that_leaves_memory_to_others_all_models_are_resident(serve_one: Serve) -> None:
    policy = Trusting([allocation(0, "a", (0, 2), 4)])
    (record,) = served_by(serve_one, policy, trace((0.0, "a")))
    assert policy.seen[0] == (0.0, ["a", "b"], None)
    assert record.end_s == pytest.approx(0.5)


@pytest.mark.parametrize("serve_one", BOTH)
def test_where_memory_is_not_bounded_all_models_are_resident(serve_one: Serve) -> None:
    policy = Loader([allocation(0, "a", (0, 2), 4)])
    served_by(serve_one, policy, trace((0.0, "a")), PLAIN)
    assert policy.seen[0] == (0.0, ["a", "b"], None)


START_A = allocation(0, "a", (0, 2), 4)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([[START_A]], "Loader starts a block of a, which is not resident; load it first"),
        ([[Load("c")]], "Loader loads c, which is not served"),
        ([[Load("a"), Load("b")]], "loads b while the load of a is under way; wait for its end"),
        ([[Load("a")], [], [Load("a")]], "loads a, which is resident"),
        (
            [[Load("a")], [], [Load("b")]],
            "loads b, which takes 0.0 MB, but 0.0 MB of 0.0 MB are free; evict others first",
        ),
        ([[Evict("a")]], "evicts a: a is not resident, only []; evict one of these"),
        ([[Load("a"), Evict("a")]], "evicts a: a is not resident"),
        ([[Load("a")], [], [START_A, Evict("a")]], "evicts a: a is in use by 1; wait for their end"),
        ([[]], "Loader stalls: 2 queries wait"),
    ],
)
def test_what_memory_cannot_do_is_the_same_error_on_both_loops(script: Any, message: str) -> None:
    python, c = (served_by(one, Loader(*script), trace((0.0, "a"), (0.1, "b"))) for one in BOTH)
    assert c[1] is PolicyError
    assert message in c[2]
    assert c == python


@pytest.mark.parametrize(("policy", "served"), [(Trusting, CONTEXT), (Loader, PLAIN)])
def test_a_load_where_all_is_resident_is_an_error(policy: Any, served: Context) -> None:
    found = [served_by(one, policy([Load("a")]), trace((0.0, "a")), served) for one in BOTH]
    assert "loads a, but all models are resident" in found[1][2]
    assert found[0] == found[1]


def test_memory_that_does_not_hold_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"b has 9.0 MB of weights, more than the memory .* \(8.0 MB\)"):
        MemoryLimits(8_000_000, {"a": 1, "b": 9_000_000}, {"a": 1.0, "b": 1.0})
    with pytest.raises(ValueError, match="a load of a takes inf s; give a finite time"):
        MemoryLimits(8, {"a": 1}, {"a": float("inf")})

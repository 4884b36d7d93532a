"""Blocks that serve several queries at once: the same on both loops, checked, and worked by hand."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.contended_builders import VERSIONS, contended_context, random_cost_model
from tests.support.memory_builders import (
    CapriciousLoader,
    batched_cost_model,
    drawn_context,
    with_batches,
)
from tests.support.sim_builders import Cost, allocation, context, trace
from veltair.machine.costs.block_costs import BlockCosts
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.open_queries import PolicyError
from veltair.serving.loop.policy import Allocation, Context, Policy, Rejection, Resize, Snapshot, Yield
from veltair.serving.loop.query import Ending, Query, QueryRecord
from veltair.serving.simulator.native_loop import serve_simulated
from veltair.serving.simulator.noise import noise_batches
from veltair.serving.simulator.simulator import Simulator

# On 4 cores a layer takes 0.25 s, of two queries at once 0.375 s.
CONTEXT = with_batches(context({"m": [[Cost(1.0)]] * 2, "n": [[Cost(1.0)]]}), {2: 1.5}, ["m"])
Serve = Callable[[Policy, Context, Simulator], Iterator[QueryRecord]]


def in_python(policy: Policy, served: Context, simulator: Simulator) -> Iterator[QueryRecord]:
    return serve(Dispatcher(policy, served), simulator)


BOTH: list[Serve] = [in_python, serve_simulated]


class Scripted:
    """Answers each call with the next line of a script, then with nothing; remembers what ran and ended."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.ran: list[Any] = []
        self.ended: list[Any] = []

    def allocate(self, snapshot: Snapshot) -> Any:
        self.ran.append([(run.query.id, tuple(other.id for other in run.others)) for run in snapshot.running])
        self.ended.append([record.query.id for record in snapshot.ended])
        return self.script.pop(0) if self.script else []


def together(*ids: int, cores: int = 4, layers: int = 2) -> Allocation:
    return replace(allocation(ids[0], "m", (0, layers), cores), others=ids[1:])


def served_by(serve_one: Serve, policy: Policy, arrivals: list[Query], drain_s: float = 100.0) -> Any:
    rng = np.random.default_rng(0)
    backend = Simulator(arrivals, CONTEXT, noise_batches(arrivals, CONTEXT, rng), drain_s=drain_s)
    records: list[QueryRecord] = []
    try:
        records.extend(serve_one(policy, CONTEXT, backend))
    except Exception as error:
        return records, type(error), str(error)
    return records


@pytest.mark.parametrize("serve_one", BOTH)
def test_the_queries_of_a_block_end_together_and_hold_its_cores_in_equal_parts(serve_one: Serve) -> None:
    policy = Scripted([], [together(1, 0)])
    first, second = served_by(serve_one, policy, trace((0.0, "m"), (0.5, "m")))
    # Two layers of 0.375 s on 4 cores from 0.5 s on: 3 core-s.
    assert [one.query.id for one in (first, second)] == [1, 0]
    for record in (first, second):
        assert (record.start_s, record.end_s, record.core_s) == pytest.approx((0.5, 1.25, 1.5))
        assert (record.ending, record.blocks, record.conflicts, record.batch) == (Ending.SERVED, 1, 0, 2)
    assert policy.ran == [[], [], []]
    assert policy.ended == [[], [], [1, 0]]


@pytest.mark.parametrize("serve_one", BOTH)
def test_a_policy_sees_whom_a_block_serves_until_it_ends(serve_one: Serve) -> None:
    policy = Scripted([], [together(0, 1)])
    served_by(serve_one, policy, trace((0.0, "m"), (0.5, "m"), (0.6, "m")))
    assert policy.ran == [[], [], [(0, (1,))], []]


@pytest.mark.parametrize("serve_one", BOTH)
def test_a_resize_changes_a_block_of_several_as_any_other(serve_one: Serve) -> None:
    policy = Scripted([], [together(0, 1, cores=2)], [Resize(0, 4), Rejection(2, "")])
    arrivals = trace((0.0, "m"), (0.5, "m"), (0.6, "m"))
    _, *records = served_by(serve_one, policy, arrivals)
    # A layer of 0.75 s on 2 cores, of which 4 are held from 0.6 s on; one of 0.375 s on 4.
    held = 2 * 0.1 + 4 * (0.65 + 0.375)
    assert [record.core_s for record in records] == pytest.approx([held / 2] * 2)
    assert records[0].end_s == pytest.approx(1.625)


@pytest.mark.parametrize("serve_one", BOTH)
def test_a_run_that_is_cut_off_leaves_all_queries_of_a_block_unfinished(serve_one: Serve) -> None:
    policy = Scripted([], [together(0, 1)])
    records = served_by(serve_one, policy, trace((0.0, "m"), (0.5, "m")), drain_s=0.25)
    assert [(one.query.id, one.ending, one.core_s) for one in records] == [
        (0, Ending.UNFINISHED, pytest.approx(0.5)),
        (1, Ending.UNFINISHED, pytest.approx(0.5)),
    ]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            [[], [], [together(0, 1, 2)]],
            "starts 3 queries of m at once: it was built for 1, 2; add 3 to",
        ),
        ([[], [together(0, 1, layers=1)]], "for 2 queries at once; give such a block all 2 layers"),
        ([[], [together(0, 7)]], "answers for query 7, which is not waiting"),
        ([[], [together(0, 0)]], "answers for query 0, which is not waiting"),
        (
            [[], [], [], [together(0, 3)]],
            "serve query 3 too, whose next layer is 0 of n; such a block",
        ),
        ([[], [together(0, 1), Yield(0)]], "yields query 0, whose block serves 2 queries; wait for its end"),
    ],
)
def test_what_cannot_run_together_is_the_same_error_on_both_loops(script: Any, message: str) -> None:
    arrivals = trace((0.0, "m"), (0.1, "m"), (0.2, "m"), (0.3, "n"))
    python, c = (served_by(one, Scripted(*script), arrivals) for one in BOTH)
    assert c[1] is PolicyError
    assert message in c[2]
    assert c == python


def test_a_batch_that_was_not_profiled_on_its_cores_is_named_alike() -> None:
    python, c = (
        served_by(one, Scripted([], [together(0, 1, cores=3)]), trace((0.0, "m"), (0.1, "m"))) for one in BOTH
    )
    assert c[1] is LookupError
    assert "3 cores were not profiled" in c[2]
    assert c == python


@settings(deadline=None, max_examples=120)
@given(
    seed=st.integers(0, 10_000),
    gap_s=st.sampled_from([0.0, 0.2, 0.7, 2.0]),
    by_cost_model=st.booleans(),
    placement=st.sampled_from(["spread", "pinned"]),
    drain_s=st.sampled_from([0.5, 1000.0]),
    start_s=st.sampled_from([0.0, 0.1]),
)
def test_both_loops_and_both_cores_make_the_same_of_batches_and_loads(
    seed: int, gap_s: float, by_cost_model: bool, placement: str, drain_s: float, start_s: float
) -> None:
    found = []
    for serve_one, core in ((in_python, "python"), (in_python, "c"), (serve_simulated, "c")):
        rng = np.random.default_rng(seed)
        served = drawn_context(rng, contended_context(rng))
        model = batched_cost_model(random_cost_model(rng), served) if by_cost_model else None
        times = rng.exponential(gap_s, 24).cumsum().tolist()
        arrivals = [Query(24 - n, "mn"[int(rng.integers(2))], at, float(n)) for n, at in enumerate(times)]
        backend = Simulator(
            *(arrivals, served, noise_batches(arrivals, served, rng)),
            drain_s=drain_s,
            costs=BlockCosts(start_s=start_s, starts_s={"m": 0.3}),
            placement=placement,
            cost_model=model,
            core=core,
        )
        policy = CapriciousLoader(served, seed, VERSIONS, wake_s=0.4)
        found.append((list(serve_one(policy, served, backend)), policy.seen, backend.events))
    assert found[0] == found[1] == found[2]
    records = found[0][0]
    assert sorted(record.query.id for record in records) == list(range(1, 25))
    assert any(record.batch > 1 for record in records) or gap_s or drain_s < 1

"""What holds of policies that batch and load models themselves, over random tables, traces and memories."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders import random_queries
from tests.support.memory_builders import with_batches, with_memory
from tests.support.policy_cases import audited, traffic_context
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Context
from veltair.serving.loop.query import Ending
from veltair.serving.policies.presets import make_policy
from veltair.serving.simulator.native_loop import serve_simulated
from veltair.serving.simulator.noise import noise_batches
from veltair.serving.simulator.simulator import Simulator

PAGE = 2**20
POLICIES = {
    "Clockwork": ("baselines.clockwork:Clockwork", {"executors": 2, "page_mib": 1}),
    "Clockwork, exclusive loads": (
        "baselines.clockwork:Clockwork",
        {"executors": 2, "page_mib": 1, "loads": "exclusive"},
    ),
    "Packrat": ("baselines.packrat:Packrat", {}),
}
seeds = st.integers(0, 30)
gaps = st.sampled_from((0.0005, 0.002, 0.01))
late = st.sampled_from(("never", "at_deadline", "when_doomed"))


def drawn(seed: int, batched: bool, bounded: bool) -> Context:
    context = traffic_context(seed, factors=(0.9, 1.0, 1.2))
    if batched:
        context = with_batches(context, {2: 1.4, 4: 2.2})
    if bounded:
        rng = np.random.default_rng(seed)
        sizes = {name: int(rng.integers(1, 5)) * PAGE for name in context.models}
        budget = int(rng.integers(max(sizes.values()), sum(sizes.values()) + 1))
        context = with_memory(context, budget, sizes, float(rng.choice([100.0, 2000.0])) * PAGE)
    return context


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=20)
@given(seed=seeds, gap_s=gaps, batched=st.booleans(), bounded=st.booleans(), drop_late=late)
def test_every_query_ends_once_and_all_cores_held_are_booked(
    name: str, seed: int, gap_s: float, batched: bool, bounded: bool, drop_late: str
) -> None:
    path, options = POLICIES[name]
    context = drawn(seed, batched, bounded)
    policy = make_policy(path, context, "paper", {**options, "drop_late": drop_late})
    records, auditor = audited(policy, context, random_queries(context, 40, seed, gap_s))
    assert sorted(record.query.id for record in records) == list(range(40))
    assert all(record.ending in (Ending.SERVED, Ending.REJECTED) for record in records)
    assert drop_late != "never" or all(record.ending is Ending.SERVED for record in records)
    assert sum(record.core_s for record in records) == pytest.approx(auditor.core_s, rel=1e-9)
    assert batched or all(record.batch == 1 for record in records)


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=10, deadline=None)
@given(seed=seeds, gap_s=gaps, batched=st.booleans(), bounded=st.booleans())
def test_both_loops_give_equal_records(
    name: str, seed: int, gap_s: float, batched: bool, bounded: bool
) -> None:
    path, options = POLICIES[name]
    context = drawn(seed, batched, bounded)
    arrivals = random_queries(context, 40, seed, gap_s)
    found = []
    for core in ("python", "c"):
        noise = noise_batches(arrivals, context, np.random.default_rng(seed))
        simulator = Simulator(arrivals, context, noise, drain_s=10.0, core=core)
        policy = make_policy(path, context, "paper", options)
        if core == "c":
            found.append(list(serve_simulated(policy, context, simulator)))
        else:
            found.append(list(serve(Dispatcher(policy, context), simulator)))
    assert found[0] == found[1]


def test_batches_serve_more_in_time_than_single_queries_where_they_are_cheaper() -> None:
    plain = traffic_context(3)
    in_time = {}
    for context in (plain, with_batches(plain, {2: 1.1, 4: 1.2})):
        policy = make_policy("baselines.packrat:Packrat", context, "paper", {})
        records, _ = audited(policy, context, random_queries(context, 300, 3, 0.002))
        in_time[bool(context.batches)] = sum(record.on_time for record in records)
    assert in_time[True] > in_time[False]

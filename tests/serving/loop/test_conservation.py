"""What holds of every policy under every preset, over random tables and traces."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders import random_queries
from tests.support.policy_cases import POLICIES, audited, scaled_options, scaled_queries, traffic_context
from veltair.serving.loop.policy import Allocation, Answer, Policy, Resize, Snapshot
from veltair.serving.loop.query import Ending, Query
from veltair.serving.policies.discipline import Conflict, DropLate, Order
from veltair.serving.policies.presets import PRESETS, check_policy, make_policy

EVERY = [
    pytest.param(path, preset, options, id=f"{name}, {preset}")
    for name, (path, options) in POLICIES.items()
    for preset in PRESETS
]
# Those that start any waiting block on what is free, as long as there is a core unit.
CONSERVING = ("FixedBlocks", "LayerWise", "Fixed-v1", "Veltair-AS", "Veltair-FULL")
# Those whose idea forbids it to serve a lone query as fast as the machine can, by what they do instead.
SLOWER_ALONE = {
    "the fewest cores within a budget": (
        *("FcfsMin", "EdfMin", "FixedBlocks", "LayerWise", "Fixed-v1", "DREAM", "Veltair-AS", "Veltair-FULL"),
    ),
    "a part of the machine": (
        *("Streams-2", "Static", "Static-MIG", "PARTIES", "AI-MT", "AI-MT, preferred", "DART", "DART-2"),
        *("Clockwork-2", "Packrat"),
        *("MoCA", "MoCA, two priorities"),
    ),
    "all cores, also where fewer are faster": ("Oversubscribed",),
    "one version, whichever is the fastest": ("Fixed-v1 elastic",),
}
AS_FAST_ALONE = [name for name in POLICIES if not any(name in slower for slower in SLOWER_ALONE.values())]
seeds = st.integers(0, 30)
gaps = st.sampled_from((0.0005, 0.002, 0.01))
machines = st.sampled_from(((2, 1), (8, 1), (64, 8)))


@pytest.mark.parametrize(("path", "preset", "options"), EVERY)
@settings(max_examples=6)
@given(seed=seeds, gap_s=gaps, machine=machines)
def test_every_query_ends_once_and_all_cores_held_are_booked(path, preset, options, seed, gap_s, machine):
    context = traffic_context(seed, cores=machine[0], core_unit=machine[1])
    policy = make_policy(path, context, preset, options)
    records, auditor = audited(policy, context, random_queries(context, 40, seed, gap_s))
    assert sorted(record.query.id for record in records) == list(range(40))
    assert all(record.ending in (Ending.SERVED, Ending.REJECTED) for record in records)
    booked = sum(record.core_s for record in records)
    assert booked == pytest.approx(auditor.core_s, rel=1e-9)
    first_s = min(record.query.arrival_s for record in records)
    last_s = max(record.end_s for record in records)
    assert booked <= context.machine.cores * (last_s - first_s) * (1 + 1e-9)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_can_be_told_when_to_give_late_queries_up(name):
    path, options = POLICIES[name]
    for rule in DropLate:
        check_policy(path, {**options, "drop_late": rule.value})


def takes(path: str, options: Mapping[str, object], name: str, value: str) -> bool:
    try:
        check_policy(path, {**options, name: value})
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=6)
@given(
    seed=seeds,
    gap_s=gaps,
    shared=st.fixed_dictionaries(
        {
            "drop_late": st.sampled_from(DropLate),
            "order": st.sampled_from(Order),
            "conflict": st.sampled_from(Conflict),
        }
    ),
)
def test_every_query_ends_once_whatever_the_options_that_policies_share(name, seed, gap_s, shared):
    path, options = POLICIES[name]
    options = {**options, **{key: value for key, value in shared.items() if takes(path, options, key, value)}}
    context = traffic_context(seed)
    records, _ = audited(
        make_policy(path, context, "paper", options), context, random_queries(context, 40, seed, gap_s)
    )
    assert sorted(record.query.id for record in records) == list(range(40))
    assert shared["drop_late"] is not DropLate.NEVER or all(
        record.ending is Ending.SERVED for record in records
    )


@pytest.mark.parametrize(("path", "preset", "options"), EVERY)
@settings(max_examples=3)
@given(seed=seeds, gap_s=gaps)
def test_equal_runs_are_equal_to_the_last_bit(path, preset, options, seed, gap_s):
    context = traffic_context(seed)
    queries = random_queries(context, 40, seed, gap_s)
    first, second = (
        audited(make_policy(path, context, preset, options), context, queries)[0] for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize(("path", "preset", "options"), EVERY)
@settings(max_examples=4)
@given(seed=seeds, gap_s=gaps, scale=st.sampled_from((0.5, 2.0, 1024.0)))
def test_decisions_do_not_depend_on_the_unit_of_time(path, preset, options, seed, gap_s, scale):
    # A power of two scales every number exactly: so it does the times of a run, and nothing else changes.
    plain, scaled = traffic_context(seed), traffic_context(seed, time_scale=scale)
    queries = random_queries(plain, 40, seed, gap_s)
    before, _ = audited(make_policy(path, plain, preset, options), plain, queries)
    policy = make_policy(path, scaled, preset, scaled_options(options, scale))
    after, _ = audited(policy, scaled, scaled_queries(queries, scale))
    assert [(r.query.id, r.ending, r.blocks, r.conflicts, r.end_s, r.core_s) for r in after] == [
        (r.query.id, r.ending, r.blocks, r.conflicts, r.end_s * scale, r.core_s * scale) for r in before
    ]


@pytest.mark.parametrize("name", AS_FAST_ALONE)
@settings(max_examples=6)
@given(seed=seeds, machine=machines)
def test_an_idle_system_serves_a_query_as_fast_as_it_can_be_served(name, seed, machine):
    path, options = POLICIES[name]
    context = traffic_context(seed, cores=machine[0], core_unit=machine[1])
    for model in context.models.values():
        policy = make_policy(path, context, "paper", options)
        (record,), _ = audited(policy, context, [Query(0, model.name, 0.5, model.qos_s)])
        assert record.latency_s <= context.costs.isolated_latency_s(model.name) * (1 + 1e-9)


class Watched:
    """A policy whose answers are looked at: no core unit may stay free while a query waits."""

    def __init__(self, policy: Policy, core_unit: int) -> None:
        self._policy = policy
        self._core_unit = core_unit

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        answers = list(self._policy.allocate(replace(snapshot, pending=tuple(snapshot.pending))))
        starts = [answer for answer in answers if isinstance(answer, Allocation)]
        free_cores = snapshot.free_cores - sum(start.cores for start in starts)
        assert free_cores < self._core_unit or len(starts) == len(snapshot.pending)
        assert not any(isinstance(answer, Resize) for answer in answers) or len(starts) == len(
            snapshot.pending
        )
        return answers


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", CONSERVING)
@settings(max_examples=6)
@given(seed=seeds, gap_s=gaps, machine=machines)
def test_shrinking_policies_leave_no_core_unit_idle_while_a_query_waits(name, preset, seed, gap_s, machine):
    path, options = POLICIES[name]
    context = traffic_context(seed, cores=machine[0], core_unit=machine[1])
    policy = Watched(make_policy(path, context, preset, options), machine[1])
    audited(policy, context, random_queries(context, 40, seed, gap_s))

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders import (
    linear_seconds,
    make_context,
    make_model,
    pending,
    random_queries,
    run_to_end,
    running,
    snapshot,
)
from tests.support.serving.policy_cases import traffic_context
from veltair.serving.loop.policy import Allocation, Context, Rejection, Resize, Yield
from veltair.serving.loop.query import Ending, Query
from veltair.serving.policies.discipline import DropLate
from veltair.serving.policies.latency_tables import VersionRule
from veltair.serving.policies.lookahead import Lookahead
from veltair.serving.policies.presets import make_policy

COUNTS = tuple(range(1, 9))
# Layers of 10 core-ms, so 20 core-ms for FAST and SLOW: on 8 cores 2.5 ms, on 4 cores 5 ms.
FAST, SLOW = make_model("fast", (1, 1), qos_s=0.010), make_model("slow", (1, 1), qos_s=0.100)
# Its work is 12, 12, 15, 20 … core-ms: on 2 cores 6 ms, and never less than 5 ms.
NARROW = make_model("narrow", (1, 1), qos_s=0.010)
SECONDS = {"fast": linear_seconds([0.010] * 2, COUNTS), "slow": linear_seconds([0.010] * 2, COUNTS)}
SECONDS["narrow"] = np.maximum(linear_seconds([0.006] * 2, COUNTS), 0.0025)
BIG = make_model("big", (1, 1), qos_s=0.100)  # 28 core-ms
SECONDS["big"] = linear_seconds([0.014] * 2, COUNTS)
CONTEXT = make_context(SECONDS, [FAST, SLOW, NARROW, BIG])
PATH = "veltair.serving.policies.lookahead:Lookahead"


def policy_of(context: Context = CONTEXT, **options: object):
    return make_policy(PATH, context, "paper", options)


def answers(*sees, options=None, **more):
    """Return what the policy answers to a snapshot of these parts."""
    return list(policy_of(**(options or {})).allocate(snapshot(*sees, **more)))


def starts(found) -> dict[int, int]:
    """Return the cores of the queries that start."""
    return {one.query_id: one.cores for one in found if isinstance(one, Allocation)}


def test_an_idle_system_serves_a_query_on_the_cores_on_which_it_is_fastest() -> None:
    (start,) = answers(8, [pending(1, FAST)])
    assert isinstance(start, Allocation)
    assert (start.cores, len(start.block), start.wanted_cores) == (8, 2, 8)
    assert starts(answers(8, [pending(1, NARROW)])) == {1: 3}


def test_queries_that_speed_up_with_cores_are_served_one_after_the_other_by_deadline() -> None:
    assert starts(answers(8, [pending(1, SLOW), pending(2, FAST)])) == {2: 8}


def test_queries_that_do_not_share_the_cores_and_the_rest_goes_where_it_helps() -> None:
    # Two cores each are efficient; a third saves 1 of 6 ms, and of a fourth nobody has anything.
    assert starts(answers(8, [pending(1, NARROW), pending(2, NARROW)])) == {1: 3, 2: 3}
    found = answers(8, [pending(1, NARROW), pending(2, NARROW)], options={"grows": False})
    assert starts(found) == {1: 2, 2: 2}


def test_a_query_that_needs_more_than_the_efficient_count_gets_it() -> None:
    # With 6 ms left NARROW may take 4.2 ms by the margin: no count is that fast, and 3 is the fastest.
    found = answers(8, [pending(1, NARROW), pending(2, NARROW)], options={"grows": False}, time_s=0.004)
    assert starts(found) == {1: 3, 2: 3}


def test_a_running_block_shrinks_for_an_earlier_deadline_and_pauses_if_nothing_is_left() -> None:
    runs = [running(1, SLOW, 8)]
    assert answers(0, [pending(2, NARROW)], runs, options={"grows": False}) == [Resize(1, 6)]
    assert answers(0, [pending(2, FAST)], runs) == [Yield(1)]


def test_without_pauses_a_running_block_keeps_the_smallest_count() -> None:
    assert answers(0, [pending(2, FAST)], [running(1, SLOW, 8)], options={"pauses": False}) == [Resize(1, 1)]


def test_a_block_in_its_last_layer_and_one_that_yields_are_left_alone() -> None:
    runs = [running(1, SLOW, 4), running(3, SLOW, 4)._replace(yields=True)]
    assert answers(0, [pending(2, FAST)], runs, progress={1: 1}) == []


def test_a_block_grows_into_the_cores_of_who_ended_but_growth_under_way_is_not_taken_back() -> None:
    assert answers(4, [], [running(1, SLOW, 4)]) == [Resize(1, 8)]
    under_way = running(1, SLOW, 2, target_cores=6)
    assert answers(2, [pending(2, NARROW)], [under_way], options={"grows": False}) == [
        Allocation(2, answers(8, [pending(2, NARROW)])[0].block, (0, 0), 2, 2)
    ]


def test_cores_that_are_not_free_yet_are_given_to_nobody() -> None:
    # NARROW is to have 2 cores twice, SLOW the other 4: of those it gives up one is needed, one is free.
    runs = [running(1, NARROW, 1), running(2, NARROW, 1), running(3, SLOW, 5)]
    assert answers(1, [], runs, options={"grows": False}) == [Resize(3, 4), Resize(1, 2)]


def test_a_query_that_no_count_can_save_is_rejected_and_one_that_runs_is_paused_first() -> None:
    # FAST takes 2.5 ms at least, and 1.25 ms after its first layer.
    rejection, _ = answers(8, [pending(1, FAST), pending(2, SLOW)], time_s=0.008)
    assert isinstance(rejection, Rejection)
    assert rejection.query_id == 1
    assert answers(0, [], [running(1, FAST, 8)], time_s=0.008) == [Yield(1)]


def test_a_lost_query_that_is_not_to_be_dropped_comes_last() -> None:
    waiting = [pending(1, FAST), pending(2, SLOW)]
    assert starts(answers(8, waiting, time_s=0.008, options={"drop_late": "never"})) == {2: 8}
    at_deadline = {"drop_late": "at_deadline"}
    (start,) = answers(8, waiting, time_s=0.008, options=at_deadline)
    assert start.query_id == 2
    assert isinstance(answers(8, waiting, time_s=0.011, options=at_deadline)[0], Rejection)
    assert starts(answers(8, [pending(1, FAST)], time_s=0.5, options={"drop_late": "never"})) == {1: 8}


@pytest.mark.parametrize(("sheds", "expected"), [(True, {2: 8}), (False, {1: 8})])
def test_who_keeps_others_from_being_on_time_comes_last(sheds: bool, expected: dict[int, int]) -> None:
    # 28 core-ms of BIG until 4.4 ms and 20 of FAST until 5 ms, when 8 cores have done 40.
    waiting = [pending(1, BIG, -0.0956), pending(2, FAST, -0.005)]
    assert starts(answers(8, waiting, options={"sheds": sheds})) == expected


def test_layers_run_in_the_versions_that_are_fastest_under_the_pressure_of_the_moment() -> None:
    # Version 0 takes 1 ms alone and 4 ms under pressure, version 1 always 2 ms.
    alone, pressed = [[0.001] * 8, [0.002] * 8], [[0.004] * 8, [0.002] * 8]
    seconds = np.stack([np.array([alone]), np.array([pressed])], axis=-1)
    context = make_context({"one": seconds}, [make_model("one", (1,))], levels=(0.0, 1.0))
    waiting = snapshot(8, [pending(1, make_model("one", (1,)))], pressure=0.9)
    assert policy_of(context).allocate(waiting)[0].versions == (1,)
    assert policy_of(context, adapts=False).allocate(waiting)[0].versions == (0,)


@settings(max_examples=20)
@given(seed=st.integers(0, 30))
def test_a_query_that_meets_nobody_has_its_isolated_latency(seed: int) -> None:
    context = traffic_context(seed)
    name = sorted(context.models)[0]
    (record,) = run_to_end(policy_of(context), context, [Query(0, name, 0.0, 1e3)])
    assert record.ending is Ending.SERVED
    seconds = context.costs.model(name).seconds[..., 0].min(axis=1).sum(axis=0)
    assert record.latency_s == pytest.approx(float(seconds.min()))


class Forgetful(Lookahead):
    """It looks at all who wait anew at each decision."""

    def allocate(self, snapshot):
        self._waiting.clear()
        return super().allocate(snapshot)


@settings(max_examples=20)
@given(seed=st.integers(0, 30), gap_s=st.sampled_from((0.0005, 0.002)))
def test_what_is_kept_of_those_who_wait_changes_no_decision(seed: int, gap_s: float) -> None:
    context, options = (
        traffic_context(seed),
        {"drop_late": DropLate.WHEN_DOOMED, "versions": VersionRule.FASTEST_AT_LEVEL},
    )
    queries = random_queries(context, 60, seed, gap_s)
    records, same = (
        run_to_end(made(context, **options), context, queries) for made in (Lookahead, Forgetful)
    )
    assert records == same


@settings(max_examples=20)
@given(seed=st.integers(0, 30), gap_s=st.sampled_from((0.0005, 0.002, 0.01)))
def test_without_drops_every_query_is_served(seed: int, gap_s: float) -> None:
    context = traffic_context(seed)
    records = run_to_end(
        policy_of(context, drop_late="never"), context, random_queries(context, 40, seed, gap_s)
    )
    assert {record.ending for record in records} == {Ending.SERVED}

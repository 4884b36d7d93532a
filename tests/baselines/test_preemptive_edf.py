import numpy as np
import pytest

from tests.support.builders import (
    linear_seconds,
    make_context,
    make_model,
    pending,
    random_context,
    random_queries,
    run_to_end,
    running,
    snapshot,
)
from veltair.serving.loop.policy import Allocation, Rejection, Resize, Yield
from veltair.serving.loop.query import Ending, Query
from veltair.serving.policies.presets import make_policy

COUNTS = tuple(range(1, 9))
SLOW, FAST = make_model("slow", (1, 1), qos_s=0.100), make_model("fast", (1, 1), qos_s=0.010)
LONG, NARROW = make_model("long", (1, 1, 1, 1), qos_s=0.200), make_model("narrow", (1, 1), qos_s=0.010)
# Layers of 10 core-ms: on all 8 cores, which suit them best, SLOW and FAST take 2.5 ms, LONG 5 ms. NARROW
# takes 5 ms on 4 cores, and no less on more.
SECONDS = {model.name: linear_seconds([0.010] * len(model.layers), COUNTS) for model in (SLOW, FAST, LONG)}
SECONDS["narrow"] = np.maximum(SECONDS["fast"], 0.0025)
CONTEXT = make_context(SECONDS, [SLOW, FAST, LONG, NARROW])


def answers(*sees, preset="paper", options=None, **more):
    """Return what the policy answers to a snapshot of these parts."""
    policy = make_policy("baselines.preemptive_edf:PreemptiveEdf", CONTEXT, preset, options or {})
    return list(policy.allocate(snapshot(*sees, **more)))


def test_the_earliest_deadline_starts_first_as_a_whole_model_on_the_cores_that_suit_it_best():
    (start,) = answers(8, [pending(1, SLOW), pending(2, FAST)])
    assert isinstance(start, Allocation)
    assert (start.query_id, len(start.block), start.cores, start.wanted_cores) == (2, 2, 8, 8)


def test_a_query_that_is_in_time_on_the_free_cores_does_not_wait_for_more():
    # 20 core-ms take 5 ms on 4 cores.
    (start,) = answers(4, [pending(2, FAST)], [running(1, SLOW, 4)])
    assert (start.query_id, start.cores, start.wanted_cores) == (2, 4, 8)


def test_nobody_yields_to_a_query_that_can_wait_for_the_end_of_others():
    # 2.5 ms until the block ends, then 2.5 ms: in time with 5 ms left, as it has 10.
    assert answers(0, [pending(2, FAST)], [running(1, SLOW, 8)]) == []


@pytest.mark.parametrize(
    ("left_s", "expected"),
    [
        (0.0051, []),  # in time after the end of the other
        (0.0049, [Yield(1)]),  # only at its next layer end, after 1.25 ms
        (0.0037, []),  # not even then
    ],
)
def test_a_query_that_would_else_be_late_makes_a_later_deadline_yield_if_that_helps(left_s, expected):
    assert answers(0, [pending(2, FAST)], [running(1, SLOW, 8)], time_s=0.010 - left_s) == expected


def test_nobody_yields_to_a_later_deadline():
    assert answers(0, [pending(2, FAST, 0.001)], [running(1, FAST, 8)], time_s=0.006) == []


def test_a_running_query_that_is_lost_yields_to_a_later_deadline():
    # At 9 ms query 1 has a layer of 1.25 ms to come, but 1 ms. Query 2 has 4.5 ms left.
    waiting = [pending(2, FAST, 0.0035)]
    assert answers(0, waiting, [running(1, FAST, 8)], time_s=0.009) == [Yield(1)]


def test_of_those_that_may_yield_the_latest_deadline_does_first_and_no_more_than_is_needed():
    # Both would end in 10 ms. One yields at 2.5 ms, and 20 core-ms take 5 ms on its 4 cores: 7.5 ms.
    runs = [running(1, LONG, 4), running(3, LONG, 4)]
    runs[0] = runs[0]._replace(query=Query(1, "long", 0.001, LONG.qos_s))
    assert answers(0, [pending(2, FAST)], runs, time_s=0.002) == [Yield(1)]
    assert answers(0, [pending(2, FAST)], runs, time_s=0.003) == [Yield(1), Yield(3)]


def test_cores_of_those_that_yield_already_are_waited_for():
    runs = [running(1, LONG, 4)._replace(yields=True), running(3, LONG, 4)]
    assert answers(0, [pending(2, FAST)], runs, time_s=0.002) == []


def test_a_block_in_its_last_layer_is_not_asked_to_yield():
    # Query 1 ends in 2.5 ms, yield or not; with the cores of query 3 as well another 2.5 ms will do.
    runs = [running(1, LONG, 4), running(3, LONG, 4)]
    runs[0] = runs[0]._replace(query=Query(1, "long", 0.001, LONG.qos_s))
    assert answers(0, [pending(2, FAST)], runs, time_s=0.003, progress={1: 3}) == [Yield(3)]


def test_cores_that_one_query_waits_for_go_to_nobody_behind_it():
    # With 6.5 ms left query 2 is in time on all cores once the block has ended, in 3.3 ms, but not on 2.
    waiting = [pending(2, FAST), pending(3, SLOW)]
    assert answers(2, waiting, [running(1, SLOW, 6)], time_s=0.0035) == []


def test_cores_that_nobody_waits_for_are_used_by_who_is_behind():
    # NARROW has 9 ms left: 10 ms on the 2 free cores is too late, 5 ms on 4 of the 6 that come in 3.3 ms not.
    waiting = [pending(2, NARROW), pending(3, SLOW)]
    (start,) = answers(2, waiting, [running(1, SLOW, 6)], time_s=0.001)
    assert (start.query_id, start.cores) == (3, 2)


def test_a_query_that_no_count_can_save_is_given_up_and_one_that_can_is_not():
    # On 8 cores 20 core-ms take 2.5 ms; query 1 has 2.4 ms left.
    rejection, start = answers(8, [pending(1, FAST), pending(2, FAST, 0.001)], time_s=0.0076)
    assert isinstance(rejection, Rejection) and rejection.query_id == 1
    assert isinstance(start, Allocation) and start.query_id == 2


@pytest.mark.parametrize(("alpha", "expected"), [(1.0, []), (0.8, [Yield(1)])])
def test_to_be_in_time_a_query_may_use_a_share_of_the_time_that_it_has(alpha, expected):
    # 5 ms with those of the block before it, of 6 ms that are left.
    assert (
        answers(0, [pending(2, FAST)], [running(1, SLOW, 8)], time_s=0.004, options={"alpha": alpha})
        == expected
    )


def test_a_query_that_needs_all_the_time_that_it_has_may_use_it():
    # 2.5 ms of 2.6 ms are more than 0.8 of them.
    (start,) = answers(8, [pending(1, FAST)], time_s=0.0074, options={"alpha": 0.8})
    assert isinstance(start, Allocation)


def test_a_query_that_is_lost_but_not_to_be_dropped_is_served_all_the_same():
    (start,) = answers(2, [pending(1, FAST)], time_s=0.5, options={"drop_late": "never"})
    assert (start.query_id, start.cores) == (1, 2)


def test_blocks_grow_into_cores_that_nobody_waits_for_but_not_those_that_yield():
    runs = [running(3, SLOW, 2)._replace(yields=True), running(1, SLOW, 2)]
    assert answers(4, [], runs, preset="tuned") == [Resize(1, 6)]
    assert answers(4, [], runs) == []


def test_it_meets_deadlines_by_yields_that_are_missed_without_them():
    # LONG runs for 5 ms from 0 s; FAST comes at 1 ms with 4 ms: at 1.25 ms it gets the cores, until 3.75 ms.
    queries = [Query(1, "long", 0.0, 0.2), Query(2, "fast", 0.001, 0.004)]
    policy = make_policy("baselines.preemptive_edf:PreemptiveEdf", CONTEXT, "paper", {})
    fast, long = run_to_end(policy, CONTEXT, queries)
    assert (fast.query.id, fast.on_time, long.on_time) == (2, True, True)
    assert (fast.start_s, fast.end_s, long.end_s) == pytest.approx((0.00125, 0.00375, 0.0075))
    assert (fast.blocks, long.blocks) == (1, 2)


def test_what_it_starts_again_and_again_still_ends():
    context = random_context(4, cores=2)
    policy = make_policy("baselines.preemptive_edf:PreemptiveEdf", context, "tuned", {"drop_late": "never"})
    records = run_to_end(policy, context, random_queries(context, 100, seed=4, gap_s=0.001))
    assert {record.ending for record in records} == {Ending.SERVED}
    assert max(record.blocks for record in records) > 1

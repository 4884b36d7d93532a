import pytest

from baselines.prema import Prema, threshold_of
from tests.support.builders import (
    pending,
    random_context,
    random_queries,
    run_to_end,
    running,
    served,
    snapshot,
)
from tests.support.schedulers import made, serving
from veltair.serving.loop.policy import Allocation, Wake, Yield
from veltair.serving.loop.query import Ending, Query

# On all 8 cores, which suit them best, a layer takes 1 ms: SHORT 2 ms, LONG 4 ms.
CONTEXT = serving({"short": ([0.008] * 2, 0.1), "long": ([0.008] * 4, 0.2)})
SHORT, LONG = CONTEXT.models.values()


def prema(**options) -> Prema:
    return made(Prema, CONTEXT, **options)


def at_work(**options) -> Prema:
    """Return the policy while query 9, a SHORT, runs, and query 1, a LONG, has come at the same time."""
    policy = prema(**options)
    policy.allocate(snapshot(8, [pending(9, SHORT)]))
    policy.allocate(snapshot(0, [pending(1, LONG)], [running(9, SHORT, 8)]))
    return policy


@pytest.mark.parametrize(
    ("highest", "threshold"), [(1.0, 1), (2.9, 1), (3.0, 3), (8.9, 3), (9.0, 9), (100.0, 9)]
)
def test_the_threshold_is_the_largest_level_that_the_highest_token_reaches(highest, threshold):
    assert threshold_of(highest) == threshold


def test_of_equal_tokens_the_shortest_runs_whole_and_alone_on_the_cores_that_suit_it_best():
    (start,) = prema().allocate(snapshot(8, [pending(1, LONG), pending(2, SHORT)]))
    assert isinstance(start, Allocation)
    assert (start.query_id, len(start.block), start.cores) == (2, 2, 8)


def test_who_has_waited_long_for_its_length_goes_before_the_shortest():
    # LONG waits 8 ms of its 4: token 1 + 2 = 3, the threshold. SHORT has just come: token 1.
    policy = at_work()
    waiting = [pending(1, LONG), pending(2, SHORT, 0.008)]
    (start,) = policy.allocate(snapshot(8, waiting, time_s=0.008, gone=[served(9, SHORT, 0.008)]))
    assert start.query_id == 1


def test_tokens_grow_by_the_time_since_the_last_point_and_not_by_all_of_it_anew():
    # LONG waits 4 ms, looked at each ms: token 1 + 1 = 2. With the whole waiting time anew at each point it
    # would be 1 + (1 + 2 + 3 + 4) / 4 = 3.5, above the threshold that SHORT's 1 does not reach.
    policy = at_work()
    for passed in range(1, 4):
        policy.allocate(snapshot(0, [pending(1, LONG)], [running(9, SHORT, 8)], time_s=passed * 1e-3))
    waiting = [pending(1, LONG), pending(2, SHORT, 0.004)]
    (start,) = policy.allocate(snapshot(8, waiting, time_s=0.004))
    assert start.query_id == 2


def test_tokens_grow_by_priority_and_start_at_it():
    # LONG of priority 3 has the threshold at once, SHORT not.
    (start,) = prema(priorities={"long": 3.0}).allocate(snapshot(8, [pending(1, LONG), pending(2, SHORT)]))
    assert start.query_id == 1
    # Of priority 3 it earns 3 x 4 / 4 in 4 ms: 6, below 9. In 8 ms 3 + 6 = 9: SHORT of 3 is left behind.
    for time_s, chosen in ((0.004, 2), (0.008, 1)):
        policy = at_work(priorities={"long": 3.0, "short": 3.0})
        (start,) = policy.allocate(snapshot(8, [pending(1, LONG), pending(2, SHORT, time_s)], time_s=time_s))
        assert start.query_id == chosen


def test_a_shorter_query_preempts_who_runs_at_its_next_layer_end():
    policy = prema(period_s=0.5)
    policy.allocate(snapshot(8, [pending(1, LONG)]))
    waiting, runs = [pending(2, SHORT, 0.001)], [running(1, LONG, 8)]
    # 3 layers of LONG to come against 2 of SHORT; at 2 it goes on.
    assert policy.allocate(snapshot(0, waiting, runs, time_s=0.001, progress={1: 1})) == [
        Yield(1),
        Wake(0.501),
    ]
    assert policy.allocate(snapshot(0, waiting, runs, time_s=0.002, progress={1: 2})) == []


def test_who_runs_is_preempted_by_a_longer_query_once_that_has_the_token_and_he_has_not():
    # LONG earns 2 in 8 ms. SHORT came then, and runs; at the threshold 3 LONG alone is left.
    policy = at_work(period_s=0.5)
    policy.allocate(snapshot(8, [pending(1, LONG), pending(2, SHORT, 0.007)], time_s=0.007))
    waiting, runs = [pending(1, LONG)], [running(2, SHORT, 8)]
    assert policy.allocate(snapshot(0, waiting, runs, time_s=0.008)) == [Yield(2)]
    # In its last layer it need not be asked.
    assert policy.allocate(snapshot(0, waiting, runs, time_s=0.009, progress={2: 1})) == []


def test_a_query_earns_nothing_while_it_runs():
    # LONG ran for 8 ms, in which it would have earned 2: with the threshold of 3 it would come before SHORT.
    policy = prema()
    policy.allocate(snapshot(8, [pending(1, LONG)]))
    waiting = [pending(1, LONG, next_layer=1), pending(2, SHORT, 0.008)]
    (start,) = policy.allocate(snapshot(8, waiting, time_s=0.008))
    assert start.query_id == 2


def test_nobody_is_preempted_in_his_last_layer_or_twice():
    policy = prema(period_s=0.5)
    policy.allocate(snapshot(8, [pending(1, LONG)]))
    waiting, run = [pending(2, SHORT, 0.001)], running(1, LONG, 8)
    yields = run._replace(yields=True)
    assert policy.allocate(snapshot(0, waiting, [yields], time_s=0.001)) == [Wake(0.501)]
    assert policy.allocate(snapshot(0, waiting, [run], time_s=0.001, progress={1: 3})) == []


def test_while_somebody_waits_it_looks_again_after_each_period():
    policy = prema(period_s=0.001)
    runs = [running(1, SHORT, 8)]
    policy.allocate(snapshot(8, [pending(1, SHORT)]))
    assert policy.allocate(snapshot(0, [], runs)) == []
    assert policy.allocate(snapshot(0, [pending(2, LONG)], runs)) == [Wake(0.001)]
    assert policy.allocate(snapshot(0, [pending(2, LONG)], runs, time_s=0.0005)) == []
    assert policy.allocate(snapshot(0, [pending(2, LONG)], runs, time_s=0.001)) == [Wake(0.002)]


def test_a_preempted_query_keeps_its_token_and_goes_on_where_it_stopped():
    # LONG runs from 0 and is preempted at 2 ms by SHORT, which came at 1.5; SHORT ends at 4 ms, LONG at 6.
    queries = [Query(1, "long", 0.0, 0.2), Query(2, "short", 0.0005, 0.1)]
    short, long = run_to_end(prema(period_s=0.5), CONTEXT, queries)
    assert (short.query.id, short.start_s, short.end_s) == (2, pytest.approx(0.001), pytest.approx(0.003))
    assert (long.blocks, long.end_s) == (2, pytest.approx(0.006))


def test_it_serves_one_query_at_a_time_and_all_of_them():
    context = random_context(4, cores=4)
    policy = made(Prema, context)
    records = run_to_end(policy, context, random_queries(context, 100, seed=4, gap_s=0.002))
    assert {record.ending for record in records} == {Ending.SERVED}
    assert max(record.blocks for record in records) > 1


def test_priorities_and_periods_that_make_no_sense_are_refused():
    for options, message in (
        ({"period_s": 0}, "option period_s is 0; Input should be greater than 0"),
        ({"priorities": {"net": 0.5}}, "option priorities is .*greater than or equal to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            prema(**options)

import numpy as np
import pytest

from baselines.oversubscribed import Oversubscribed
from tests.support.builders import pending, running, snapshot
from tests.support.schedulers import made, serving, started_blocks, timed
from veltair.serving.loop.policy import Allocation, Rejection

CONTEXT = serving({"net": ([0.010, 0.010], 0.050), "tight": ([0.010, 0.010], 0.010)})
NET, TIGHT = CONTEXT.models.values()


def oversubscribed(**options) -> Oversubscribed:
    return made(Oversubscribed, CONTEXT, **options)


def test_every_query_starts_at_once_on_all_cores_which_it_shares():
    starts = oversubscribed().allocate(snapshot(8, [pending(1, NET), pending(2, TIGHT), pending(3, NET)]))
    assert started_blocks(starts) == [(1, 0, 2, 8), (2, 0, 2, 8), (3, 0, 2, 8)]
    assert all(start.shares_cores for start in starts if isinstance(start, Allocation))


def test_who_comes_while_others_run_starts_beside_them():
    runs = [running(1, NET, 8)._replace(shares_cores=True)]
    assert started_blocks(oversubscribed().allocate(snapshot(8, [pending(2, NET)], runs))) == [(2, 0, 2, 8)]


@pytest.mark.parametrize(("cores", "callers"), [(2, 6), (8, 12), (64, 32)])
def test_there_are_as_many_callers_as_a_pool_of_pythons_has(cores, callers):
    context = serving({"net": ([0.010], 0.050)}, (cores,))
    assert made(Oversubscribed, context).callers == callers


def test_beyond_the_callers_queries_wait_in_the_order_of_the_options():
    waiting = [pending(1, NET), pending(2, NET), pending(3, TIGHT, 0.001)]
    by_age, by_deadline = (oversubscribed(callers=2, order=order) for order in ("fcfs", "edf"))
    assert [start[0] for start in started_blocks(by_age.allocate(snapshot(8, waiting)))] == [1, 2]
    assert [start[0] for start in started_blocks(by_deadline.allocate(snapshot(8, waiting)))] == [3, 1]
    runs = [running(number, NET, 8)._replace(shares_cores=True) for number in (1, 2)]
    assert oversubscribed(callers=2).allocate(snapshot(8, waiting[2:], runs)) == []


def test_a_query_may_have_as_many_threads_as_suit_its_model_best():
    seconds = {"net": np.array([0.004, 0.002, 0.003])[None, None, :, None]}
    context = timed(seconds, {"net": 0.1}, (1, 2, 4))
    (net,) = context.models.values()
    for threads, cores in (("all", 4), ("best", 2)):
        starts = made(Oversubscribed, context, threads=threads).allocate(snapshot(4, [pending(1, net)]))
        assert started_blocks(starts) == [(1, 0, 1, cores)]


def test_late_is_who_would_be_late_with_all_cores_to_itself():
    # 20 core-ms take 2.5 ms on 8 cores, of 10.
    for time_s, kind in ((0.0074, Allocation), (0.0076, Rejection)):
        (answer,) = oversubscribed(drop_late="when_doomed").allocate(
            snapshot(8, [pending(1, TIGHT)], time_s=time_s)
        )
        assert isinstance(answer, kind)


def test_more_callers_than_blocks_may_share_cores_are_refused():
    with pytest.raises(ValueError, match="option callers is 33; Input should be less than or equal to 32"):
        oversubscribed(callers=33)

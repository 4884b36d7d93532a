from itertools import pairwise

import numpy as np
import pytest

from baselines.fcfs_all import FcfsAll
from tests.support.builders import (
    make_context,
    make_machine,
    make_model,
    pending,
    random_context,
    random_queries,
    run_to_end,
    running,
    snapshot,
)
from veltair.serving.loop.policy import Allocation, Rejection
from veltair.serving.loop.query import Ending
from veltair.serving.policies.discipline import DropLate, Order

NET = make_model(macs=(1, 1), qos_s=0.010)
# Fastest on 2 of 4 cores.
CONTEXT = make_context(
    {"net": np.array([[0.004, 0.002, 0.003]] * 2)[:, None, :, None]},
    [NET],
    cores=(1, 2, 4),
    machine=make_machine(4),
)


def fcfs_all(context=CONTEXT, order=Order.FCFS, drop_late=DropLate.NEVER) -> FcfsAll:
    return FcfsAll(context, order=order, drop_late=drop_late)


def test_a_query_runs_whole_on_the_count_on_which_its_model_is_fastest():
    (start,) = fcfs_all().allocate(snapshot(4, [pending(1, NET), pending(2, NET)]))
    assert isinstance(start, Allocation)
    assert (start.query_id, start.block.start, start.block.stop, start.cores) == (1, 0, 2, 2)


def test_nothing_starts_beside_a_running_query():
    assert fcfs_all().allocate(snapshot(2, [pending(2, NET)], [running(1, NET, 2)])) == []


def test_late_queries_are_given_up_and_deadlines_followed_if_the_options_say_so():
    late, tight = pending(1, NET, arrival_s=0.0), pending(2, NET, arrival_s=0.019)
    policy = fcfs_all(order=Order.EDF, drop_late=DropLate.AT_DEADLINE)
    rejection, start = policy.allocate(snapshot(4, [late, tight], time_s=0.020))
    assert isinstance(rejection, Rejection) and rejection.query_id == 1
    assert isinstance(start, Allocation) and start.query_id == 2


@pytest.mark.parametrize(("cores", "core_unit"), [(2, 1), (64, 8)])
def test_one_query_at_a_time_is_served_in_the_order_of_arrival(cores, core_unit):
    context = random_context(4, cores=cores, core_unit=core_unit)
    records = run_to_end(fcfs_all(context), context, random_queries(context, 100, seed=4))
    assert [record.query.id for record in records] == list(range(100))
    assert {record.ending for record in records} == {Ending.SERVED}
    assert all(after.start_s >= before.end_s for before, after in pairwise(records))

import numpy as np
import pytest

from baselines.fcfs_min import FcfsMin
from tests.support.builders import (
    linear_context,
    linear_seconds,
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
from veltair.serving.loop.query import Ending
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions

COUNTS = tuple(range(1, 9))


def fcfs_min(context, conflict=Conflict.WAIT, alpha=1.0):
    return FcfsMin(context, QueueOptions(Order.FCFS, conflict, DropLate.NEVER), alpha=alpha)


@pytest.mark.parametrize(("alpha", "cores"), [(1.0, 3), (0.5, 6), (0.1, 8)])
def test_a_query_gets_the_fewest_cores_that_meet_its_target_alone(alpha, cores):
    # 30 core-ms in 10 ms need 3 cores, in 5 ms 6; in 1 ms no count is enough: the fastest, 8.
    context = linear_context([0.010, 0.020])
    (start,) = fcfs_min(context, alpha=alpha).allocate(snapshot(8, [pending(1, context.models["net"])]))
    assert (start.block.start, start.block.stop, start.cores) == (0, 2, cores)


def test_an_unservable_model_gets_the_count_on_which_it_is_fastest():
    seconds = np.array([0.040, 0.020, 0.030]).reshape(1, 1, 3, 1)
    net = make_model(macs=(1,))
    context = make_context({"net": seconds}, [net], cores=(1, 2, 4), machine=make_machine(4))
    (start,) = fcfs_min(context).allocate(snapshot(4, [pending(1, net)]))
    assert start.cores == 2


def test_the_head_waits_and_holds_back_those_that_would_fit():
    wide, narrow = make_model("wide", (1,)), make_model("narrow", (1,))
    seconds = {"wide": linear_seconds([0.060], COUNTS), "narrow": linear_seconds([0.010], COUNTS)}
    context = make_context(seconds, [wide, narrow])
    queue, runs = [pending(2, wide), pending(3, narrow)], [running(1, wide, 6)]
    assert fcfs_min(context).allocate(snapshot(2, queue, runs)) == []
    (behind,) = fcfs_min(context, Conflict.BACKFILL).allocate(snapshot(2, queue, runs))
    assert (behind.query_id, behind.cores) == (3, 1)


@pytest.mark.parametrize(
    ("conflict", "layers"), [(Conflict.WAIT, []), (Conflict.SHRINK, [2]), (Conflict.SHRINK_ONE_LAYER, [1])]
)
def test_the_head_runs_on_what_is_free_only_if_a_conflict_is_to_lead_to_that(conflict, layers):
    # 60 core-ms in 10 ms need 6 cores; 2 are free.
    context = linear_context([0.030, 0.030])
    net = context.models["net"]
    starts = fcfs_min(context, conflict).allocate(snapshot(2, [pending(2, net)], [running(1, net, 6)]))
    assert [len(start.block) for start in starts] == layers
    assert all((start.cores, start.wanted_cores) == (2, 6) for start in starts)


@pytest.mark.parametrize("conflict", Conflict)
@pytest.mark.parametrize(("cores", "core_unit"), [(2, 1), (64, 8)])
def test_fcfs_serves_all_queries_whatever_a_conflict_leads_to(conflict, cores, core_unit):
    context = random_context(4, cores=cores, core_unit=core_unit)
    records = run_to_end(fcfs_min(context, conflict), context, random_queries(context, 200, seed=4))
    assert sorted(record.query.id for record in records) == list(range(200))
    assert {record.ending for record in records} == {Ending.SERVED}


def test_first_come_first_served_starts_in_the_order_of_arrival():
    context = random_context(6)
    records = run_to_end(fcfs_min(context), context, random_queries(context, 100, seed=6))
    starts = [record.start_s for record in sorted(records, key=lambda record: record.query.id)]
    assert starts == sorted(starts)

import pytest

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
from veltair.machine import c_build as native
from veltair.serving.loop.policy import Allocation, Context, Rejection, Resize
from veltair.serving.loop.query import Ending
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions
from veltair.serving.policies.elastic import ElasticPolicy
from veltair.serving.policies.latency_tables import VersionRule


def elastic(
    context: Context, conflict: Conflict = Conflict.WAIT, drop_late: DropLate = DropLate.NEVER
) -> ElasticPolicy:
    return ElasticPolicy(context, QueueOptions(Order.FCFS, conflict, drop_late), VersionRule.SOLO_ALONE)


# One model of 4 layers, 40 core-ms, on 8 cores: due in 10 ms it needs 4 cores; a lone query gets all 8.
NET_S = (0.010,) * 4
QOS_S = 0.010


def net_context(**kwargs) -> Context:
    return linear_context(NET_S, qos_s=QOS_S, **kwargs)


def test_a_query_runs_all_its_layers_as_one_block_on_its_share():
    context = net_context()
    answers = elastic(context).allocate(snapshot(8, [pending(1, context.models["net"])]))
    (start,) = answers
    assert isinstance(start, Allocation)
    assert (start.block.start, start.block.stop, start.cores, start.wanted_cores) == (0, 4, 8, 4)


def test_running_queries_shrink_to_their_shares_and_the_waiting_one_waits_for_its_need():
    # Both need 4 of 8 cores, none is free: the running one is told to give 4 up.
    context = net_context()
    net = context.models["net"]
    answers = elastic(context).allocate(snapshot(0, [pending(2, net)], [running(1, net, 8)]))
    assert answers == [Resize(1, 4)]


@pytest.mark.parametrize(("conflict", "started"), [(Conflict.WAIT, []), (Conflict.SHRINK, [2])])
def test_a_start_below_the_need_is_what_shrink_allows(conflict, started):
    context = net_context()
    net = context.models["net"]
    answers = elastic(context, conflict).allocate(snapshot(2, [pending(2, net)], [running(1, net, 6)]))
    starts = [answer for answer in answers if isinstance(answer, Allocation)]
    assert [start.cores for start in starts] == started
    assert all(start.wanted_cores == 4 for start in starts)


def test_a_running_query_grows_into_free_cores_only():
    # Alone its share is 8; 5 are held and 2 free.
    context = net_context()
    net = context.models["net"]
    answers = elastic(context).allocate(snapshot(2, [], [running(1, net, 5)]))
    assert answers == [Resize(1, 7)]


def test_a_query_in_its_last_layer_is_left_alone():
    context = net_context()
    net = context.models["net"]
    last = snapshot(4, [], [running(1, net, 4)], progress={1: 3})
    assert elastic(context).allocate(last) == []


def test_growth_under_way_is_not_taken_back():
    # Query 1 grows from 2 to 8 when query 2 arrives; its share falls to 4, but the grown cores may be in use.
    context = net_context()
    net = context.models["net"]
    answers = elastic(context).allocate(snapshot(0, [pending(2, net)], [running(1, net, 2, target_cores=8)]))
    assert answers == []


def test_a_doomed_query_that_runs_keeps_one_unit():
    # Query 1 is 50 ms late and has share 0 beside two queries that need 4 cores each.
    context = net_context()
    net = context.models["net"]
    waiting = [pending(number, net, arrival_s=0.060) for number in (2, 3)]
    answers = elastic(context).allocate(snapshot(0, waiting, [running(1, net, 8)], time_s=0.060))
    assert answers == [Resize(1, 1)]


def test_shares_change_on_arrivals_and_completions_only():
    context = net_context()
    net = context.models["net"]
    policy = elastic(context, Conflict.SHRINK)
    first = policy.allocate(snapshot(8, [pending(1, net), pending(2, net)]))
    assert [start.cores for start in first if isinstance(start, Allocation)] == [4, 4]
    # At 8 ms query 1 has little left and query 2 much: anew, query 2 would get more; but nobody came or went.
    ended = {1: 2, 2: 0}
    runs = [running(1, net, 4), running(2, net, 4)]
    assert policy.allocate(snapshot(0, [], runs, time_s=0.008, progress=ended)) == []
    # Once a third arrives they are: the running ones are resized.
    third = snapshot(0, [pending(3, net, 0.008)], runs, time_s=0.008, progress=ended)
    assert any(isinstance(answer, Resize) for answer in policy.allocate(third))


def test_remaining_work_does_not_count_layers_that_have_ended():
    # Two of four layers done, 20 core-ms left, 3 ms of slack: it needs 7 cores and is the more urgent
    # one. With all 40 core-ms left it would be doomed.
    context = net_context()
    net = context.models["net"]
    runs = [running(1, net, 8)]
    answers = elastic(context).allocate(
        snapshot(0, [pending(2, net, 0.007)], runs, time_s=0.007, progress={1: 2})
    )
    assert answers == [Resize(1, 7)]


def test_late_queries_are_dropped_before_shares_are_made():
    # At 20 ms query 1 is late; query 2 cannot be in time either, but has not missed its deadline: all cores
    # are its own, where two doomed queries would share them.
    context = net_context()
    net = context.models["net"]
    queue = [pending(1, net), pending(2, net, 0.012)]
    policy = elastic(context, drop_late=DropLate.AT_DEADLINE)
    dropped, start = policy.allocate(snapshot(8, queue, time_s=0.020))
    assert isinstance(dropped, Rejection)
    assert dropped.query_id == 1
    assert isinstance(start, Allocation)
    assert start.cores == 8


def test_a_query_whose_last_layer_has_ended_keeps_its_cores_until_they_are_back():
    # All 4 layers of query 1 have ended, its 8 cores are not back: query 2 waits for the 4 that it needs.
    context = net_context()
    net = context.models["net"]
    over = snapshot(0, [pending(2, net)], [running(1, net, 8)], progress={1: 4})
    assert elastic(context).allocate(over) == []
    over = snapshot(2, [pending(2, net)], [running(1, net, 6)], progress={1: 4})
    starts = elastic(context, Conflict.SHRINK).allocate(over)
    assert [(start.query_id, start.cores) for start in starts if isinstance(start, Allocation)] == [(2, 2)]


def test_cores_between_two_profiled_counts_are_left_free():
    # Two queries need 2 of 6 cores each and have a share of 3: 2 is the largest profiled count within it.
    counts = (1, 2, 4, 6)
    net = make_model(macs=(1, 1), qos_s=0.010)
    context = make_context(
        {"net": linear_seconds([0.010, 0.010], counts)}, [net], cores=counts, machine=make_machine(6)
    )
    answers = elastic(context, Conflict.SHRINK).allocate(snapshot(6, [pending(1, net), pending(2, net)]))
    assert [answer.cores for answer in answers if isinstance(answer, Allocation)] == [2, 2]


@pytest.mark.parametrize("conflict", Conflict)
@pytest.mark.parametrize("rule", VersionRule)
@pytest.mark.parametrize(("cores", "core_unit"), [(2, 1), (64, 8)])
def test_every_version_rule_serves_all_queries_whatever_a_conflict_leads_to(conflict, rule, cores, core_unit):
    context = random_context(7, cores=cores, core_unit=core_unit)
    policy = ElasticPolicy(context, QueueOptions(Order.FCFS, conflict, DropLate.NEVER), rule)
    records = run_to_end(policy, context, random_queries(context, 200, seed=7))
    assert sorted(record.query.id for record in records) == list(range(200))
    assert {record.ending for record in records} == {Ending.SERVED}


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("conflict", [Conflict.WAIT, Conflict.SHRINK])
def test_decisions_are_the_same_without_a_compiler(order, conflict, monkeypatch, tmp_path):
    context = random_context(3, cores=16, core_unit=2)
    queries = random_queries(context, 200, seed=3, gap_s=0.001)

    def run():
        options = QueueOptions(order, conflict, DropLate.AT_DEADLINE)
        policy = ElasticPolicy(context, options, VersionRule.FASTEST_AT_LEVEL)
        return run_to_end(policy, context, queries)

    in_c = run()
    monkeypatch.setattr(native, "COMPILER", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.warns(
        RuntimeWarning, match=r"sharing cores out in Python, .* no-such-compiler was not found"
    ):
        assert run() == in_c

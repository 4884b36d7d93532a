import numpy as np
import pytest

from tests.support.builders import (
    linear_context,
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
from veltair.machine.costs.table import CostTable
from veltair.serving.loop.policy import Allocation, Context, Policy, Resize
from veltair.serving.loop.query import Ending
from veltair.serving.policies.adaptive import VeltairAC, VeltairAS, VeltairFULL
from veltair.serving.policies.discipline import Conflict, DropLate, Order
from veltair.serving.policies.presets import PAPER, make_policy


def make(policy_class: type[Policy], context: Context, **options: object) -> Policy:
    """Return a policy under preset `paper`, but for some options."""
    return make_policy(f"{policy_class.__module__}:{policy_class.__name__}", context, PAPER, options)


def two_versions() -> Context:
    """Return two layers on 1, 2 and 4 cores: version 0 is fastest alone, version 1 under pressure."""
    alone = np.array([[0.004, 0.002, 0.001], [0.006, 0.003, 0.0015]])
    pressed = np.array([[0.016, 0.008, 0.004], [0.008, 0.004, 0.002]])
    layer = np.stack([alone, pressed], axis=-1)
    model = make_model(macs=(1, 1), qos_s=0.020)
    return make_context(
        {"net": np.stack([layer, layer])},
        [model],
        cores=(1, 2, 4),
        levels=(0.0, 1.0),
        machine=make_machine(4),
    )


def first_start(policy, context: Context, pressure: float, free_cores: int | None = None) -> Allocation:
    """Return what the policy does with one waiting query."""
    free_cores = context.machine.cores if free_cores is None else free_cores
    answer, *_ = policy.allocate(snapshot(free_cores, [pending(1, context.models["net"])], pressure=pressure))
    assert isinstance(answer, Allocation)
    return answer


def test_full_picks_another_version_at_high_pressure():
    context = two_versions()
    policy = make(VeltairFULL, context)
    assert first_start(policy, context, 0.0).versions == (0,)
    assert first_start(policy, context, 1.0).versions == (1,)


def test_as_keeps_the_solo_version_at_every_pressure():
    context = two_versions()
    policy = make(VeltairAS, context)
    assert [first_start(policy, context, pressure).versions for pressure in (0.0, 1.0)] == [(0,), (0,)]


def test_needs_rise_with_the_pressure_less_so_with_adaptive_versions():
    # Budget 10 ms a layer. Alone 4 ms on 1 core. Pressed: the solo version takes 16 ms on 1 core and 8 ms on
    # 2, the tolerant one 8 ms on 1.
    context = two_versions()
    needs = {}
    for policy_class in (VeltairAS, VeltairFULL):
        policy = make(policy_class, context)
        needs[policy_class] = [first_start(policy, context, pressure).cores for pressure in (0.0, 1.0)]
    assert needs == {VeltairAS: [1, 2], VeltairFULL: [1, 1]}


def test_a_smaller_share_of_the_target_raises_the_need():
    # Budget 0.35 x 10 = 3.5 ms a layer: 4 ms on 1 core is too long.
    context = two_versions()
    assert first_start(make(VeltairAS, context, alpha=0.35), context, 0.0).cores == 2


def test_running_and_waiting_queries_both_make_the_blocks_larger():
    # The five layers of test_blocks.py: with 3 queries in the system layers 1 and 2 are one block.
    context = linear_context((0.002, 0.006, 0.001, 0.002, 0.004))
    net = context.models["net"]
    policy = make(VeltairAS, context)

    def block_from_layer_1(others_waiting: int, others_running: int) -> int:
        waiting = [pending(number, net, next_layer=1) for number in range(1 + others_waiting)]
        runs = [running(10 + number, net, 1) for number in range(others_running)]
        answer = policy.allocate(snapshot(4, waiting, runs))[0]
        assert isinstance(answer, Allocation)
        return len(answer.block)

    assert [block_from_layer_1(*others) for others in ((0, 0), (0, 1), (0, 2), (2, 0), (1, 1))] == [
        1,
        1,
        2,
        2,
        2,
    ]


def test_a_shrunk_block_gets_the_free_cores_and_counts_as_a_conflict():
    context = linear_context((0.002, 0.006, 0.001, 0.002, 0.004))
    policy = make(VeltairAS, context)
    waiting = [pending(1, context.models["net"], next_layer=1)]
    answer = policy.allocate(snapshot(2, waiting))[0]
    assert isinstance(answer, Allocation)
    assert (answer.cores, answer.wanted_cores) == (2, 3)


def test_ac_changes_the_versions_of_a_running_block_when_the_level_changes():
    # Blocks on 1 and 2 cores meet 2/3 and 1/3 of the pressure: the first reads level 1, the second level 0.
    context = two_versions()
    net = context.models["net"]
    policy = make(VeltairAC, context)
    runs = [running(1, net, 1), running(2, net, 2)]
    answers = policy.allocate(snapshot(0, [], runs, pressure=1.0))
    assert answers == [Resize(1, 1, (1, 1))]
    again = [running(1, net, 1), running(2, net, 2)]
    assert policy.allocate(snapshot(0, [], again, pressure=0.0)) == []


def test_ac_starts_whole_queries_in_the_versions_of_the_level():
    context = two_versions()
    start = first_start(make(VeltairAC, context), context, 1.0)
    assert (start.block.stop, start.versions, start.cores) == (2, (1, 1), 4)


@pytest.mark.parametrize("conflict", Conflict)
@pytest.mark.parametrize("policy_class", [VeltairAS, VeltairAC, VeltairFULL])
@pytest.mark.parametrize(("cores", "core_unit"), [(2, 1), (64, 8)])
def test_all_queries_are_served_whatever_a_conflict_leads_to(policy_class, conflict, cores, core_unit):
    context = random_context(3, cores=cores, core_unit=core_unit)
    policy = make(policy_class, context, conflict=conflict)
    records = run_to_end(policy, context, random_queries(context, 200, seed=3))
    assert sorted(record.query.id for record in records) == list(range(200))
    assert {record.ending for record in records} == {Ending.SERVED}


@pytest.mark.parametrize("policy_class", [VeltairAS, VeltairAC, VeltairFULL])
def test_dropping_doomed_queries_ends_each_query_once(policy_class):
    context = random_context(5)
    policy = make(policy_class, context, order=Order.LLF, drop_late=DropLate.WHEN_DOOMED)
    records = run_to_end(policy, context, random_queries(context, 200, seed=5, gap_s=0.0005))
    assert sorted(record.query.id for record in records) == list(range(200))
    assert {record.ending for record in records} == {Ending.SERVED, Ending.REJECTED}


# The five layers of test_blocks.py: budgets of 2 ms each, due 10 ms after the arrival at 0.
WORK_CORE_S = (0.002, 0.006, 0.001, 0.002, 0.004)


@pytest.mark.parametrize(
    ("options", "late_start"),
    [
        ({}, (1, 2, 3)),  # as in the paper: layer 1 alone needs 3 cores
        ({"alpha": 0.5}, (1, 2, 6)),  # 6 core-ms in 1 ms
        # 5 of the 8 ms for layers 1 to 4 are left: x 0.625, rounded down to 0.595; 6 core-ms in 1.19 ms
        ({"budgets": "slack_feedback"}, (1, 2, 6)),
        ({"budget_basis": "time"}, (1, 2, 2)),  # 6 of 15 core-ms get 4 of 10 ms
        ({"threshold": "loaded_models"}, (1, 2, 3)),
        ({"coalesce_layers": 8}, (1, 2, 3)),
        ({"growth": True}, (1, 2, 8)),  # nobody else waits, and 8 cores are fastest
    ],
)
def test_each_option_alone_decides_what_a_late_query_asks_for(options, late_start):
    context = linear_context(WORK_CORE_S)
    waiting = [pending(1, context.models["net"], next_layer=1)]
    (start,) = make(VeltairAS, context, **options).allocate(snapshot(8, waiting, time_s=0.005))
    assert (start.block.start, start.block.stop, start.cores) == late_start


def test_coalescing_starts_neighbours_of_equal_need_as_one_block():
    context = linear_context(WORK_CORE_S)
    waiting = [pending(1, context.models["net"], next_layer=2)]
    lengths = {}
    for layers in (1, 8):
        (start,) = make(VeltairAS, context, coalesce_layers=layers).allocate(snapshot(8, waiting))
        lengths[layers] = len(start.block)
    assert lengths == {1: 1, 8: 2}


def test_the_threshold_over_loaded_models_ignores_how_many_queries_there_are():
    # With five active queries the limit is 1 and all layers are one block; one loaded model has limit 8.
    context = linear_context(WORK_CORE_S)
    waiting = [pending(number, context.models["net"]) for number in range(5)]
    blocks = {}
    for threshold in ("active_queries", "loaded_models"):
        start = make(VeltairAS, context, threshold=threshold).allocate(snapshot(8, waiting))[0]
        blocks[threshold] = (len(start.block), start.cores)
    assert blocks == {"active_queries": (5, 2), "loaded_models": (1, 1)}


def test_the_threshold_over_running_queries_counts_those_and_the_one_that_starts():
    # Beside seven running ones the limit is 8 / 8 = 1 core, and all layers are one block; beside one it is 4,
    # which no layer exceeds. The four others that wait do not count.
    context = linear_context(WORK_CORE_S)
    net = context.models["net"]
    waiting = [pending(number, net) for number in range(10, 15)]
    lengths = {}
    for count in (1, 7):
        runs = [running(number, net, 1) for number in range(count)]
        policy = make(VeltairAS, context, threshold="running_queries")
        lengths[count] = len(policy.allocate(snapshot(1, waiting, runs))[0].block)
    assert lengths == {1: 1, 7: 5}


@pytest.mark.parametrize(("growth", "answers"), [(False, []), (True, [Resize(1, 8)])])
def test_a_block_grows_into_spare_cores_if_the_option_says_so(growth, answers):
    context = linear_context(WORK_CORE_S)
    one = snapshot(6, [], [running(1, context.models["net"], 2)])
    assert list(make(VeltairFULL, context, growth=growth).allocate(one)) == answers


def test_what_just_started_comes_before_growth_and_who_waits_forbids_it():
    # 3 cores are free. Layer 1 takes all of them; layer 0 only 1, and 2 go to the running block. Under `wait`
    # layer 1 finds 2 of the 3 cores that it needs: it waits, and nobody grows.
    context = linear_context(WORK_CORE_S)
    net = context.models["net"]
    runs = [running(1, net, 5)]
    policy = make(VeltairAS, context, growth=True, conflict=Conflict.WAIT)
    start, grown = policy.allocate(snapshot(3, [pending(2, net)], runs))
    assert isinstance(start, Allocation) and start.cores == 1
    assert grown == Resize(1, 7)
    (start,) = policy.allocate(snapshot(3, [pending(2, net, next_layer=1)], runs))
    assert isinstance(start, Allocation) and start.cores == 3
    waiting = [pending(2, net, next_layer=1)]
    assert list(policy.allocate(snapshot(2, waiting, [running(1, net, 6)]))) == []


@pytest.mark.parametrize("policy_class", [VeltairAC, VeltairFULL])
def test_priced_versions_leave_bandwidth_to_others_under_pressure(policy_class):
    # As in test_timetables.py: version 1 is slower by a fifth and moves a fifth of the bytes.
    context = traffic_for_two()
    versions = {}
    for choice in ("fastest", "priced"):
        policy = make(policy_class, context, versions=choice)
        versions[choice] = [first_start(policy, context, pressure).versions for pressure in (0.0, 1.0)]
    assert versions == {"fastest": [(0,), (0,)], "priced": [(0,), (1,)]}


def traffic_for_two() -> Context:
    """Return a layer on 4 of 8 cores: 1.0 ms and 20 MB in version 0, 1.2 ms and 4 MB in version 1."""
    seconds = np.array([[0.0010] * 2, [0.0012] * 2])[None, :, None, :]
    context = make_context(
        {"net": seconds},
        [make_model(macs=(1,))],
        cores=(4,),
        levels=(0.0, 1.0),
        machine=make_machine(8),
    )
    rows = context.costs.repeats
    rows = rows.assign(traffic_bytes=rows["version"].map({0: 20e6, 1: 4e6}))
    return Context(context.models, CostTable(rows, "toy"), context.machine)

import numpy as np
import pytest
from builders import (
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

from veltair.serving.adaptive import VeltairAC, VeltairAS, VeltairFULL
from veltair.serving.discipline import Conflict, DropLate, Order
from veltair.serving.policy import Allocation, Context, Resize
from veltair.serving.query import Ending

COMMON = {"order": Order.FCFS, "conflict": Conflict.SHRINK, "drop_late": DropLate.NEVER}


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
    policy = VeltairFULL(context, alpha=1.0, **COMMON)
    assert first_start(policy, context, 0.0).versions == (0,)
    assert first_start(policy, context, 1.0).versions == (1,)


def test_as_keeps_the_solo_version_at_every_pressure():
    context = two_versions()
    policy = VeltairAS(context, alpha=1.0, **COMMON)
    assert [first_start(policy, context, pressure).versions for pressure in (0.0, 1.0)] == [(0,), (0,)]


def test_needs_rise_with_the_pressure_less_so_with_adaptive_versions():
    # Budget 10 ms a layer. Alone 4 ms on 1 core. Pressed: the solo version takes 16 ms on 1 core and 8 ms on
    # 2, the tolerant one 8 ms on 1.
    context = two_versions()
    needs = {}
    for policy_class in (VeltairAS, VeltairFULL):
        policy = policy_class(context, alpha=1.0, **COMMON)
        needs[policy_class] = [first_start(policy, context, pressure).cores for pressure in (0.0, 1.0)]
    assert needs == {VeltairAS: [1, 2], VeltairFULL: [1, 1]}


def test_a_smaller_share_of_the_target_raises_the_need():
    # Budget 0.35 x 10 = 3.5 ms a layer: 4 ms on 1 core is too long.
    context = two_versions()
    assert first_start(VeltairAS(context, alpha=0.35, **COMMON), context, 0.0).cores == 2


def test_running_and_waiting_queries_both_make_the_blocks_larger():
    # The five layers of test_blocks.py: with 3 queries in the system layers 1 and 2 are one block.
    context = linear_context((0.002, 0.006, 0.001, 0.002, 0.004))
    net = context.models["net"]
    policy = VeltairAS(context, alpha=1.0, **COMMON)

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
    policy = VeltairAS(context, alpha=1.0, **COMMON)
    waiting = [pending(1, context.models["net"], next_layer=1)]
    answer = policy.allocate(snapshot(2, waiting))[0]
    assert isinstance(answer, Allocation)
    assert (answer.cores, answer.wanted_cores) == (2, 3)


def test_ac_changes_the_versions_of_a_running_block_when_the_level_changes():
    # Blocks on 1 and 2 cores meet 2/3 and 1/3 of the pressure: the first reads level 1, the second level 0.
    context = two_versions()
    net = context.models["net"]
    policy = VeltairAC(context, **COMMON)
    runs = [running(1, net, 1), running(2, net, 2)]
    answers = policy.allocate(snapshot(0, [], runs, pressure=1.0))
    assert answers == [Resize(1, 1, (1, 1))]
    again = [running(1, net, 1), running(2, net, 2)]
    assert policy.allocate(snapshot(0, [], again, pressure=0.0)) == []


def test_ac_starts_whole_queries_in_the_versions_of_the_level():
    context = two_versions()
    start = first_start(VeltairAC(context, **COMMON), context, 1.0)
    assert (start.block.stop, start.versions, start.cores) == (2, (1, 1), 4)


@pytest.mark.parametrize("conflict", Conflict)
@pytest.mark.parametrize("policy_class", [VeltairAS, VeltairAC, VeltairFULL])
@pytest.mark.parametrize(("cores", "core_unit"), [(2, 1), (64, 8)])
def test_all_queries_are_served_whatever_a_conflict_leads_to(policy_class, conflict, cores, core_unit):
    context = random_context(3, cores=cores, core_unit=core_unit)
    options = {**COMMON, "conflict": conflict} | ({} if policy_class is VeltairAC else {"alpha": 0.8})
    records = run_to_end(policy_class(context, **options), context, random_queries(context, 200, seed=3))
    assert sorted(record.query.id for record in records) == list(range(200))
    assert {record.ending for record in records} == {Ending.SERVED}


@pytest.mark.parametrize("policy_class", [VeltairAS, VeltairAC, VeltairFULL])
def test_dropping_doomed_queries_ends_each_query_once(policy_class):
    context = random_context(5)
    options = {"order": Order.LLF, "conflict": Conflict.SHRINK, "drop_late": DropLate.WHEN_DOOMED}
    options |= {} if policy_class is VeltairAC else {"alpha": 1.0}
    queries = random_queries(context, 200, seed=5, gap_s=0.0005)
    records = run_to_end(policy_class(context, **options), context, queries)
    assert sorted(record.query.id for record in records) == list(range(200))
    assert {record.ending for record in records} == {Ending.SERVED, Ending.REJECTED}


@pytest.mark.parametrize("policy_class", [VeltairAS, VeltairAC, VeltairFULL])
def test_equal_runs_give_equal_records(policy_class):
    context = random_context(11)
    options = COMMON | ({} if policy_class is VeltairAC else {"alpha": 1.0})
    queries = random_queries(context, 60, seed=11)
    first, second = (run_to_end(policy_class(context, **options), context, queries) for _ in range(2))
    assert first == second

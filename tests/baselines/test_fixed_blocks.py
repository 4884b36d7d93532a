import numpy as np
import pytest

from baselines.fixed_blocks import FixedBlocks
from baselines.layer_wise import LayerWise
from tests.support.builders import (
    linear_context,
    make_context,
    make_machine,
    make_model,
    pending,
    random_context,
    random_queries,
    run_to_end,
    snapshot,
)
from veltair.serving.loop.query import Ending
from veltair.serving.policies.blocks import BudgetRule
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions

COMMON = {"alpha": 1.0, "budgets": BudgetRule.STATIC}


def queue(conflict: Conflict = Conflict.SHRINK) -> QueueOptions:
    return QueueOptions(Order.FCFS, conflict, DropLate.NEVER)


# The five layers of test_blocks.py: 2 ms of budget each.
WORK_CORE_S = (0.002, 0.006, 0.001, 0.002, 0.004)


def blocks(policy, context):
    """Return the blocks of a query as (start, stop, need) when it always gets its need."""
    found, layer = [], 0
    net = context.models["net"]
    while layer < len(net.layers):
        (start,) = policy.allocate(snapshot(8, [pending(1, net, next_layer=layer)]))
        found.append((start.block.start, start.block.stop, start.cores))
        layer = start.block.stop
    return found


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (1, [(0, 1, 1), (1, 2, 3), (2, 3, 1), (3, 4, 1), (4, 5, 2)]),
        (2, [(0, 2, 2), (2, 4, 1), (4, 5, 2)]),  # 8 core-ms in 4 ms, 3 in 4 ms, 4 in 2 ms
        (3, [(0, 3, 2), (3, 5, 2)]),  # 9 core-ms in 6 ms, 6 in 4 ms
        (100, [(0, 5, 2)]),  # 15 core-ms in 10 ms
    ],
)
def test_blocks_have_a_fixed_length_and_the_sum_of_their_layers_budgets(layers, expected):
    context = linear_context(WORK_CORE_S)
    policy = FixedBlocks(context, queue(), layers=layers, **COMMON)
    assert blocks(policy, context) == expected


@pytest.mark.parametrize(
    ("layers", "stops"),
    [(6, [6, 12, 18, 24, 25]), (11, [11, 22, 25]), (20, [20, 25]), (1000, [25])],
)
def test_models_are_cut_every_so_many_layers_and_end_in_what_is_left(layers, stops):
    context = linear_context([0.001] * 25)
    assert [
        stop for _, stop, _ in blocks(FixedBlocks(context, queue(), layers=layers, **COMMON), context)
    ] == stops


def test_a_block_that_no_count_serves_in_its_budget_gets_the_count_on_which_it_is_fastest():
    # Budget 5 ms a layer; on 1, 2, 4 cores the first takes 9, 6 and 7 ms, the second 9, 8 and 4.
    seconds = np.array([[0.009, 0.006, 0.007], [0.009, 0.008, 0.004]])[:, None, :, None]
    net = make_model(macs=(1, 1))
    context = make_context({"net": seconds}, [net], cores=(1, 2, 4), machine=make_machine(4))
    policy = FixedBlocks(context, queue(), layers=1, **COMMON)
    starts = [policy.allocate(snapshot(4, [pending(1, net, next_layer=layer)]))[0] for layer in (0, 1)]
    assert [start.cores for start in starts] == [2, 4]


def test_layer_wise_is_blocks_of_one_layer():
    context = linear_context(WORK_CORE_S)
    policy = LayerWise(context, queue(), **COMMON)
    assert blocks(policy, context) == [(0, 1, 1), (1, 2, 3), (2, 3, 1), (3, 4, 1), (4, 5, 2)]


@pytest.mark.parametrize(("time_s", "cores"), [(0.0, 2), (0.005, 3), (0.5, 3)])
def test_budgets_that_follow_the_slack_raise_the_need_of_a_late_query(time_s, cores):
    # Layers 0 to 2: 9 core-ms in 6 ms; in half of that from when half of the 10 ms is gone, and no less.
    context = linear_context(WORK_CORE_S)
    options = {**COMMON, "budgets": BudgetRule.SLACK_FEEDBACK}
    policy = FixedBlocks(context, queue(), layers=3, **options)
    (start,) = policy.allocate(snapshot(8, [pending(1, context.models["net"])], time_s=time_s))
    assert (len(start.block), start.cores) == (3, cores)


def test_a_block_cut_by_a_conflict_goes_on_to_its_fixed_end():
    context = linear_context(WORK_CORE_S)
    policy = FixedBlocks(context, queue(Conflict.SHRINK_ONE_LAYER), layers=3, **COMMON)
    net = context.models["net"]
    (cut,) = policy.allocate(snapshot(1, [pending(1, net)]))
    assert (cut.block.start, cut.block.stop) == (0, 1)
    # The rest, layers 1 and 2: 7 core-ms in 4 ms need 2 cores.
    (rest,) = policy.allocate(snapshot(8, [pending(1, net, next_layer=1)]))
    assert (rest.block.start, rest.block.stop, rest.cores) == (1, 3, 2)


def test_fixed_blocks_are_blind_to_pressure():
    seconds = np.array([0.001, 0.009]).reshape(1, 1, 1, 2)
    net = make_model(macs=(1,))
    context = make_context({"net": seconds}, [net], cores=(1,), levels=(0.0, 1.0), machine=make_machine(1))
    policy = LayerWise(context, queue(), **COMMON)
    answers = [policy.allocate(snapshot(1, [pending(1, net)], pressure=pressure)) for pressure in (0.0, 1.0)]
    assert answers[0] == answers[1]


def test_a_block_has_at_least_one_layer():
    with pytest.raises(ValueError, match="layers is 0; give the length of a block"):
        FixedBlocks(linear_context(WORK_CORE_S), queue(), layers=0, **COMMON)


@pytest.mark.parametrize("conflict", Conflict)
@pytest.mark.parametrize("layers", [1, 3, 20])
@pytest.mark.parametrize(("cores", "core_unit"), [(2, 1), (64, 8)])
def test_fixed_blocks_serve_all_queries_whatever_a_conflict_leads_to(conflict, layers, cores, core_unit):
    context = random_context(2, cores=cores, core_unit=core_unit)
    policy = FixedBlocks(context, queue(conflict), layers=layers, **COMMON)
    records = run_to_end(policy, context, random_queries(context, 200, seed=2))
    assert sorted(record.query.id for record in records) == list(range(200))
    assert {record.ending for record in records} == {Ending.SERVED}

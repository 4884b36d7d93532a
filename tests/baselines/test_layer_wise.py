import pytest

from baselines.fixed_blocks import FixedBlocks
from baselines.layer_wise import LayerWise
from tests.support.builders import random_context, random_queries, run_to_end
from veltair.serving.policies.blocks import BudgetRule
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions


@pytest.mark.parametrize("conflict", Conflict)
@pytest.mark.parametrize("budgets", BudgetRule)
def test_layer_wise_serves_as_fixed_blocks_of_one_layer_do(conflict: Conflict, budgets: BudgetRule) -> None:
    context = random_context(2)
    queue = QueueOptions(Order.EDF, conflict, DropLate.NEVER)
    policies = (
        LayerWise(context, queue, alpha=1.0, budgets=budgets),
        FixedBlocks(context, queue, layers=1, alpha=1.0, budgets=budgets),
    )
    found, wanted = (run_to_end(policy, context, random_queries(context, 50, seed=2)) for policy in policies)
    assert found == wanted
    assert all(record.blocks >= len(context.models[record.query.model].layers) for record in found)

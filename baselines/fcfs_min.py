"""First come, first served, whole models, each on the fewest cores that meet its QoS target alone.

Source: model-wise scheduling in the published artifact of Liu et al., VELTAIR, ASPLOS 2022.
"""

from baselines.fixed_blocks import FixedBlocks
from veltair.serving.loop.policy import Context
from veltair.serving.policies.blocks import BudgetRule, BudgetShare
from veltair.serving.policies.discipline import Conflict, DropLate, Order


class FcfsMin(FixedBlocks):
    """One block a model: its need is the fewest cores whose time alone is within alpha x QoS, always."""

    plan = FixedBlocks.plan

    def __init__(
        self, context: Context, *, alpha: BudgetShare, order: Order, conflict: Conflict, drop_late: DropLate
    ) -> None:
        super().__init__(
            context,
            layers=max(len(model.layers) for model in context.models.values()),
            alpha=alpha,
            budgets=BudgetRule.STATIC,
            order=order,
            conflict=conflict,
            drop_late=drop_late,
        )

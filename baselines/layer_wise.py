"""Every layer a unit of its own, with its own share of the QoS budget.

Source: the layer-wise scheduling that Liu et al., VELTAIR, ASPLOS 2022, compare with; also the other
reading of what Planaria (Ghodrati et al., MICRO 2020) is on a CPU.
"""

from baselines.fixed_blocks import FixedBlocks
from veltair.serving.loop.policy import Context
from veltair.serving.policies.blocks import BudgetRule, BudgetShare
from veltair.serving.policies.discipline import Conflict, DropLate, Order


class LayerWise(FixedBlocks):
    """Fixed blocks of one layer."""

    plan = FixedBlocks.plan

    def __init__(
        self,
        context: Context,
        *,
        alpha: BudgetShare,
        budgets: BudgetRule,
        order: Order,
        conflict: Conflict,
        drop_late: DropLate,
    ) -> None:
        super().__init__(
            context,
            layers=1,
            alpha=alpha,
            budgets=budgets,
            order=order,
            conflict=conflict,
            drop_late=drop_late,
        )

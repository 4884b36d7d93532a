"""Every layer a unit of its own, with its own share of the QoS budget.

Source: the layer-wise scheduling that Liu et al., VELTAIR, ASPLOS 2022, compare with; also the other
reading of what Planaria (Ghodrati et al., MICRO 2020) is on a CPU.

Paper: layer-wise scheduling, as VELTAIR (Liu et al., ASPLOS 2022) compares with.
Unit: layer.
Preemption: between layers.
Cores: fewest within the layer's budget.
Memory: not managed.
Versions: solo.
"""

from baselines.fixed_blocks import FixedBlocks
from veltair.serving.loop.policy import Context
from veltair.serving.policies.blocks import BudgetRule, BudgetShare
from veltair.serving.policies.discipline import QueueOptions


class LayerWise(FixedBlocks):
    """Fixed blocks of one layer."""

    def __init__(
        self, context: Context, options: QueueOptions, *, alpha: BudgetShare, budgets: BudgetRule
    ) -> None:
        super().__init__(context, options, layers=1, alpha=alpha, budgets=budgets)

"""First come, first served, whole models, each on the fewest cores that meet its QoS target alone.

Source: model-wise scheduling in the published artifact of Liu et al., VELTAIR, ASPLOS 2022.

Paper: VELTAIR's artifact (Liu et al., ASPLOS 2022).
Unit: whole model.
Preemption: none.
Cores: fewest that meet the target alone.
Memory: not managed.
Versions: solo.
"""

from collections.abc import Mapping
from typing import ClassVar

from baselines.fixed_blocks import FixedBlocks
from veltair.serving.loop.policy import Context
from veltair.serving.policies.blocks import BudgetRule, BudgetShare
from veltair.serving.policies.discipline import Conflict, QueueOptions


class FcfsMin(FixedBlocks):
    """One block a model: its need is the fewest cores whose time alone is within alpha x QoS, always."""

    # A whole model shrunk to what is free never recovers: its head waits, as in the published code.
    preset_exceptions: ClassVar[Mapping[str, object]] = {"conflict": Conflict.WAIT.value}

    def __init__(self, context: Context, options: QueueOptions, *, alpha: BudgetShare) -> None:
        most_layers = max(len(model.layers) for model in context.models.values())
        super().__init__(context, options, layers=most_layers, alpha=alpha, budgets=BudgetRule.STATIC)

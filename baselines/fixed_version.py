"""One version of each layer, fixed: what adaptive compilation is worth beside each choice made once for all.

Source: the ablation that the argument of Liu et al., VELTAIR, ASPLOS 2022, calls for: were one tolerant
version as good at every pressure, nothing would have to adapt.
"""

from typing import Annotated

from pydantic import Field

from veltair.serving.loop.policy import Context
from veltair.serving.policies.adaptive import AdaptiveBlocks
from veltair.serving.policies.blocks import BudgetRule, BudgetShare, CoalesceLayers, Threshold
from veltair.serving.policies.discipline import Conflict, DropLate, Order
from veltair.serving.policies.elastic import ElasticPolicy
from veltair.serving.policies.latency_tables import FixedVersion

VersionNumber = Annotated[int, Field(ge=0)]
"""The version of each layer, 0 being the most local; a layer with fewer versions runs its last one."""


class FixedVersionBlocks(AdaptiveBlocks):
    """Veltair-AS with version `version` in place of the solo one."""

    plan = AdaptiveBlocks.plan

    def __init__(
        self,
        context: Context,
        *,
        version: VersionNumber,
        alpha: BudgetShare,
        budgets: BudgetRule,
        threshold: Threshold,
        coalesce_layers: CoalesceLayers,
        growth: bool,
        order: Order,
        conflict: Conflict,
        drop_late: DropLate,
    ) -> None:
        super().__init__(
            context,
            FixedVersion(version),
            alpha=alpha,
            budgets=budgets,
            threshold=threshold,
            coalesce_layers=coalesce_layers,
            growth=growth,
            order=order,
            conflict=conflict,
            drop_late=drop_late,
        )


class FixedVersionElastic(ElasticPolicy):
    """Planaria-aware with version `version` in place of the solo one."""

    plan = ElasticPolicy.plan

    def __init__(
        self,
        context: Context,
        *,
        version: VersionNumber,
        order: Order,
        conflict: Conflict,
        drop_late: DropLate,
    ) -> None:
        super().__init__(context, FixedVersion(version), order, conflict, drop_late)

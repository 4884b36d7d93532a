"""Planaria's elastic shares of the machine, on cores instead of systolic subarrays.

Source: Ghodrati et al., Planaria, MICRO 2020, and its public scheduler; what the port
changes is said in `veltair.serving.policies.elastic`.
"""

from veltair.serving.loop.policy import Context
from veltair.serving.policies.discipline import Conflict, DropLate, Order
from veltair.serving.policies.elastic import ElasticPolicy
from veltair.serving.policies.latency_tables import VersionRule


class Planaria(ElasticPolicy):
    """Elastic core shares, blind to interference: the solo versions and their times alone."""

    plan = ElasticPolicy.plan

    def __init__(self, context: Context, *, order: Order, conflict: Conflict, drop_late: DropLate) -> None:
        super().__init__(context, VersionRule.SOLO_ALONE, order, conflict, drop_late)


class PlanariaAware(ElasticPolicy):
    """Planaria that knows the pressure but has one version: the ablation between Planaria and Veltair-AC."""

    plan = ElasticPolicy.plan

    def __init__(self, context: Context, *, order: Order, conflict: Conflict, drop_late: DropLate) -> None:
        super().__init__(context, VersionRule.SOLO_AT_LEVEL, order, conflict, drop_late)

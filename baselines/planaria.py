"""Planaria's elastic shares of the machine, on cores instead of systolic subarrays.

Source: Ghodrati et al., Planaria, MICRO 2020, and its public scheduler; what the port
changes is said in `veltair.serving.policies.elastic`.
"""

from veltair.serving.loop.policy import Context
from veltair.serving.policies.discipline import QueueOptions
from veltair.serving.policies.elastic import ElasticPolicy
from veltair.serving.policies.latency_tables import VersionRule


class Planaria(ElasticPolicy):
    """Elastic core shares, blind to interference: the solo versions and their times alone."""

    def __init__(self, context: Context, options: QueueOptions) -> None:
        super().__init__(context, options, VersionRule.SOLO_ALONE)


class PlanariaAware(ElasticPolicy):
    """Planaria that knows the pressure but has one version: the ablation between Planaria and Veltair-AC."""

    def __init__(self, context: Context, options: QueueOptions) -> None:
        super().__init__(context, options, VersionRule.SOLO_AT_LEVEL)

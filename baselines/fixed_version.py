"""One version of each layer, fixed: what adaptive compilation is worth beside each choice made once for all.

Source: the ablation that the argument of Liu et al., VELTAIR, ASPLOS 2022, calls for: were one tolerant
version as good at every pressure, nothing would have to adapt.

Paper: an ablation of VELTAIR (Liu et al., ASPLOS 2022).
Memory: not managed.
Versions: one number for all layers, its times at the current pressure.
"""

from typing import Annotated

from pydantic import Field

from veltair.serving.loop.policy import Context
from veltair.serving.policies.adaptive import AdaptiveBlocks
from veltair.serving.policies.blocks import BlockOptions
from veltair.serving.policies.discipline import QueueOptions
from veltair.serving.policies.elastic import ElasticPolicy
from veltair.serving.policies.latency_tables import FixedVersion

VersionNumber = Annotated[int, Field(ge=0)]
"""The version of each layer, 0 being the most local; a layer with fewer versions runs its last one."""


class FixedVersionBlocks(AdaptiveBlocks):
    """Veltair-AS with version `version` in place of the solo one.

    Unit: block whose size follows the load.
    Preemption: between blocks.
    Cores: fewest within the block's budget.
    """

    def __init__(self, context: Context, options: BlockOptions, *, version: VersionNumber) -> None:
        super().__init__(context, options, FixedVersion(version))


class FixedVersionElastic(ElasticPolicy):
    """Planaria-aware with version `version` in place of the solo one.

    Unit: whole model, resized at layer ends.
    Preemption: shrinks at layer ends, to one core unit at least.
    Cores: shares by slack and time left.
    """

    def __init__(self, context: Context, options: QueueOptions, *, version: VersionNumber) -> None:
        super().__init__(context, options, FixedVersion(version))

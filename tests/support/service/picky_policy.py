"""A policy that can only be made for one model."""

from veltair.serving.loop.policy import Context
from veltair.serving.policies.adaptive import VeltairFULL
from veltair.serving.policies.blocks import BlockOptions
from veltair.serving.policies.latency_tables import AdaptiveRule


class PickyPolicy(VeltairFULL):
    def __init__(self, context: Context, options: BlockOptions, *, versions: AdaptiveRule) -> None:
        if len(context.models) > 1:
            raise RuntimeError("one model is enough")
        super().__init__(context, options, versions=versions)

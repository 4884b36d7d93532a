"""A policy of your own, whole: name it in the config as `path: docs.example_policy:Greedy`."""

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Allocation, Context, Snapshot


class Greedy:
    """Gives the oldest waiting query all free cores for its whole model."""

    def __init__(self, context: Context) -> None:
        self._costs = context.costs

    def allocate(self, snapshot: Snapshot) -> list[Allocation]:
        """Return an allocation of the most cores that are free and were profiled, or nothing."""
        cores = max((count for count in self._costs.cores if count <= snapshot.free_cores), default=0)
        if not (cores and snapshot.pending):
            return []
        query = snapshot.pending[0].query
        versions = tuple(self._costs.model(query.model).solo.tolist())
        return [Allocation(query.id, LayerBlock(query.model, 0, len(versions)), versions, cores)]

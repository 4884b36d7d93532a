"""What whole models take that serve several queries at once, on slices of the machine."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from veltair.compiler.frontend.model import LayerBlock, Model
from veltair.serving.loop.policy import Allocation, Context
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule
from veltair.serving.policies.slices import SliceTimes


class BatchTimes:
    """The times of whole models by how many queries they serve at once: in solo versions, alone.

    `sizes` are the numbers of queries that each model was built for, ascending from 1; `counts` the core
    counts that can be granted, ascending.
    """

    def __init__(self, context: Context) -> None:
        built = {
            (name, queries): Model(context.costs_name(name, queries), model.layers, model.qos_s)
            for name, model in context.models.items()
            for queries in (1, *context.batches.get(name, ()))
        }
        models = {model.name: model for model in built.values()}
        tables = LatencyTables(replace(context, models=models), VersionRule.SOLO_ALONE)
        self.counts = tables.counts
        self.sizes: Mapping[str, tuple[int, ...]] = {
            name: (1, *sorted(context.batches.get(name, ()))) for name in context.models
        }
        self._times = SliceTimes(tables)
        self._blocks = {key: LayerBlock(model.name, 0, len(model.layers)) for key, model in built.items()}

    def least_s(self, model: str, queries: int, most_cores: int) -> float:
        """Return the least seconds on at most so many cores; infinite if no count is so small."""
        return self._times.least_s(self._blocks[model, queries], most_cores)

    def start(self, model: str, query_ids: Sequence[int], most_cores: int, wanted_cores: int) -> Allocation:
        """Return the start of a block that serves these queries, on the best count of at most so many cores.

        It wants the best count of at most `wanted_cores`. Raises ValueError if no count is so small.
        """
        block = self._blocks[model, len(query_ids)]
        cores, wanted = (self._times.best_cores(block, most) for most in (most_cores, wanted_cores))
        if not cores:
            raise ValueError(
                f"{most_cores} cores for {block}: no count is so small; give {self.counts[0]} or more"
            )
        versions = self._times.versions(block, cores)
        whole = LayerBlock(model, 0, len(block))
        return Allocation(query_ids[0], whole, versions, cores, wanted, tuple(query_ids[1:]))

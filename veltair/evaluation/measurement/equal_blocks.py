"""A policy for measurements of the engine itself: blocks of equal size, and no idea behind them."""

from collections.abc import Sequence

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Answer, Context, Snapshot
from veltair.serving.policies.discipline import (
    Conflict,
    DropLate,
    Order,
    Proposal,
    QueueOptions,
    start_in_turn,
)
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule
from veltair.serving.policies.native_spec import DecisionKind, NativePolicySpec

_OPTIONS = QueueOptions(Order.FCFS, Conflict.WAIT, DropLate.NEVER)


class EqualBlocks:
    """Gives the oldest query some cores for its next layers, then the next oldest, while cores are free."""

    def __init__(self, context: Context, layers: int, cores: int) -> None:
        """Take the most layers of a block, and its cores: a count that can be granted."""
        self._tables = LatencyTables(context, VersionRule.SOLO_ALONE)
        self._models, self._layers, self._cores = context.models, layers, cores

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return the blocks that start now."""
        return start_in_turn(
            snapshot.pending,
            snapshot.free_cores,
            self._tables.counts,
            _OPTIONS.conflict,
            propose=lambda entry: self._block(entry.query.model, entry.next_layer),
            versions=lambda block, cores: self._tables.versions(block, 0, cores),
        )

    def native_spec(self) -> NativePolicySpec:
        """Return how it decides, as data."""
        return NativePolicySpec(
            DecisionKind.BLOCKS,
            self._tables,
            _OPTIONS,
            form=lambda model, first, _: self._block(model, first),
        )

    def _block(self, model: str, first: int) -> Proposal:
        stop = min(first + self._layers, len(self._models[model].layers))
        return Proposal(LayerBlock(model, first, stop), self._cores)

"""First come, first served, one whole model at a time on the cores that suit it best.

Source: the model-wise baseline of the published artifact of Liu et al., VELTAIR, ASPLOS 2022, without
co-location. "All" cores are those on which the model is fastest: tables are not monotone.

Paper: VELTAIR's artifact (Liu et al., ASPLOS 2022).
Unit: whole model.
Preemption: none.
Cores: one query at a time on those that suit it best.
Memory: not managed.
Versions: solo.
"""

from collections.abc import Sequence

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Allocation, Answer, Context, Snapshot
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions, admit
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule
from veltair.serving.policies.native_spec import DecisionKind, NativePolicySpec


class FcfsAll:
    """Nobody meets interference, nobody conflicts, and most cores work at their least efficient."""

    def __init__(self, context: Context, *, order: Order, drop_late: DropLate) -> None:
        self._options = QueueOptions(order, Conflict.WAIT, drop_late)
        self._tables = LatencyTables(context, VersionRule.SOLO_ALONE)
        self._models = context.models

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late, and the next query if none runs."""
        waiting, late = admit(
            snapshot,
            self._options,
            lambda entry: self._tables.least_remaining_s(entry.query.model, entry.next_layer, 0),
        )
        if snapshot.running or not waiting:
            return late
        entry = waiting[0]
        model = self._models[entry.query.model]
        block = LayerBlock(model.name, entry.next_layer, len(model.layers))
        cores = self._tables.best_cores(model.name, 0)
        return [*late, Allocation(entry.query.id, block, self._tables.versions(block, 0, cores), cores)]

    def native_spec(self) -> NativePolicySpec:
        """Return how it decides, as data."""
        return NativePolicySpec(DecisionKind.ALL_CORES, self._tables, self._options)

"""Blocks of a fixed number of layers.

Source: the published artifact of Liu et al., VELTAIR, ASPLOS 2022, whose code has blocks of 20 layers.
The policy is blind to interference: it reads the times of the solo versions alone.

Paper: VELTAIR's artifact (Liu et al., ASPLOS 2022).
Unit: block of a fixed number of layers.
Preemption: between blocks.
Cores: fewest within the block's budget.
Memory: not managed.
Versions: solo.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Answer, Context, Pending, Snapshot
from veltair.serving.policies.blocks import UNSCALED, BudgetRule, Budgets, BudgetShare, core_needs
from veltair.serving.policies.discipline import Proposal, QueueOptions, admit, start_in_turn
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule
from veltair.serving.policies.native_spec import DecisionKind, NativePolicySpec


class FixedBlocks:
    """Cuts each model every `layers` layers (any count above a model's: one block).

    A block's budget is the sum of its layers' budgets, its need the fewest cores within it.
    """

    def __init__(
        self,
        context: Context,
        options: QueueOptions,
        *,
        layers: Annotated[int, Field(ge=1)],
        alpha: BudgetShare,
        budgets: BudgetRule,
    ) -> None:
        if layers < 1:
            raise ValueError(f"layers is {layers}; give the length of a block, 1 or more")
        self._tables = LatencyTables(context, VersionRule.SOLO_ALONE)
        self._budgets = Budgets(context, alpha, budgets)
        self._layers = layers
        self._models = context.models
        self._options = options
        self._blocks = {
            (name, first, UNSCALED): self._block(name, first, UNSCALED)
            for name, model in context.models.items()
            for first in range(len(model.layers))
        }

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late and the blocks that start now."""
        waiting, late = admit(
            snapshot,
            self._options,
            lambda entry: self._tables.least_remaining_s(entry.query.model, entry.next_layer, 0),
        )
        starts = start_in_turn(
            waiting,
            snapshot.free_cores,
            self._tables.counts,
            self._options.conflict,
            propose=lambda entry: self._propose(entry, snapshot.time_s),
            versions=lambda block, cores: self._tables.versions(block, 0, cores),
        )
        return [*late, *starts]

    def native_spec(self) -> NativePolicySpec:
        """Return how it decides, as data."""
        return NativePolicySpec(
            DecisionKind.BLOCKS,
            self._tables,
            self._options,
            form=self._formed,
            budgets=self._budgets,
        )

    def _propose(self, entry: Pending, time_s: float) -> Proposal:
        query, first = entry.query, entry.next_layer
        return self._formed(query.model, first, self._budgets.step(query, first, time_s))

    def _formed(self, model: str, first: int, step: int) -> Proposal:
        key = (model, first, step)
        if key not in self._blocks:
            self._blocks[key] = self._block(*key)
        return self._blocks[key]

    def _block(self, model: str, first: int, step: int) -> Proposal:
        # A conflict may cut a block after its first layer: then the rest of it comes next.
        stop = min((first // self._layers + 1) * self._layers, len(self._models[model].layers))
        seconds = self._tables.seconds(model, 0)[first:stop].sum(axis=0)
        budget_s = self._budgets.of(model, step)[first:stop].sum()
        need = core_needs(seconds, budget_s, self._tables.counts)
        return Proposal(LayerBlock(model, first, stop), int(need))

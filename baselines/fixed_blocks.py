"""Blocks of a fixed number of layers.

Source: the published artifact of Liu et al., VELTAIR, ASPLOS 2022, whose code has blocks of 20 layers.
The policy is blind to interference: it reads the times of the solo versions alone.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from veltair.compiler.model import LayerBlock
from veltair.serving.blocks import BudgetShare, Reading, Timetables, core_needs, qos_budgets
from veltair.serving.discipline import Conflict, DropLate, Order, Proposal, admit, start_in_turn
from veltair.serving.policy import Answer, Context, Pending, Snapshot


class FixedBlocks:
    """Cuts each model every `layers` layers (any count above a model's: one block).

    A block's budget is the sum of its layers' shares of alpha x QoS, its need the fewest cores within it.
    """

    def __init__(
        self,
        context: Context,
        *,
        layers: Annotated[int, Field(ge=1)],
        alpha: BudgetShare,
        order: Order,
        conflict: Conflict,
        drop_late: DropLate,
    ) -> None:
        if layers < 1:
            raise ValueError(f"layers is {layers}; give the length of a block, 1 or more")
        self._tables = Timetables(context, Reading.SOLO_ALONE)
        self._order, self._conflict, self._drop_late = order, conflict, drop_late
        self._blocks: dict[tuple[str, int], Proposal] = {}
        for name, model in context.models.items():
            seconds, budgets = self._tables.seconds(name, 0), qos_budgets(model, context, alpha)
            # A conflict may cut a block after its first layer: then the rest of it comes next.
            for first in range(len(model.layers)):
                stop = min((first // layers + 1) * layers, len(model.layers))
                need = core_needs(
                    seconds[first:stop].sum(axis=0), budgets[first:stop].sum(), self._tables.counts
                )
                self._blocks[name, first] = Proposal(LayerBlock(name, first, stop), int(need))

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late and the blocks that start now."""
        waiting, late = admit(
            snapshot,
            self._order,
            self._drop_late,
            lambda entry: self._tables.least_remaining_s(entry.query.model, entry.next_layer, 0),
        )
        starts = start_in_turn(
            waiting,
            snapshot.free_cores,
            self._tables.counts,
            self._conflict,
            propose=self._propose,
            versions=lambda block, cores: self._tables.versions(block, 0, cores),
        )
        return [*late, *starts]

    def _propose(self, entry: Pending) -> Proposal:
        return self._blocks[entry.query.model, entry.next_layer]

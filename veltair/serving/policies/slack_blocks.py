"""Veltair-ELASTIC: cores by slack, blocks of a few layers, versions by price. Not a policy of the paper.

Source: ours. Under contention and dispatch cost it was the best of the plans that a prototype of the
simulator compared: it asks what the whole rest of a query needs, where budgets by layer ask what each
layer needs; it starts few blocks, as they have several layers; and it may ask again at each block end.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Answer, Context, Pending, Snapshot
from veltair.serving.policies.blocks import TOLERANCE, BudgetShare
from veltair.serving.policies.discipline import Conflict, DropLate, Order, Proposal, admit, start_in_turn
from veltair.serving.policies.growth import fill
from veltair.serving.policies.latency_tables import LatencyTables, VersionChoice
from veltair.serving.policies.native_spec import DecisionKind, NativePolicySpec


class VeltairElastic:
    """Runs `layers` layers at a time on the fewest cores that bring the whole query home in time.

    In time means: within alpha x the time to its deadline, at the current level. A query that no count can
    save asks for the count on which the rest of it is fastest.
    """

    def __init__(
        self,
        context: Context,
        *,
        layers: Annotated[int, Field(ge=1)],
        alpha: BudgetShare,
        growth: bool,
        versions: VersionChoice,
        order: Order,
        conflict: Conflict,
        drop_late: DropLate,
    ) -> None:
        self._tables = LatencyTables(context, versions.reading)
        self._alpha = alpha
        self._block_layers = layers
        self._grows = growth
        self._order, self._conflict, self._drop_late = order, conflict, drop_late
        self._blocks = {
            (name, first): LayerBlock(name, first, min(first + layers, len(model.layers)))
            for name, model in context.models.items()
            for first in range(len(model.layers))
        }

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late, the blocks that start now, and growth into what is left."""
        tables = self._tables
        level = tables.level(snapshot.pressure)
        waiting, late = admit(
            snapshot,
            self._order,
            self._drop_late,
            lambda entry: tables.least_remaining_s(entry.query.model, entry.next_layer, level),
        )
        starts = start_in_turn(
            waiting,
            snapshot.free_cores,
            tables.counts,
            self._conflict,
            propose=lambda entry: self._propose(entry, snapshot.time_s, level),
            versions=lambda block, cores: tables.versions(block, level, cores),
        )
        if not self._grows or len(starts) < len(waiting):
            return [*late, *starts]
        return [*late, *fill(snapshot, starts, tables, level)]

    def plan(self) -> NativePolicySpec:
        """Return how it decides, as data."""
        return NativePolicySpec(
            DecisionKind.SLACK_BLOCKS,
            self._tables,
            self._order,
            self._drop_late,
            self._conflict,
            grows=self._grows,
            alpha=self._alpha,
            block_layers=self._block_layers,
        )

    def _propose(self, entry: Pending, time_s: float, level: int) -> Proposal:
        query, first = entry.query, entry.next_layer
        bound_s = self._alpha * (query.deadline_s - time_s) * (1 + TOLERANCE)
        block, counts = self._blocks[query.model, first], self._tables.counts
        for count, left_s in zip(counts, self._tables.remaining_s(query.model, first, level), strict=True):
            if left_s <= bound_s:
                return Proposal(block, count)
        return Proposal(block, self._tables.best_cores(query.model, level, first))

"""Veltair's policies: adaptive scheduling (AS), adaptive compilation (AC), and both (FULL).

Source: Liu et al., VELTAIR, ASPLOS 2022.
"""

from collections.abc import Iterator, Sequence

from veltair.serving.blocks import BlockFormer, BudgetShare, Reading, Timetables
from veltair.serving.discipline import Conflict, DropLate, Order, Proposal, admit, start_in_turn
from veltair.serving.elastic import ElasticPolicy
from veltair.serving.policy import Answer, Context, Pending, Snapshot


class AdaptiveBlocks:
    """Runs layer blocks whose size follows the load: the shared part of AS and FULL.

    At each decision a waiting query's remaining layers are formed into blocks anew, under the current
    threshold and level; the first of them is what it asks cores for.
    """

    def __init__(
        self,
        context: Context,
        reading: Reading,
        *,
        alpha: BudgetShare,
        order: Order,
        conflict: Conflict,
        drop_late: DropLate,
    ) -> None:
        self._tables = Timetables(context, reading)
        self._former = BlockFormer(context, self._tables, alpha)
        self._order, self._conflict, self._drop_late = order, conflict, drop_late

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late and the blocks that start now."""
        tables = self._tables
        level = tables.level(snapshot.pressure)
        waiting, late = admit(
            snapshot,
            self._order,
            self._drop_late,
            lambda entry: tables.least_remaining_s(entry.query.model, entry.next_layer, level),
        )
        if not waiting or snapshot.free_cores < tables.counts[0]:
            return late
        limits = self._former.limits(_active_models(snapshot, waiting), level)

        def propose(entry: Pending) -> Proposal:
            model = entry.query.model
            return self._former.next_block(model, entry.next_layer, limits[model], level)

        starts = start_in_turn(
            waiting,
            snapshot.free_cores,
            tables.counts,
            self._conflict,
            propose=propose,
            versions=lambda block, cores: tables.versions(block, level, cores),
        )
        return [*late, *starts]


class VeltairAS(AdaptiveBlocks):
    """Adaptive blocks, each layer in its solo version."""

    def __init__(
        self, context: Context, *, alpha: BudgetShare, order: Order, conflict: Conflict, drop_late: DropLate
    ) -> None:
        super().__init__(
            context, Reading.SOLO_AT_LEVEL, alpha=alpha, order=order, conflict=conflict, drop_late=drop_late
        )


class VeltairAC(ElasticPolicy):
    """Elastic core shares on the tables of the current level, each layer in the version fastest there."""

    def __init__(self, context: Context, *, order: Order, conflict: Conflict, drop_late: DropLate) -> None:
        super().__init__(context, Reading.FASTEST_AT_LEVEL, order, conflict, drop_late)


class VeltairFULL(AdaptiveBlocks):
    """Adaptive blocks, each layer in the version fastest at the current level on the cores it gets."""

    def __init__(
        self, context: Context, *, alpha: BudgetShare, order: Order, conflict: Conflict, drop_late: DropLate
    ) -> None:
        super().__init__(
            context,
            Reading.FASTEST_AT_LEVEL,
            alpha=alpha,
            order=order,
            conflict=conflict,
            drop_late=drop_late,
        )


def _active_models(snapshot: Snapshot, waiting: Sequence[Pending]) -> Iterator[str]:
    for running in snapshot.running:
        yield running.query.model
    for entry in waiting:
        yield entry.query.model

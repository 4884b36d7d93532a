"""Veltair's policies: adaptive scheduling (AS), adaptive compilation (AC), and both (FULL).

Source: Liu et al., VELTAIR, ASPLOS 2022. Slack feedback, coalescing, growth and priced versions are options
that go beyond it; preset `paper` has none of them.

Paper: VELTAIR (Liu et al., ASPLOS 2022).
Memory: pressure chooses times or versions.
"""

from collections.abc import Iterator, Sequence

from veltair.serving.loop.policy import Allocation, Answer, Context, Pending, Snapshot
from veltair.serving.policies.blocks import BlockFormer, BlockOptions, Budgets
from veltair.serving.policies.discipline import DropLate, Proposal, QueueOptions, admit, start_in_turn
from veltair.serving.policies.elastic import ElasticPolicy
from veltair.serving.policies.growth import fill
from veltair.serving.policies.latency_tables import AdaptiveRule, FixedVersion, LatencyTables, VersionRule
from veltair.serving.policies.native_spec import DecisionKind, NativePolicySpec


class AdaptiveBlocks:
    """Runs layer blocks whose size follows the load: the shared part of AS and FULL.

    At each decision a waiting query's remaining layers are formed into blocks anew, under the current
    threshold, level and budgets; the first of them is what it asks cores for.
    """

    def __init__(self, context: Context, options: BlockOptions, rule: VersionRule | FixedVersion) -> None:
        self._options = options
        self._tables = LatencyTables(context, rule)
        self._budgets = Budgets(context, options.alpha, options.budgets, options.budget_basis)
        self._former = BlockFormer(
            context,
            self._tables,
            self._budgets,
            coalesce_layers=options.coalesce_layers,
            threshold=options.threshold,
        )

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late, the blocks that start now, and growth into what is left."""
        tables = self._tables
        if snapshot.free_cores < tables.counts[0] and self._options.drop_late is DropLate.NEVER:
            return ()
        level = tables.level(snapshot.pressure)
        waiting, late = admit(
            snapshot,
            self._options,
            lambda entry: tables.least_remaining_s(entry.query.model, entry.next_layer, level),
        )
        starts = self._starts(snapshot, waiting, level)
        if not self._options.growth or len(starts) < len(waiting):
            return [*late, *starts] if late else starts
        return [*late, *fill(snapshot, starts, tables, level)]

    def native_spec(self) -> NativePolicySpec:
        """Return how it decides, as data."""
        return NativePolicySpec(
            DecisionKind.BLOCKS,
            self._tables,
            self._options,
            former=self._former,
            budgets=self._budgets,
            grows=self._options.growth,
        )

    def _starts(self, snapshot: Snapshot, waiting: Sequence[Pending], level: int) -> list[Allocation]:
        tables, former, budgets = self._tables, self._former, self._budgets
        if not waiting or snapshot.free_cores < tables.counts[0]:
            return []
        counted = waiting if former.counts_waiting else ()
        total_average = former.total_average(_active_models(snapshot, counted), level)

        def propose(entry: Pending) -> Proposal:
            query, first = entry.query, entry.next_layer
            limit = former.limit(query.model, total_average, level)
            step = budgets.step(query, first, snapshot.time_s)
            return former.next_block(query.model, first, limit, level, step)

        return start_in_turn(
            waiting,
            snapshot.free_cores,
            tables.counts,
            self._options.conflict,
            propose=propose,
            versions=lambda block, cores: tables.versions(block, level, cores),
        )


class VeltairAS(AdaptiveBlocks):
    """Adaptive blocks, each layer in its solo version.

    Unit: block whose size follows the load.
    Preemption: between blocks.
    Cores: fewest within the block's budget.
    Versions: solo, its times at the current pressure.
    """

    def __init__(self, context: Context, options: BlockOptions) -> None:
        super().__init__(context, options, VersionRule.SOLO_AT_LEVEL)


class VeltairAC(ElasticPolicy):
    """Elastic core shares on the tables of the current level, each layer in a version chosen for it.

    Unit: whole model, resized at layer ends.
    Preemption: shrinks at layer ends, to one core unit at least.
    Cores: shares by slack and time left.
    Versions: chosen for the current pressure and the cores given.
    """

    def __init__(self, context: Context, options: QueueOptions, *, versions: AdaptiveRule) -> None:
        super().__init__(context, options, versions)


class VeltairFULL(AdaptiveBlocks):
    """Adaptive blocks, each layer in a version chosen for the current level and the cores it gets.

    Unit: block whose size follows the load.
    Preemption: between blocks.
    Cores: fewest within the block's budget.
    Versions: chosen for the current pressure and the cores given.
    """

    def __init__(self, context: Context, options: BlockOptions, *, versions: AdaptiveRule) -> None:
        super().__init__(context, options, versions)


def _active_models(snapshot: Snapshot, waiting: Sequence[Pending]) -> Iterator[str]:
    for running in snapshot.running:
        yield running.query.model
    for entry in waiting:
        yield entry.query.model

"""Elastic core shares: each query runs all its layers as one block whose cores follow the others' slack.

Source: Ghodrati et al., Planaria, MICRO 2020, and its public scheduler, as a port to the cores of one CPU
with priority 1 for all. The port: shares take effect at layer ends; a running query keeps at least one core
unit (it cannot be suspended inside a block); no query gets spare cores above the count on which its model is
fastest; shares are rounded to core units by largest remainder.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import compress

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Allocation, Answer, Context, Resize, Running, Snapshot
from veltair.serving.policies.core_shares import Shares, ShareTables, share_tables
from veltair.serving.policies.discipline import Conflict, QueueOptions, admit, round_down
from veltair.serving.policies.growth import busy, pressure_on
from veltair.serving.policies.latency_tables import FixedVersion, LatencyTables, VersionRule
from veltair.serving.policies.native_shares import make_shares
from veltair.serving.policies.native_spec import DecisionKind, NativePolicySpec
from veltair.serving.policies.waiting_columns import WaitingColumns


class ElasticPolicy:
    """Shares the cores out anew at each arrival and completion; its version rule says which times it knows.

    A waiting query starts as soon as min(share, need) cores are free (`wait`, `backfill`: shares fit
    together, so nobody has to hold others back), or on any free core unit (`shrink`, `shrink_one_layer`: it
    grows at layer ends). A query with a share of 0 waits. Growth takes free cores only, so it may come in
    steps. `share` makes what shares the cores out, of the tables: Planaria's rule, in C, unless it is given.
    """

    def __init__(
        self,
        context: Context,
        options: QueueOptions,
        rule: VersionRule | FixedVersion,
        share: Callable[[ShareTables], Shares] | None = None,
    ) -> None:
        self._models = context.models
        self._tables = LatencyTables(context, rule)
        self._options = options
        self._shrinks = options.conflict in (Conflict.SHRINK, Conflict.SHRINK_ONE_LAYER)
        tables = share_tables(self._tables, context.models, context.machine.cores)
        self._first_rows, self._core_shares = tables.first_rows, (share or make_shares)(tables)
        self._is_native = share is None
        self._waiting_columns = WaitingColumns(tables.first_rows)
        self._known: set[int] = set()
        self._shares: dict[int, tuple[int, int]] = {}

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return starts on free cores, then resizes towards the shares."""
        level = self._tables.level(snapshot.pressure)
        waiting, late = admit(
            snapshot,
            self._options,
            lambda entry: self._tables.least_remaining_s(entry.query.model, entry.next_layer, level),
        )
        self._waiting_columns.update(waiting)
        self._share_out(snapshot, level)
        starts = list(self._starts(snapshot, level))
        free_cores = snapshot.free_cores - sum(start.cores for start in starts)
        return [*late, *starts, *self._resizes(snapshot, free_cores)]

    def native_spec(self) -> NativePolicySpec | None:
        """Return how it decides, as data; None where it shares cores out by another rule than C knows."""
        if not self._is_native:
            return None
        return NativePolicySpec(DecisionKind.SHARES, self._tables, self._options)

    def renew(self) -> None:
        """Make the shares anew at the next decision, though nobody comes or goes."""
        self._known = set()

    def _share_out(self, snapshot: Snapshot, level: int) -> None:
        """Renew the shares and needs of all queries if one came or went since they were made."""
        running, waiting_columns = snapshot.running, self._waiting_columns
        ids = [entry.query.id for entry in running] + waiting_columns.ids
        known = set(ids)
        if not ids or known == self._known:
            return
        first_rows = self._first_rows
        deadlines_s = array("d", [entry.query.deadline_s for entry in running])
        rows = [
            first_rows[entry.query.model] + entry.block.start + _ended(snapshot, entry) for entry in running
        ]
        shares, needs = self._core_shares(
            deadlines_s + waiting_columns.deadlines_s,
            array("i", rows) + waiting_columns.rows,
            snapshot.time_s,
            level,
        )
        self._known = known
        granted = compress(range(len(ids)), shares)
        self._shares = {ids[index]: (shares[index], needs[index]) for index in granted}

    def _starts(self, snapshot: Snapshot, level: int) -> Iterator[Allocation]:
        counts, free_cores = self._tables.counts, snapshot.free_cores
        if free_cores < counts[0]:
            return
        for entry in self._waiting_columns.among(self._shares):
            if free_cores < counts[0]:
                return
            share, need = self._shares[entry.query.id]
            wanted = round_down(min(share, need) if need else share, counts)
            if wanted > free_cores and not self._shrinks:
                continue
            cores = round_down(min(share, free_cores), counts)
            model = self._models[entry.query.model]
            block = LayerBlock(model.name, entry.next_layer, len(model.layers))
            versions = self._tables.versions(block, level, cores)
            yield Allocation(entry.query.id, block, versions, cores, wanted)
            self._waiting_columns.remove(entry.query.id)
            free_cores -= cores

    def _resizes(self, snapshot: Snapshot, free_cores: int) -> Iterator[Resize]:
        counts, busy_cores = self._tables.counts, busy(snapshot)
        for running in snapshot.running:
            if _ended(snapshot, running) >= len(running.block) - 1:
                continue  # in its last layer a resize has no effect, and would only keep cores from others
            share, _ = self._shares.get(running.query.id, (counts[0], 0))
            cores = round_down(min(share, running.reserved_cores + free_cores), counts)
            if running.target_cores > running.cores:
                # Growth under way may already be real on the cores: it is not taken back, only extended.
                cores = max(cores, running.target_cores)
            level = self._tables.level(pressure_on(running, snapshot.pressure, busy_cores))
            versions = self._tables.versions(running.block, level, cores)
            if cores == running.target_cores and versions == running.versions:
                continue
            free_cores -= max(running.cores, cores) - running.reserved_cores
            yield Resize(running.query.id, cores, None if versions == running.versions else versions)


def _ended(snapshot: Snapshot, running: Running) -> int:
    """Return how many layers of a running block have ended."""
    return snapshot.progress.get(running.query.id, 0)

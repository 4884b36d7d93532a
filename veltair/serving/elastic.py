"""Elastic core shares: each query runs all its layers as one block whose cores follow the others' slack.

Source: Ghodrati et al., Planaria, MICRO 2020, and its public scheduler, as a port to the cores of one CPU
with priority 1 for all. The port: shares take effect at layer ends; a running query keeps at least one core
unit (it cannot be suspended inside a block); no query gets spare cores above the count on which its model is
fastest; shares are rounded to core units by largest remainder.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from veltair.compiler.model import LayerBlock
from veltair.serving.blocks import TOLERANCE, Reading, Timetables
from veltair.serving.discipline import Conflict, DropLate, Order, admit, round_down
from veltair.serving.policy import Allocation, Answer, Context, Pending, Resize, Running, Snapshot

Shares = NDArray[np.int64]
Numbers = NDArray[np.float64]


class ElasticPolicy:
    """Shares the cores out anew at each arrival and completion; its reading says which times it knows.

    A waiting query starts as soon as min(share, need) cores are free (`wait`, `backfill`: shares fit
    together, so nobody has to hold others back), or on any free core unit (`shrink`, `shrink_one_layer`: it
    grows at layer ends). A query with a share of 0 waits. Growth takes free cores only, so it may come in
    steps.
    """

    def __init__(
        self, context: Context, reading: Reading, order: Order, conflict: Conflict, drop_late: DropLate
    ) -> None:
        self._models = context.models
        self._cores = context.machine.cores
        self._tables = Timetables(context, reading)
        self._order, self._drop_late = order, drop_late
        self._shrinks = conflict in (Conflict.SHRINK, Conflict.SHRINK_ONE_LAYER)
        self._shares: dict[int, tuple[int, int]] = {}

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return starts on free cores, then resizes towards the shares."""
        level = self._tables.level(snapshot.pressure)
        waiting, late = admit(
            snapshot,
            self._order,
            self._drop_late,
            lambda entry: self._tables.least_remaining_s(entry.query.model, entry.next_layer, level),
        )
        self._share_out(snapshot, waiting, level)
        starts = list(self._starts(snapshot, waiting, level))
        free_cores = snapshot.free_cores - sum(start.cores for start in starts)
        return [*late, *starts, *self._resizes(snapshot, free_cores)]

    def _share_out(self, snapshot: Snapshot, waiting: Sequence[Pending], level: int) -> None:
        """Renew the shares and needs of all queries if one came or went since they were made."""
        queries = [running.query for running in snapshot.running] + [entry.query for entry in waiting]
        if not queries or self._shares.keys() == {query.id for query in queries}:
            return
        first = [running.block.start + _ended(snapshot, running) for running in snapshot.running]
        first += [entry.next_layer for entry in waiting]
        remaining_s = np.stack(
            [
                self._tables.remaining_s(query.model, level)[layer]
                for query, layer in zip(queries, first, strict=True)
            ]
        )
        slack_s = np.array([query.deadline_s for query in queries]) - snapshot.time_s
        best = {model: self._tables.best_cores(model, level) for model in self._models}
        best_cores = np.array([best[query.model] for query in queries])
        shares, needs = core_shares(slack_s, remaining_s, best_cores, self._tables.counts, self._cores)
        pairs = zip(shares.tolist(), needs.tolist(), strict=True)
        self._shares = dict(zip((query.id for query in queries), pairs, strict=True))

    def _starts(self, snapshot: Snapshot, waiting: Sequence[Pending], level: int) -> Iterator[Allocation]:
        counts, free_cores = self._tables.counts, snapshot.free_cores
        for entry in waiting:
            if free_cores < counts[0]:
                return
            share, need = self._shares[entry.query.id]
            wanted = round_down(min(share, need) if need else share, counts)
            if not wanted or (wanted > free_cores and not self._shrinks):
                continue
            cores = round_down(min(share, free_cores), counts)
            model = self._models[entry.query.model]
            block = LayerBlock(model.name, entry.next_layer, len(model.layers))
            versions = self._tables.versions(block, level, cores)
            yield Allocation(entry.query.id, block, versions, cores, wanted)
            free_cores -= cores

    def _resizes(self, snapshot: Snapshot, free_cores: int) -> Iterator[Resize]:
        counts = self._tables.counts
        for running in snapshot.running:
            if _ended(snapshot, running) >= len(running.block) - 1:
                continue  # in its last layer a resize has no effect, and would only keep cores from others
            share = max(self._shares[running.query.id][0], counts[0])
            cores = round_down(min(share, running.reserved_cores + free_cores), counts)
            if running.target_cores > running.cores:
                # Growth under way may already be real on the cores: it is not taken back, only extended.
                cores = max(cores, running.target_cores)
            level = self._tables.level(pressure_on(running, snapshot))
            versions = self._tables.versions(running.block, level, cores)
            if cores == running.target_cores and versions == running.versions:
                continue
            free_cores -= max(running.cores, cores) - running.reserved_cores
            yield Resize(running.query.id, cores, None if versions == running.versions else versions)


def pressure_on(running: Running, snapshot: Snapshot) -> float:
    """Return the pressure in [0, 1] that a running block meets.

    The snapshot's pressure is what a new block would meet from all that runs, this block included. Its own
    part of that is taken to be its part of the busy cores: a block that runs alone meets none.
    """
    busy = sum(other.cores for other in snapshot.running)
    return snapshot.pressure * (busy - running.cores) / busy


def core_shares(
    slack_s: Numbers, remaining_s: Numbers, best_cores: Shares, counts: Sequence[int], cores: int
) -> tuple[Shares, Shares]:
    """Return each query's share of the cores, and the fewest cores on which it meets its deadline (0: none).

    `slack_s` and `best_cores` (the count on which its model is fastest) have shape (queries,), `remaining_s`
    has shape (queries, core counts); `counts` ascend. Shares are multiples of the smallest count and add up
    to at most `cores`. If all needs fit, each query gets its own and the spare goes by 1 / time left. If they
    do not, needs are met by 1 / (slack x need), the doomed last. If all are doomed, they share by
    1 / time left.
    """
    within = remaining_s <= slack_s[:, None] * (1 + TOLERANCE)
    feasible, fewest = within.any(axis=1), within.argmax(axis=1)
    needs = np.where(feasible, np.asarray(counts)[fewest], 0)
    step, units = counts[0], cores // counts[0]
    need_units = -(-needs // step)
    room = np.maximum(best_cores // step, need_units)
    if feasible.all() and need_units.sum() <= units:
        urgency = 1 / remaining_s[np.arange(len(needs)), fewest]
        given = need_units + apportion(units - int(need_units.sum()), urgency, room - need_units)
    elif feasible.any():
        urgency = np.where(feasible, 1 / np.where(feasible, slack_s * needs, 1), 0)
        given = _by_urgency(units, need_units, urgency, room)
    else:
        given = apportion(units, 1 / remaining_s[:, -1], room)
    return given * step, needs


def apportion(units: int, weights: Numbers, room: Shares) -> Shares:
    """Return whole units shared out in proportion to weights, by largest remainder, none above its room.

    What does not fit in one's room goes to the others; ties go to the first. Weight 0 gets nothing.
    """
    given = np.zeros(len(weights), dtype=np.int64)
    while (left := units - int(given.sum())) > 0:
        open_weights = np.where(given < room, weights, 0.0)
        if not open_weights.any():
            break
        quota = left * open_weights / open_weights.sum()
        whole = np.floor(quota + TOLERANCE).astype(np.int64)
        largest = np.argsort(whole - quota, kind="stable")[: max(left - int(whole.sum()), 0)]
        whole[largest] += 1
        given = np.minimum(given + whole, np.maximum(room, given))
    return given


def _by_urgency(units: int, need_units: Shares, urgency: Numbers, room: Shares) -> Shares:
    """Return needs met from the most urgent down; then the spare by urgency, and the rest equally."""
    turn = np.argsort(-urgency, kind="stable")
    queue = need_units[turn]
    given = np.zeros_like(need_units)
    given[turn] = np.clip(units - (np.cumsum(queue) - queue), 0, queue)
    for weights in (urgency, np.ones_like(urgency)):
        given += apportion(units - int(given.sum()), weights, room - given)
    return given


def _ended(snapshot: Snapshot, running: Running) -> int:
    """Return how many layers of a running block have ended."""
    return snapshot.progress.get(running.query.id, 0)

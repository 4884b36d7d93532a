"""Elastic core shares: each query runs all its layers as one block whose cores follow the others' slack.

Source: Ghodrati et al., Planaria, MICRO 2020, and its public scheduler, as a port to the cores of one CPU
with priority 1 for all. The port: shares take effect at layer ends; a running query keeps at least one core
unit (it cannot be suspended inside a block); no query gets spare cores above the count on which its model is
fastest; shares are rounded to core units by largest remainder.
"""

from collections.abc import Iterator, Sequence
from math import floor

from veltair.compiler.model import LayerBlock
from veltair.serving.blocks import TOLERANCE
from veltair.serving.discipline import Conflict, DropLate, Order, admit, round_down
from veltair.serving.growth import busy, pressure_on
from veltair.serving.plans import Asks, Plan
from veltair.serving.policy import Allocation, Answer, Context, Pending, Resize, Running, Snapshot
from veltair.serving.timetables import FixedVersion, Reading, Row, Timetables


class ElasticPolicy:
    """Shares the cores out anew at each arrival and completion; its reading says which times it knows.

    A waiting query starts as soon as min(share, need) cores are free (`wait`, `backfill`: shares fit
    together, so nobody has to hold others back), or on any free core unit (`shrink`, `shrink_one_layer`: it
    grows at layer ends). A query with a share of 0 waits. Growth takes free cores only, so it may come in
    steps.
    """

    def __init__(
        self,
        context: Context,
        reading: Reading | FixedVersion,
        order: Order,
        conflict: Conflict,
        drop_late: DropLate,
    ) -> None:
        self._models = context.models
        self._cores = context.machine.cores
        self._tables = Timetables(context, reading)
        self._order, self._conflict, self._drop_late = order, conflict, drop_late
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

    def plan(self) -> Plan:
        """Return how it decides, as data."""
        return Plan(Asks.SHARES, self._tables, self._order, self._drop_late, self._conflict)

    def _share_out(self, snapshot: Snapshot, waiting: Sequence[Pending], level: int) -> None:
        """Renew the shares and needs of all queries if one came or went since they were made."""
        queries = [running.query for running in snapshot.running] + [entry.query for entry in waiting]
        if not queries or self._shares.keys() == {query.id for query in queries}:
            return
        first = [running.block.start + _ended(snapshot, running) for running in snapshot.running]
        first += [entry.next_layer for entry in waiting]
        tables = self._tables
        shares, needs = core_shares(
            [query.deadline_s - snapshot.time_s for query in queries],
            [
                tables.remaining_s(query.model, layer, level)
                for query, layer in zip(queries, first, strict=True)
            ],
            [tables.best_cores(query.model, level) for query in queries],
            tables.counts,
            self._cores,
        )
        pairs = zip(shares, needs, strict=True)
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
        counts, busy_cores = self._tables.counts, busy(snapshot)
        for running in snapshot.running:
            if _ended(snapshot, running) >= len(running.block) - 1:
                continue  # in its last layer a resize has no effect, and would only keep cores from others
            share = max(self._shares[running.query.id][0], counts[0])
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


def core_shares(
    slack_s: Sequence[float],
    remaining_s: Sequence[Row],
    best_cores: Sequence[int],
    counts: Sequence[int],
    cores: int,
) -> tuple[list[int], list[int]]:
    """Return each query's share of the cores, and the fewest cores on which it meets its deadline (0: none).

    All have an entry a query: `slack_s` to its deadline, `remaining_s` by core count, `best_cores` (the count
    on which its model is fastest); `counts` ascend. Shares are multiples of the smallest count and add up to
    at most `cores`. If all needs fit, each query gets its own and the spare goes by 1 / time left. If they
    do not, needs are met by 1 / (slack x need), the doomed last. If all are doomed, they share by
    1 / time left. A query whose last layer has ended while word of that is on its way has nothing left
    to share cores for: its share and need are 0, and it does not make the others' needs fit or not.
    """
    at_work = [place for place, row in enumerate(remaining_s) if row[-1] > 0]
    if len(at_work) < len(remaining_s):
        rest = core_shares(
            [slack_s[place] for place in at_work],
            [remaining_s[place] for place in at_work],
            [best_cores[place] for place in at_work],
            counts,
            cores,
        )
        of_all = [dict(zip(at_work, values, strict=True)) for values in rest]
        shares, needs = ([values.get(place, 0) for place in range(len(remaining_s))] for values in of_all)
        return shares, needs
    needs = [_fewest(row, slack, counts) for row, slack in zip(remaining_s, slack_s, strict=True)]
    step, units = counts[0], cores // counts[0]
    need_units = [-(-need // step) for need in needs]
    room = [max(best // step, need) for best, need in zip(best_cores, need_units, strict=True)]
    if all(needs) and sum(need_units) <= units:
        urgency = [1 / row[counts.index(need)] for row, need in zip(remaining_s, needs, strict=True)]
        spare_room = [most - need for most, need in zip(room, need_units, strict=True)]
        spare = apportion(units - sum(need_units), urgency, spare_room)
        given = [need + more for need, more in zip(need_units, spare, strict=True)]
    elif any(needs):
        urgency = [_urgency(slack, need) for slack, need in zip(slack_s, needs, strict=True)]
        given = _by_urgency(units, need_units, urgency, room)
    else:
        given = apportion(units, [1 / row[-1] for row in remaining_s], room)
    return [share * step for share in given], needs


def apportion(units: int, weights: Sequence[float], room: Sequence[int]) -> list[int]:
    """Return whole units shared out in proportion to weights, by largest remainder, none above its room.

    What does not fit in one's room goes to the others; ties go to the first. Weight 0 gets nothing.
    """
    given = [0] * len(weights)
    while (left := units - sum(given)) > 0:
        open_weights = [
            weight if has < most else 0.0 for weight, has, most in zip(weights, given, room, strict=True)
        ]
        total = sum(open_weights)
        if total == 0:
            break
        quota = [left * weight / total for weight in open_weights]
        whole = [floor(part + TOLERANCE) for part in quota]
        by_remainder = sorted(range(len(quota)), key=lambda place: whole[place] - quota[place])
        for place in by_remainder[: max(left - sum(whole), 0)]:
            whole[place] += 1
        given = [min(has + more, max(most, has)) for has, more, most in zip(given, whole, room, strict=True)]
    return given


def _fewest(remaining_s: Row, slack_s: float, counts: Sequence[int]) -> int:
    """Return the fewest cores whose time is within the slack, 0 if there are none."""
    bound_s = slack_s * (1 + TOLERANCE)
    for count, time_s in zip(counts, remaining_s, strict=True):
        if time_s <= bound_s:
            return count
    return 0


def _urgency(slack_s: float, need: int) -> float:
    return 1 / (slack_s * need) if need else 0.0


def _by_urgency(
    units: int, need_units: Sequence[int], urgency: Sequence[float], room: Sequence[int]
) -> list[int]:
    """Return needs met from the most urgent down; then the spare by urgency, and the rest equally."""
    left, given = units, [0] * len(need_units)
    for place in sorted(range(len(urgency)), key=lambda place: -urgency[place]):
        given[place] = min(need_units[place], left)
        left -= given[place]
    for weights in (urgency, [1.0] * len(urgency)):
        spare_room = [most - has for most, has in zip(room, given, strict=True)]
        spare = apportion(units - sum(given), weights, spare_room)
        given = [has + more for has, more in zip(given, spare, strict=True)]
    return given


def _ended(snapshot: Snapshot, running: Running) -> int:
    """Return how many layers of a running block have ended."""
    return snapshot.progress.get(running.query.id, 0)

"""Core shares in proportion to urgency: the rule of `elastic.py`, and the oracle of `core_shares.h`.

Source: Ghodrati et al., Planaria, MICRO 2020, and its public scheduler; `elastic.py` says what the port
changes.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Protocol

from veltair.compiler.frontend.model import Model
from veltair.serving.policies.blocks import TOLERANCE
from veltair.serving.policies.latency_tables import LatencyTables, Row


@dataclass(frozen=True, slots=True)
class ShareTables:
    """The parts of latency tables that sharing cores out reads, by level and row, and what there is to share.

    A model has a row for each of its layers, and one for its end: row `first_rows[model] + layer` says what a
    query still takes whose next layer that is. Raises ValueError if levels differ in rows.
    """

    first_rows: Mapping[str, int]
    remaining_s: Sequence[Sequence[Row]]
    best_cores: Sequence[Sequence[int]]
    counts: Sequence[int]
    cores: int

    def __post_init__(self) -> None:
        rows = [len(level) for level in (*self.remaining_s, *self.best_cores)]
        if len(set(rows)) != 1 or len(self.remaining_s) != len(self.best_cores):
            raise ValueError(f"ShareTables: levels of {rows} rows; give both tables all rows at all levels")


def share_tables(tables: LatencyTables, models: Mapping[str, Model], cores: int) -> ShareTables:
    """Return the tables of models on a machine of so many cores."""
    rows = [(name, layer) for name, model in models.items() for layer in range(len(model.layers) + 1)]
    levels = tables.levels()
    return ShareTables(
        first_rows={name: row for row, (name, layer) in enumerate(rows) if layer == 0},
        remaining_s=[[tables.remaining_s(*row, level) for row in rows] for level in levels],
        best_cores=[[tables.best_cores(name, level) for name, _ in rows] for level in levels],
        counts=tables.counts,
        cores=cores,
    )


class Shares(Protocol):
    """What shares cores out: in C (`native_shares.py`), or in Python where there is no gcc."""

    def __call__(
        self, deadlines_s: "array[float]", rows: "array[int]", time_s: float, level: int
    ) -> tuple[list[int], list[int]]:
        """Return the shares and needs of queries that are at these rows, as `core_shares` does."""


class PythonShares:
    """Shares cores out in Python."""

    def __init__(self, tables: ShareTables) -> None:
        self._tables = tables

    def __call__(
        self, deadlines_s: "array[float]", rows: "array[int]", time_s: float, level: int
    ) -> tuple[list[int], list[int]]:
        """Return the shares and needs of queries that are at these rows, as `core_shares` does."""
        remaining_s, best_cores = self._tables.remaining_s[level], self._tables.best_cores[level]
        return core_shares(
            [deadline_s - time_s for deadline_s in deadlines_s],
            [remaining_s[row] for row in rows],
            [best_cores[row] for row in rows],
            self._tables.counts,
            self._tables.cores,
        )


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
    at_work = [index for index, row in enumerate(remaining_s) if row[-1] > 0]
    if len(at_work) < len(remaining_s):
        rest = core_shares(
            [slack_s[index] for index in at_work],
            [remaining_s[index] for index in at_work],
            [best_cores[index] for index in at_work],
            counts,
            cores,
        )
        of_all = [dict(zip(at_work, values, strict=True)) for values in rest]
        shares, needs = ([values.get(index, 0) for index in range(len(remaining_s))] for values in of_all)
        return shares, needs
    needs = [fewest_cores(row, slack, counts) for row, slack in zip(remaining_s, slack_s, strict=True)]
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
        # Not sum(): from Python 3.12 on that compensates for rounding, and C gives what 3.11 does.
        total = 0.0
        for weight in open_weights:
            total += weight
        if total == 0:
            break
        quota = [left * weight / total for weight in open_weights]
        whole = [floor(part + TOLERANCE) for part in quota]
        by_remainder = sorted(range(len(quota)), key=lambda index: whole[index] - quota[index])
        for index in by_remainder[: max(left - sum(whole), 0)]:
            whole[index] += 1
        given = [min(has + more, max(most, has)) for has, more, most in zip(given, whole, room, strict=True)]
    return given


def fewest_cores(remaining_s: Row, slack_s: float, counts: Sequence[int]) -> int:
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
    for index in sorted(range(len(urgency)), key=lambda index: -urgency[index]):
        given[index] = min(need_units[index], left)
        left -= given[index]
    for weights in (urgency, [1.0] * len(urgency)):
        spare_room = [most - has for most, has in zip(room, given, strict=True)]
        spare = apportion(units - sum(given), weights, spare_room)
        given = [has + more for has, more in zip(given, spare, strict=True)]
    return given

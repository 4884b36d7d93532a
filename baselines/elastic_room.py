"""Strong priority with capped kernels: who comes next runs in the room that is left, in versions made for it.

After ElasticRoom, whose kernels are compiled for a cap on the resources that they may take, so that a task
of low priority fits beside one of high priority instead of waiting for it or slowing it down. Faithful: the
first in priority gets all that it needs, the next what it needs of the rest, and so on; each runs in the
versions that are fastest under its cap; who runs shrinks at once, here at a layer end, when somebody of
higher priority needs the room, and takes it again afterwards.

The port, of which little more than the idea is the paper's: caps are counts of cores, and the version of a
layer is the one that is fastest alone on its cap, of those that were built for cores and cache, not for
caps; interference is not looked at. All models have one priority, so the nearest deadline comes first,
those that no count can save last. As in `ElasticPolicy`, a running query keeps one core unit, growth takes
free cores only, and nobody gets more cores than suit its model best.

Paper: ElasticRoom (Ma et al., HPDC 2024), as far as its abstract says.
Unit: whole model, resized at layer ends.
Preemption: shrinks at layer ends, to one core unit at least.
Cores: needs, the nearest deadline first; then what is left.
Memory: not managed.
Versions: fastest alone on the cores given.
"""

from array import array
from collections.abc import Sequence

from veltair.serving.loop.policy import Context
from veltair.serving.policies.core_shares import ShareTables, fewest_cores
from veltair.serving.policies.discipline import QueueOptions
from veltair.serving.policies.elastic import ElasticPolicy
from veltair.serving.policies.latency_tables import VersionRule


class ElasticRoom(ElasticPolicy):
    """Elastic shares by strong priority, in versions chosen by the cores that a query gets."""

    def __init__(self, context: Context, options: QueueOptions) -> None:
        super().__init__(context, options, VersionRule.FASTEST_ALONE, PriorityShares)


class PriorityShares:
    """Shares cores out by priority: the nearest deadline first, who cannot meet his last."""

    def __init__(self, tables: ShareTables) -> None:
        self._tables = tables

    def __call__(
        self, deadlines_s: "array[float]", rows: "array[int]", time_s: float, level: int
    ) -> tuple[list[int], list[int]]:
        """Return the shares and needs of queries that are at these rows, as `core_shares` does."""
        remaining_s, best = self._tables.remaining_s[level], self._tables.best_cores[level]
        needs = [
            fewest_cores(remaining_s[row], deadline_s - time_s, self._tables.counts)
            if remaining_s[row][-1] > 0
            else 0
            for deadline_s, row in zip(deadlines_s, rows, strict=True)
        ]
        room = [
            max(best[row], need) if remaining_s[row][-1] > 0 else 0
            for row, need in zip(rows, needs, strict=True)
        ]
        turns = sorted(range(len(rows)), key=lambda index: (needs[index] == 0, deadlines_s[index]))
        return shares_by_turns(turns, needs, room, self._tables.counts[0], self._tables.cores), needs


def shares_by_turns(
    turns: Sequence[int], needs: Sequence[int], room: Sequence[int], step: int, cores: int
) -> list[int]:
    """Return the share of each: its need as far as there is room when its turn comes, then what is left over.

    What is left goes by turns again, to none more than its `room`. Shares are multiples of `step`.
    """
    shares, left = [0] * len(needs), cores // step * step
    for wanted in (needs, room):
        for index in turns:
            more = min(-(-max(wanted[index] - shares[index], 0) // step) * step, left)
            shares[index] += more
            left -= more
    return shares

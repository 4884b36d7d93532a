"""Slices: parts of the machine's cores that serve one block at a time each.

What instances with threads of their own and partitions of a machine have in common. The contract gives cores
by their number, so a slice is a number of cores; which ones they are, the placement chooses block by block.
"""

from collections.abc import Callable, Iterable, Sequence

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Allocation, Context, Pending
from veltair.serving.policies.blocks import TOLERANCE
from veltair.serving.policies.discipline import round_down
from veltair.serving.policies.latency_tables import LatencyTables


class SliceTimes:
    """What layers take on at most so many cores: on the count that suits them best, at level 0."""

    def __init__(self, tables: LatencyTables) -> None:
        self._tables = tables
        self._best: dict[tuple[LayerBlock, int], tuple[float, int]] = {}

    def least_s(self, block: LayerBlock, most_cores: int) -> float:
        """Return the least seconds of a block on at most so many cores; infinite if no count is so small."""
        return self._found(block, most_cores)[0]

    def best_cores(self, block: LayerBlock, most_cores: int) -> int:
        """Return the count of at most so many cores on which a block is fastest; 0 if none is so small."""
        return self._found(block, most_cores)[1]

    def versions(self, block: LayerBlock, cores: int) -> tuple[int, ...]:
        """Return the version of each layer of a block on one of the core counts."""
        return self._tables.versions(block, 0, cores)

    def _found(self, block: LayerBlock, most_cores: int) -> tuple[float, int]:
        key = (block, most_cores)
        if key not in self._best:
            whole = self._tables.remaining_s(block.model, block.start, 0)
            rest = self._tables.remaining_s(block.model, block.stop, 0)
            times = [
                (all_s - rest_s, count)
                for all_s, rest_s, count in zip(whole, rest, self._tables.counts, strict=True)
                if count <= most_cores
            ]
            self._best[key] = min(times, default=(float("inf"), 0))
        return self._best[key]


def most_slices(context: Context, counts: Sequence[int], times: SliceTimes, service_share: float) -> int:
    """Return the most equal slices on which each model alone takes at most a share of its target; or 1.

    `counts` are the core counts that can be granted, ascending.
    """
    cores = context.machine.cores

    def are_enough(slices: int) -> bool:
        size = round_down(cores // slices, counts)
        return size > 0 and all(
            times.least_s(LayerBlock(name, 0, len(model.layers)), size)
            <= service_share * model.qos_s * (1 + TOLERANCE)
            for name, model in context.models.items()
        )

    return next((slices for slices in range(cores // counts[0], 1, -1) if are_enough(slices)), 1)


def start_in_slices(
    waiting: Sequence[Pending],
    free_cores: int,
    busy: Iterable[int],
    sizes: Sequence[int],
    times: SliceTimes,
    *,
    slice_of: Callable[[Pending], int],
    block_of: Callable[[Pending], LayerBlock],
) -> list[Allocation]:
    """Return the blocks to start now: that of the first query which waits for each idle slice.

    Slices are numbered, `sizes` has the cores of each, `busy` are those that run a block. A block gets the
    count within its slice that suits it best, or within the free cores where they are fewer.
    """
    taken, starts = set(busy), []
    for entry in waiting:
        if len(taken) == len(sizes):
            break
        number = slice_of(entry)
        if number in taken:
            continue
        taken.add(number)
        block = block_of(entry)
        wanted = times.best_cores(block, sizes[number])
        cores = wanted if wanted <= free_cores else times.best_cores(block, free_cores)
        if cores:
            versions = times.versions(block, cores)
            starts.append(Allocation(entry.query.id, block, versions, cores, wanted))
            free_cores -= cores
    return starts

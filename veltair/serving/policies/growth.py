"""Growth: blocks take cores that nobody waits for.

Source: a decision of ours. Cores that stay idle while a block runs on fewer than suit it are the cost of a
conflict (a shrunk block never recovers) and of a need that was worked out when the machine was fuller.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from veltair.serving.loop.policy import Allocation, Answer, Resize, Running, Snapshot
from veltair.serving.policies.discipline import round_down
from veltair.serving.policies.latency_tables import LatencyTables


def fill(
    snapshot: Snapshot, starts: Sequence[Allocation], tables: LatencyTables, level: int
) -> Sequence[Answer]:
    """Return the starts and the growth of running blocks, so that both take all cores that suit them.

    To be called when all who waited start. Running blocks come first, then the starts in their turn: a block
    that starts alone would else stay as small as its need, for nothing happens that could make it grow.
    """
    free_cores = snapshot.free_cores - sum(start.cores for start in starts)
    resizes = list(grow(snapshot, free_cores, tables))
    if starts and free_cores >= tables.counts[0]:
        reserved = {running.query.id: running.reserved_cores for running in snapshot.running}
        free_cores -= sum(resize.cores - reserved[resize.query_id] for resize in resizes)
        starts = list(_widened(starts, free_cores, tables, level))
    return [*starts, *resizes]


def _widened(
    starts: Sequence[Allocation], free_cores: int, tables: LatencyTables, level: int
) -> Iterator[Allocation]:
    for start in starts:
        block = start.block
        best = tables.best_cores(block.model, level, block.start, block.stop)
        cores = round_down(min(best, start.cores + free_cores), tables.counts)
        if cores <= start.cores:
            yield start
            continue
        yield replace(start, cores=cores, versions=tables.versions(block, level, cores))
        free_cores -= cores - start.cores


def grow(snapshot: Snapshot, free_cores: int, tables: LatencyTables) -> Iterator[Resize]:
    """Yield the growth of running blocks into cores that are to spare, the oldest block first.

    To be called when no query waits. Each block gets up to the count on which those of its layers that begin
    on the new count are fastest together, at the level that it meets itself. A block that yields or is in its
    last layer is left alone: it would never use what it got.
    """
    counts = tables.counts
    if free_cores < counts[0]:
        return
    busy_cores = busy(snapshot)
    for running in snapshot.running:
        next_layer = running.block.start + snapshot.progress.get(running.query.id, 0) + 1
        if next_layer >= running.block.stop or running.yields:
            continue
        level = tables.level(pressure_on(running, snapshot.pressure, busy_cores))
        best = tables.best_cores(running.block.model, level, next_layer, running.block.stop)
        cores = round_down(min(best, running.reserved_cores + free_cores), counts)
        if cores <= running.target_cores:
            continue
        versions = tables.versions(running.block, level, cores)
        yield Resize(running.query.id, cores, None if versions == running.versions else versions)
        free_cores -= cores - running.reserved_cores
        if free_cores < counts[0]:
            return


def busy(snapshot: Snapshot) -> int:
    """Return how many cores run blocks."""
    return sum(running.cores for running in snapshot.running)


def pressure_on(running: Running, pressure: float, busy_cores: int) -> float:
    """Return the pressure in [0, 1] that a running block meets.

    `pressure` is what a new block would meet from all that runs, this block included, on `busy_cores`. Its
    own part of that is taken to be its part of the busy cores: a block that runs alone meets none.
    """
    return pressure * (busy_cores - running.cores) / busy_cores

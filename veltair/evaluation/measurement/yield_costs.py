"""What it costs a running block to yield, measured through the workers."""

import time
from collections.abc import Iterator, Sequence

from veltair.machine.workers.pool import BlockRun, Ended, Grant, QueryBuffers, WorkerPool


def layer_yields(
    pool: WorkerPool, buffers: QueryBuffers, versions: Sequence[int], cores: tuple[int, ...]
) -> Iterator[float]:
    """Yield the seconds for which a block that yields holds its cores longer than its layer, by layer.

    Each layer but the last begins a block on all cores, which is asked to yield at once. A block whose
    first layer ended before it was asked is left out. Raises the error of the kernels.
    """
    for layer in range(len(versions) - 1):
        grant = Grant(cores, tuple(versions[layer:]))
        block = BlockRun(0, buffers, layer, len(versions), grant)
        pool.run(block)
        pool.yield_block(block)
        end = _end(pool)
        if end.ended_layers == 1:
            yield longer_s(pool, end, asked_s=0.0)


def longer_s(pool: WorkerPool, end: Ended, asked_s: float) -> float:
    """Return how much later than the layer that it was in when it was asked to yield a block ended.

    `asked_s` is on the monotonic clock; a layer that began between asking and the end counts as late.
    """
    seconds = end.block.buffers.layer_seconds
    layer = end.block.start + end.ended_layers - 1
    layer_end_s = pool.layer_started_s(end.block) + seconds[layer]
    while layer > end.block.start and layer_end_s - seconds[layer] > asked_s:
        layer_end_s -= seconds[layer]
        layer -= 1
    return end.monotonic_s - layer_end_s


def yield_after(pool: WorkerPool, block: BlockRun, seconds: float) -> float:
    """Start a block, let it yield after a time, and return how much later than its layer it ended."""
    pool.run(block)
    time.sleep(seconds)
    asked_s = time.monotonic()
    pool.yield_block(block)
    return longer_s(pool, _end(pool), asked_s)


def _end(pool: WorkerPool) -> Ended:
    while True:
        for notice in pool.wait(None):
            if isinstance(notice, Ended):
                if notice.error is not None:
                    raise notice.error
                return notice

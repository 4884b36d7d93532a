"""What a change of its cores costs a running block, measured through the workers."""

from collections.abc import Iterator

from veltair.machine.costs.block_costs import GROW, SHRINK
from veltair.machine.workers.pool import Adopted, BlockRun, Ended, Grant, QueryBuffers, WorkerPool


def layer_resizes(
    pool: WorkerPool, buffers: QueryBuffers, versions: tuple[int, ...], cores: tuple[int, ...]
) -> Iterator[tuple[str, float]]:
    """Yield kind and seconds of changes of cores, from all to one and back, at the end of each layer but one.

    A sample is what a block of two layers takes that changes its cores in between, less what each of these
    layers takes on its cores. What came too late to be adopted is left out; on one core nothing changes.
    Raises the error of the kernels.
    """
    if len(cores) == 1:
        return
    for kind, before, after in ((SHRINK, cores, cores[:1]), (GROW, cores[:1], cores)):
        for layer in range(len(versions) - 1):
            first, pair = versions[layer : layer + 1], versions[layer : layer + 2]
            changed_s, is_adopted = _run(pool, buffers, layer, Grant(before, pair), Grant(after, pair))
            if not is_adopted:
                continue
            first_s, _ = _run(pool, buffers, layer, Grant(before, first))
            # The second one behind the first, so that it finds the caches as it does in the changed block.
            both_s, _ = _run(pool, buffers, layer, Grant(after, pair))
            other_first_s, _ = _run(pool, buffers, layer, Grant(after, first))
            yield kind, changed_s - first_s - (both_s - other_first_s)


def _run(
    pool: WorkerPool, buffers: QueryBuffers, layer: int, grant: Grant, change: Grant | None = None
) -> tuple[float, bool]:
    """Run a block from a layer on; return what its layers took, and whether it adopted the change."""
    block = BlockRun(0, buffers, layer, layer + len(grant.versions), grant)
    pool.run(block)
    if change is not None:
        pool.resize(block, change)
    is_adopted = False
    while True:
        for notice in pool.wait(None):
            is_adopted |= isinstance(notice, Adopted)
            if isinstance(notice, Ended):
                if notice.error is not None:
                    raise notice.error
                return notice.busy_s, is_adopted

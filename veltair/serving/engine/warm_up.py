"""What is done before the first query comes, so that none pays for first touches."""

from collections.abc import Iterable

from veltair.machine.workers.pool import (
    BlockRun,
    CoreLostError,
    Ended,
    Grant,
    QueryBuffers,
    Sample,
    WorkerPool,
)
from veltair.serving.engine.running_blocks import RunningBlock
from veltair.serving.engine.watchdog import EngineError, Watch
from veltair.serving.loop.policy import Allocation


def warm_up(
    pool: WorkerPool,
    watch: Watch,
    allocation: Allocation,
    rooms: Iterable[QueryBuffers],
    cores: tuple[int, ...],
    sample: Sample,
) -> None:
    """Run a block as allocated, alone, on these cores once in each of its model's rooms.

    Raises EngineError if it fails or hangs.
    """
    block, grant = allocation.block, Grant(cores, allocation.versions)
    for room in rooms:
        run = BlockRun(allocation.query_id, room, block.start, block.stop, grant, put_in=sample)
        pool.run(run)
        error = _end_of_only_block(pool, watch, RunningBlock(allocation, run, grant))
        if isinstance(error, CoreLostError):
            raise EngineError(str(error)) from error
        if error is not None:
            watch.check_allowance()
            raise EngineError(f"{block.model} fails to run: {error}; build it anew (rule `build`)") from error


def _end_of_only_block(pool: WorkerPool, watch: Watch, started: RunningBlock) -> Exception | None:
    while True:
        watch.look([started])
        for notice in pool.wait(watch.period_s):
            if isinstance(notice, Ended):
                return notice.error

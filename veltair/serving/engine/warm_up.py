"""Warm-up: each model runs once before the first query, so that no query pays for first touches of memory."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.costs.table import CostTable
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
from veltair.serving.engine.watchdog import EngineError, Watchdog
from veltair.serving.loop.policy import Allocation


def warm_up_models(
    pool: WorkerPool,
    watchdog: Watchdog,
    costs: CostTable,
    cores: tuple[int, ...],
    buffers: Mapping[str, Iterable[QueryBuffers]],
    samples: Sequence[tuple[str, Sample]],
    names: Collection[str] | None,
) -> None:
    """Run each buffer of some models, or of all, once, with the fastest versions and an input of `samples`.

    Raises EngineError if one fails or hangs.
    """
    for name, idle in buffers.items():
        if names is not None and name not in names:
            continue
        solo = tuple(int(version) for version in costs.model(name).solo)
        sample = next(sample for model, sample in samples if model == name)
        whole = Allocation(-1, LayerBlock(name, 0, len(solo)), solo, len(cores))
        warm_up(pool, watchdog, whole, idle, cores, sample)


def warm_up(
    pool: WorkerPool,
    watchdog: Watchdog,
    allocation: Allocation,
    buffers: Iterable[QueryBuffers],
    cores: tuple[int, ...],
    sample: Sample,
) -> None:
    """Run a block as allocated, alone, on these cores once in each of its model's buffers.

    Raises EngineError if it fails or hangs.
    """
    block, grant = allocation.block, Grant(cores, allocation.versions)
    for one in buffers:
        run = BlockRun(allocation.query_id, one, block.start, block.stop, grant, put_in=sample)
        pool.run(run)
        error = _end_of_only_block(pool, watchdog, RunningBlock(allocation, run, grant))
        if isinstance(error, CoreLostError):
            raise EngineError(str(error)) from error
        if error is not None:
            watchdog.check_allowance()
            raise EngineError(f"{block.model} fails to run: {error}; build it anew (rule `build`)") from error


def _end_of_only_block(pool: WorkerPool, watchdog: Watchdog, started: RunningBlock) -> Exception | None:
    while True:
        watchdog.check([started])
        for notice in pool.wait(watchdog.period_s):
            if isinstance(notice, Ended):
                return notice.error

"""Models of Python kernels, and blocks of them on workers."""

import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import Adopted, BlockRun, Ended, Grant, Notice, Sample, WorkerPool

TIMEOUT_S = 60.0

Kernel = Callable[[], object]


class Room:
    """A query's buffers whose layers are given: kernels and arguments by version."""

    def __init__(
        self, calls: Sequence[Sequence[tuple[Any, tuple[Any, ...]]]], inputs: Any = (), outputs: Any = ()
    ) -> None:
        self.calls = [list(versions) for versions in calls]
        self.inputs: Sequence[Any] = inputs
        self.outputs: Sequence[Any] = outputs


def python_room(*kernels: Kernel, **tensors: Any) -> Room:
    """Return one with a version of each layer."""
    return Room([[(kernel, ())] for kernel in kernels], **tensors)


@cache
def _build_dir() -> TemporaryDirectory[str]:
    return TemporaryDirectory()


def launch_workers(core_ids: Sequence[int]) -> WorkerPool:
    """Start workers, compiled once a process, where a test has no folder at hand."""
    return NativePool(core_ids, Path(_build_dir().name))


def block_of(
    pool: WorkerPool,
    room: Room | Any,
    cores: tuple[int, ...],
    *,
    versions: tuple[int, ...] | None = None,
    put_in: Sample | None = None,
    check: Sample | None = None,
) -> BlockRun:
    """Return a block of all layers of a model, in their first versions unless others are named."""
    layers = len(room.calls)
    grant = Grant(cores, versions or (0,) * layers)
    return BlockRun(1, pool.bind(room, "net"), 0, layers, grant, put_in=put_in, check=check)


def notices(pool: WorkerPool, count: int) -> list[Notice]:
    """Return the next so many notices."""
    found: list[Notice] = []
    until_s = time.monotonic() + TIMEOUT_S
    while len(found) < count:
        assert time.monotonic() < until_s, f"only {found} came"
        found += pool.wait(1.0)
    assert len(found) == count
    return found


def next_end(pool: WorkerPool) -> Ended:
    """Return the next end of a block, past grants that were adopted."""
    until_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < until_s:
        found = pool.wait(1.0)
        if found and isinstance(found[-1], Ended):
            return found[-1]
    raise AssertionError("no block ended")


def end_of(pool: WorkerPool, block: BlockRun) -> Ended:
    """Run a block alone and return its end."""
    pool.run(block)
    (end,) = notices(pool, 1)
    assert isinstance(end, Ended) and end.block is block
    return end


def run_kernels(pool: WorkerPool, *kernels: Kernel, cores: tuple[int, ...]) -> Ended:
    """Run Python kernels as the layers of a block and return its end."""
    return end_of(pool, block_of(pool, python_room(*kernels), cores))


def kinds(found: Sequence[Notice]) -> list[str]:
    """Return what the notices are."""
    return ["adopted" if isinstance(notice, Adopted) else "ended" for notice in found]

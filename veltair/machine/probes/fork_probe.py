"""What a kernel pays to start on several cores and to end on them, measured through the workers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veltair.machine.c_build import FLAGS
from veltair.machine.c_library import load_library
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import BlockRun, Ended, Grant

SOURCE, HEADER = Path(__file__).with_name("fork_kernel.c"), Path(__file__).with_name("fork_kernel.h")
KERNELS = 2000
WARM = 200
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class ForkCost:
    """Seconds from a kernel's start until its last core works, and from that core's end until its own."""

    launch_s: float
    join_s: float


@dataclass(frozen=True, slots=True)
class _Kernel:
    """One of the kernels, as a function object of TVM's looks to workers."""

    address: int

    def __chandle__(self) -> int:
        return self.address


@dataclass(frozen=True, slots=True)
class _Buffers:
    calls: Sequence[Sequence[tuple[Any, tuple[Any, ...]]]]
    inputs: Sequence[Any] = ()
    outputs: Sequence[Any] = ()


def measure_fork(core_ids: Sequence[int], build_dir: Path, kernels: int = KERNELS) -> ForkCost:
    """Return the medians over the kernels of one block on these cores; nothing is forked on one core.

    Raises NativeBuildError without gcc, RuntimeError if the block does not end.
    """
    if len(core_ids) == 1:
        return ForkCost(0.0, 0.0)
    library = load_library(SOURCE, [HEADER], build_dir, (*FLAGS, "-shared", "-fPIC"))
    forks = np.zeros(WARM + kernels, library.dtype("fork_t"))
    forks["safe_call"] = library.address(library.functions.fork_and_join)
    forks["tasks"] = len(core_ids)
    _run(forks, tuple(core_ids), build_dir)
    measured = forks[WARM:]
    return ForkCost(
        1e-9 * float(np.median(measured["launch_ns"])), 1e-9 * float(np.median(measured["join_ns"]))
    )


def _run(forks: NDArray[Any], cores: tuple[int, ...], build_dir: Path) -> None:
    start, step = forks.ctypes.data, forks.itemsize
    runnable = _Buffers([[(_Kernel(start + index * step), ())] for index in range(len(forks))])
    pool = NativePool(cores, build_dir)
    try:
        buffers = pool.bind(runnable, "fork probe")
        pool.run(BlockRun(0, buffers, 0, len(forks), Grant(cores, (0,) * len(forks))))
        notices = pool.wait(TIMEOUT_S)
    finally:
        left = pool.stop()
    ended = [notice for notice in notices if isinstance(notice, Ended)]
    if left or not ended or ended[0].error is not None:
        raise RuntimeError(
            f"the probe of launch and join did not end on cores {cores} within {TIMEOUT_S:g} s "
            f"({ended[0].error if ended else 'no notice'}); give it cores that nothing else runs on"
        )

import os
import time
from pathlib import Path

import pytest

from tests.support.serving.engine_builders import FakeBuffers
from tests.support.serving.pool_builders import block_of, python_room
from veltair.evaluation.measurement.yield_costs import layer_yields, longer_s, yield_after
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import BlockRun, Ended, Grant, KernelError

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]


def wait() -> None:
    time.sleep(0.003)


class Clock:
    """Workers whose last layer began at a given time."""

    def __init__(self, layer_started_s: float) -> None:
        self._started_s = layer_started_s

    def layer_started_s(self, block: BlockRun) -> float:
        return self._started_s


def ended(end_s: float, *layer_seconds: float) -> Ended:
    """Return the end of a block from layer 1 on, of which these layers ended."""
    seconds = (9.0, *layer_seconds, 9.0)
    block = BlockRun(0, FakeBuffers(python_room(print), layer_seconds=seconds), 1, 9, Grant((0,), (0,) * 8))
    return Ended(block, None, len(layer_seconds), end_s, sum(layer_seconds), 0)


def test_a_block_that_ends_after_the_layer_in_which_it_was_asked_is_later_by_what_its_end_takes() -> None:
    # Two layers of 1 s from 10 s on; asked at 11.5 s, in the second.
    assert longer_s(Clock(11.0), ended(12.25, 1.0, 1.0), asked_s=11.5) == 0.25  # type: ignore[arg-type]


def test_a_layer_that_began_after_a_block_was_asked_makes_it_late() -> None:
    # Asked at 10.5 s, in the first of two layers: the second one is later than it should be, too.
    assert longer_s(Clock(11.0), ended(12.25, 1.0, 1.0), asked_s=10.5) == 1.25  # type: ignore[arg-type]


def test_every_layer_but_the_last_makes_a_sample(c_build: Path) -> None:
    pool = NativePool(CORES, c_build)
    try:
        found = list(layer_yields(pool, pool.bind(python_room(*[wait] * 4), "net"), (0,) * 4, CORES))
    finally:
        pool.stop()
    assert len(found) == 3
    assert all(seconds > 0 for seconds in found)


def test_a_block_yields_in_the_midst_of_its_layers(c_build: Path) -> None:
    pool, done = NativePool(CORES, c_build), list[int]()
    try:
        block = block_of(pool, python_room(*[lambda: (wait(), done.append(1))] * 100), CORES)
        assert yield_after(pool, block, 0.01) > 0
    finally:
        pool.stop()
    assert 1 <= len(done) < 100


def test_a_kernel_that_fails_ends_the_sampling(c_build: Path) -> None:
    def fail() -> None:
        raise RuntimeError("no good")

    pool = NativePool(CORES, c_build)
    try:
        buffers = pool.bind(python_room(fail, wait), "net")
        with pytest.raises((RuntimeError, KernelError), match="no good"):
            list(layer_yields(pool, buffers, (0, 0), CORES))
    finally:
        pool.stop()

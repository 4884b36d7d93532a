import os
import time
from pathlib import Path

import pytest

from tests.support.serving.pool_builders import python_room
from veltair.evaluation.measurement.resize_costs import layer_resizes
from veltair.machine.costs.block_costs import GROW, SHRINK
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import KernelError

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]


def wait() -> None:
    time.sleep(0.003)


@pytest.mark.skipif(len(CORES) < 2, reason="one core has no others to change to")
def test_every_layer_but_the_first_adopts_a_change_each_way(c_build: Path) -> None:
    pool = NativePool(CORES, c_build)
    try:
        buffers = pool.bind(python_room(wait, wait, wait), "net")
        found = [name for name, _ in layer_resizes(pool, buffers, (0, 0, 0), CORES)]
    finally:
        pool.stop()
    assert found == [SHRINK, SHRINK, GROW, GROW]


def test_one_core_has_nothing_to_adopt(c_build: Path) -> None:
    pool = NativePool(CORES[:1], c_build)
    try:
        assert list(layer_resizes(pool, pool.bind(python_room(wait, wait), "net"), (0, 0), CORES[:1])) == []
    finally:
        pool.stop()


@pytest.mark.skipif(len(CORES) < 2, reason="one core has no others to change to")
def test_a_kernel_that_fails_ends_the_sampling(c_build: Path) -> None:
    def fail() -> None:
        raise RuntimeError("no good")

    pool = NativePool(CORES, c_build)
    try:
        buffers = pool.bind(python_room(wait, fail), "net")
        with pytest.raises((RuntimeError, KernelError), match="no good"):
            list(layer_resizes(pool, buffers, (0, 0), CORES))
    finally:
        pool.stop()

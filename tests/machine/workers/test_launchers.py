import os
from pathlib import Path

import pytest

from veltair.machine.workers.launchers import LAUNCHERS, launcher
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.tvm_pool import TvmPool

CORES = tuple(sorted(os.sched_getaffinity(0)))[:1]


def test_each_name_starts_its_own_kind_of_gang(c_build: Path) -> None:
    pools = [launcher(name, c_build)(CORES) for name in LAUNCHERS]
    assert [type(pool) for pool in pools] == [NativePool, TvmPool]
    assert [pool.stop() for pool in pools] == [0, 0]


def test_another_name_is_refused(c_build: Path) -> None:
    with pytest.raises(ValueError, match=r"engine\.launcher is 'pool'; choose from gang, tvm"):
        launcher("pool", c_build)


def test_blocks_of_tvms_pools_are_not_malleable(c_build: Path) -> None:
    with pytest.raises(ValueError, match=r"engine\.malleable needs `engine\.launcher: pool`"):
        launcher("tvm", c_build, malleable=True)

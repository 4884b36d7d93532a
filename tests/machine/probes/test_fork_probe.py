import os
from pathlib import Path

import pytest

from veltair.machine.probes.fork_probe import ForkCost, measure_fork

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]


def test_on_one_core_nothing_is_forked(tmp_path: Path) -> None:
    assert measure_fork(CORES[:1], tmp_path) == ForkCost(0.0, 0.0)


@pytest.mark.skipif(len(CORES) < 2, reason="one core forks nothing")
def test_kernels_that_meet_on_two_cores_take_time_to_get_there_and_back(c_build: Path) -> None:
    cost = measure_fork(CORES, c_build, kernels=20)
    assert 0 < cost.launch_s < 10
    assert 0 <= cost.join_s < 10

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.table_builders import make_tables
from veltair.evaluation.validation.co_runs import (
    ALONE,
    BESIDE,
    COLUMNS,
    CoRunModel,
    beside_each_other,
    draw_pairs,
    measure_pairs,
    tenants,
)
from veltair.machine.costs.table import CostTable
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.placement import spread
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import BlockRun, Ended, Grant, Notice


class FakePool:
    """Workers in virtual time: a block takes the seconds of its query id, and twice that beside another."""

    def __init__(self, seconds: Sequence[float], error: Exception | None = None) -> None:
        self.log: list[str] = []
        self._seconds, self._error = seconds, error
        self._now_s = 0.0
        self._running: list[tuple[float, BlockRun]] = []

    def run(self, block: BlockRun) -> None:
        self.log.append(f"start {block.query_id}")
        self._running.append((self._now_s + self._seconds[block.query_id], block))

    def wait(self, timeout_s: float | None) -> list[Notice]:
        end_s, block = min(self._running, key=lambda pair: pair[0])
        self._running.remove((end_s, block))
        self._now_s = end_s
        self.log.append(f"end {block.query_id}")
        return [Ended(block, self._error, 1, end_s, self._seconds[block.query_id], 0)]


def blocks(count: int) -> list[BlockRun]:
    bound: Any = None
    return [BlockRun(number, bound, 0, 1, Grant((number,), (0,))) for number in range(count)]


def test_a_tenant_is_each_model_in_each_choice_of_versions_on_half_and_a_quarter_of_the_cores() -> None:
    found = tenants(make_tables(cores=4))
    # The first version is the fastest alone, so `local` and `solo` are one.
    assert {(one.model, one.choice, one.cores) for one in found} == {
        (model, choice, cores)
        for model in ("small", "large")
        for choice in ("solo", "parallel")
        for cores in (1, 2)
    }
    assert CoRunModel("large", "parallel", (1, 1, 1), 2) in found


def test_on_one_core_there_are_no_tenants() -> None:
    with pytest.raises(ValueError, match="no two models fit beside each other"):
        tenants(make_tables(cores=1))


def test_a_profile_of_large_counts_only_has_no_tenants() -> None:
    tables = make_tables(cores=4)
    repeats = tables.costs.repeats
    whole = CostTable(repeats[repeats["cores"] == 4], "toy")
    with pytest.raises(ValueError, match=r"profile of half of them \(`profile.cores`\)"):
        tenants(type(tables)(tables.machine, tables.layers, tables.tilings, whole))


def test_pairs_fit_beside_each_other_and_are_different() -> None:
    found = tenants(make_tables(cores=4))
    pairs = draw_pairs(found, 3, seed=1, count=100)
    assert all(first.cores + second.cores <= 3 for first, second in pairs)
    assert len(set(pairs)) == len(pairs) == 10 + 16


def test_the_same_seed_draws_the_same_pairs_in_another_order_than_the_next() -> None:
    found = tenants(make_tables(cores=4))
    first, again, other = (draw_pairs(found, 4, seed, count=6) for seed in (1, 1, 2))
    assert first == again != other and len(first) == 6


def test_a_tenant_without_cores_or_versions_is_refused() -> None:
    with pytest.raises(ValueError, match="0 versions on 1 cores"):
        CoRunModel("net", "solo", (), 1)
    with pytest.raises(ValueError, match="1 versions on 0 cores"):
        CoRunModel("net", "solo", (0,), 0)


def test_the_short_one_runs_again_until_the_long_one_has_ended_once() -> None:
    pool = FakePool([3.0, 10.0])
    assert beside_each_other(pool, blocks(2)) == [[3.0, 3.0, 3.0], [10.0]]  # type: ignore[arg-type]
    # The run that begins at 9 s ends beside nobody: it is waited for, and does not count.
    assert pool.log[-2:] == ["end 1", "end 0"]


def test_two_of_equal_length_run_once_each() -> None:
    pool = FakePool([2.0, 2.0])
    counts = [len(seconds) for seconds in beside_each_other(pool, blocks(2))]  # type: ignore[arg-type]
    assert counts in ([1, 1], [2, 1])


def test_nothing_is_left_running() -> None:
    pool = FakePool([1.0, 2.5, 7.0])
    beside_each_other(pool, blocks(3))  # type: ignore[arg-type]
    starts, ends = (sum(word in line for line in pool.log) for word in ("start", "end"))
    assert starts == ends


def test_the_error_of_a_kernel_ends_the_measurement() -> None:
    with pytest.raises(RuntimeError, match="broken"):
        beside_each_other(FakePool([1.0, 1.0], RuntimeError("broken")), blocks(2))  # type: ignore[arg-type]


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="0 rounds"):
        measure_pairs(None, {}, [], None, spread, rounds=0)  # type: ignore[arg-type]


def test_real_kernels_are_timed_alone_and_beside_each_other(tiny_loaded: LoadedModel, c_build: Path) -> None:
    cores = tuple(sorted(os.sched_getaffinity(0)))[:2]
    if len(cores) < 2:
        pytest.skip("two tenants need two cores")
    layers = len(tiny_loaded.plan.layers)
    tenant = CoRunModel("tiny", "local", (0,) * layers, 1)
    machine = Machine("here", 1, (cores,), 2**19, 2**24, 1e11, 1e11, validated=True)
    pool = NativePool(cores, c_build)
    try:
        samples = measure_pairs(
            pool, {"tiny": tiny_loaded}, [(tenant, tenant), (tenant, tenant)], machine, spread, rounds=2
        )
    finally:
        pool.stop()
    assert list(samples.columns) == list(COLUMNS) and (samples["seconds"] > 0).all()
    counts = samples[samples["kind"] == ALONE].groupby(["corun", "side"]).size()
    assert counts.to_dict() == {(0, 0): 2, (0, 1): 2, (1, 0): 2, (1, 1): 2}
    assert set(samples.loc[samples["kind"] == BESIDE, "side"]) == {0, 1}

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.support.serving.pool_builders import python_room
from veltair.compiler.build.build import VersionPlan
from veltair.compiler.footprint.traffic import Tiling, traffic_bytes
from veltair.compiler.frontend.samples import random_samples
from veltair.machine.costs.disturbance import AWAY
from veltair.machine.costs.table import COLUMNS, CostTable
from veltair.machine.models.library import LoadedModel
from veltair.machine.profile.profile import (
    Profile,
    ProfileSettings,
    cache_share,
    profile,
    tiling_of,
    time_block,
    time_layers,
)
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import Grant

CORES = tuple(sorted(os.sched_getaffinity(0)))
L3_BYTES = 2**20
SETTINGS = ProfileSettings(cores=(1, 2), levels=(0.0, 0.5), repeats=2)


def make_machine(cores: tuple[int, ...], l3_bytes: int = L3_BYTES) -> Machine:
    return Machine("made-up", 1, (cores,), 2**18, l3_bytes, 1e9, 1e9, validated=False)


def profile_on(
    model: LoadedModel,
    machine: Machine,
    settings: ProfileSettings,
    build_dir: Path,
    said: list[str] | None = None,
) -> Profile:
    """Profile the tiny network on our workers; what is told of the progress goes to `said`."""
    tell = [].append if said is None else said.append
    return profile(
        {"tiny": model}, machine, settings, partial(NativePool, build_dir=build_dir), build_dir, tell
    )


@pytest.fixture(scope="module")
def two_cores() -> Machine:
    if len(CORES) < 2:
        pytest.skip("the co-runner needs a core of its own")
    # An L3 that the tiny network's layers do not fit.
    return make_machine(CORES[:2], l3_bytes=2**12)


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def measured(
    tiny_loaded: LoadedModel,
    two_cores: Machine,
    said: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Profile:
    build_dir = tmp_path_factory.mktemp("corunner")
    return profile(
        {"tiny": tiny_loaded},
        two_cores,
        SETTINGS,
        partial(NativePool, build_dir=build_dir),
        build_dir,
        said.append,
    )


def test_a_profile_has_a_row_for_each_version_cores_level_and_repeat(
    measured: Profile, tiny_loaded: LoadedModel
) -> None:
    versions = [(n, v) for n in range(6) for v in range(len(tiny_loaded.plan.of(n)))]
    cells = [(1, 0.0), (2, 0.0), (1, 0.5)]
    rows = measured.repeats[["layer", "version", "cores", "level", "repeat"]].itertuples(
        index=False, name=None
    )
    wanted = {(*version, *cell, repeat) for version in versions for cell in cells for repeat in range(2)}
    found = list(rows)
    assert set(found) == wanted
    assert len(found) == len(wanted)


def test_all_cores_are_measured_alone_only(measured: Profile) -> None:
    table = measured.repeats
    assert set(table[table["cores"] == 2]["level"]) == {0.0}


def test_its_columns_are_those_of_a_cost_table_and_what_each_repeat_lost_of_its_core(
    measured: Profile,
) -> None:
    assert set(measured.repeats.columns) == {*COLUMNS, AWAY}
    assert measured.repeats[AWAY].between(0, 1).all()
    assert set(measured.repeats["model"]) == {"tiny"}


def test_a_cost_table_accepts_it(measured: Profile) -> None:
    table = CostTable(measured.repeats, "made-up")
    assert (table.cores, table.levels) == ((1, 2), (0.0, 0.5))
    assert table.model("tiny").seconds.shape == (6, 2, 2, 2)


def test_times_are_positive(measured: Profile) -> None:
    assert (measured.repeats["seconds"] > 0).all()


def test_traffic_and_footprint_are_those_of_the_tiling(
    measured: Profile, tiny_loaded: LoadedModel, two_cores: Machine
) -> None:
    for row in measured.repeats.to_dict("records"):
        tiling = tiling_of(tiny_loaded.plan.of(row["layer"])[row["version"]])
        share = cache_share(two_cores, row["cores"], row["level"])
        assert row["traffic_bytes"] == traffic_bytes(tiling, row["cores"], share)
        assert row["footprint_bytes"] == tiling.compulsory_bytes


def test_what_the_co_runner_did_is_told_by_level(measured: Profile) -> None:
    assert measured.achieved.keys() == {0.0, 0.5}
    assert measured.achieved[0.0].pressure == 0.0
    assert 0 < measured.achieved[0.5].pressure <= 1


def test_progress_is_told_by_level(measured: Profile, said: list[str]) -> None:
    assert said == ["level 0 on 1, 2 cores", "level 0.5 on 1 cores"]


def test_the_thread_that_measured_has_its_cores_back(measured: Profile) -> None:
    assert tuple(sorted(os.sched_getaffinity(0))) == CORES


def test_a_level_that_leaves_no_core_to_measure_is_passed_over(
    tiny_loaded: LoadedModel, tmp_path: Path
) -> None:
    settings = ProfileSettings(cores=(1,), levels=(0.0, 0.5), repeats=1)
    found = profile(
        {"tiny": tiny_loaded},
        make_machine(CORES[:1]),
        settings,
        partial(NativePool, build_dir=tmp_path),
        tmp_path,
        lambda words: None,
    )
    assert set(found.repeats["level"]) == set(found.achieved) == {0.0}


def test_networks_are_measured_on_numbers_not_on_whatever_memory_holds(
    tiny_loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = tiny_loaded.instance()
    instance.set_inputs([np.full((1, 3, 16, 16), np.nan, np.float32)])
    monkeypatch.setattr(tiny_loaded.__class__, "instance", lambda self, *_: instance)
    settings = ProfileSettings(cores=(1,), levels=(0.0,), repeats=1)
    profile(
        {"tiny": tiny_loaded},
        make_machine(CORES[:1]),
        settings,
        partial(NativePool, build_dir=tmp_path),
        tmp_path,
        lambda words: None,
    )
    assert np.array_equal([instance.inputs[0].numpy()], random_samples(tiny_loaded.plan.inputs, seed=0))


def test_layers_are_timed_on_the_workers_that_serve(tiny_loaded: LoadedModel, c_build: Path) -> None:
    pool = NativePool(CORES[:1], c_build)
    try:
        room = pool.bind(tiny_loaded.instance(), "tiny")
        seconds = time_block(pool, room, Grant(CORES[:1], (0,) * 6))
    finally:
        pool.stop()
    assert len(seconds) == 6
    assert min(seconds) > 0


def test_a_kernel_that_fails_ends_the_profile(c_build: Path) -> None:
    pool = NativePool(CORES[:1], c_build)
    try:
        with pytest.raises(ZeroDivisionError):
            time_block(pool, pool.bind(python_room(lambda: 1 // 0), "net"), Grant(CORES[:1], (0,)))
    finally:
        pool.stop()


def test_more_cores_than_the_machine_has_are_refused(tiny_loaded: LoadedModel, tmp_path: Path) -> None:
    machine = make_machine((0, 1))
    settings = ProfileSettings(cores=(1, 3, 4), levels=(0.0,), repeats=1)
    with pytest.raises(ValueError, match=r"profile\.cores \[3, 4\]: made-up has 2 cores"):
        profile(
            {"tiny": tiny_loaded},
            machine,
            settings,
            partial(NativePool, build_dir=tmp_path),
            tmp_path,
            lambda words: None,
        )


@pytest.mark.parametrize("repeats", [0, -1])
def test_fewer_than_one_repeat_is_refused(repeats: int) -> None:
    with pytest.raises(ValueError, match=rf"profile\.repeats is {repeats}; give 1 or more"):
        ProfileSettings((1,), (0.0,), repeats)


def test_levels_without_level_0_are_refused() -> None:
    with pytest.raises(ValueError, match=r"profile\.levels \(0\.5,\) lack 0"):
        ProfileSettings((1,), (0.5,), 1)


def test_each_layer_is_timed(tiny_loaded: LoadedModel) -> None:
    seconds = time_layers(tiny_loaded.instance(), [0] * 6)
    assert len(seconds) == 6
    assert min(seconds) > 0


@pytest.mark.parametrize(
    ("cores", "level", "share"),
    # A block alone has the whole L3; beside a co-runner what that leaves, at least its share of the cores.
    [(1, 0.0, 1.0), (4, 0.0, 1.0), (1, 0.25, 0.75), (1, 1.0, 0.25), (2, 0.75, 0.5), (4, 1.0, 1.0)],
)
def test_a_block_has_what_the_co_runners_leave_or_its_fair_share(
    cores: int, level: float, share: float
) -> None:
    assert cache_share(make_machine((0, 1, 2, 3)), cores, level) == share * L3_BYTES


def test_the_caches_of_all_groups_are_shared() -> None:
    machine = Machine("two", 1, ((0, 1), (2, 3)), 2**18, L3_BYTES, 1e9, 1e9, validated=False)
    assert cache_share(machine, 1, 0.5) == L3_BYTES


def test_a_built_version_has_its_tiling() -> None:
    assert tiling_of(VersionPlan("symbol", 2, 30, 40)) == Tiling(2, 30, 40)

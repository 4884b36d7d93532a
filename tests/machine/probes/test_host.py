import logging
import os
import shutil
from math import inf
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veltair.machine.probes.host import (
    ASSUMED_L3_BYTES,
    core_unit,
    host,
    host_name,
    quota_notes,
    read_topology,
)
from veltair.machine.probes.probe import HostSpeeds
from veltair.machine.topology.cpulist import format_cpu_list, parse_cpu_list

SPEEDS = HostSpeeds(
    (1e11, 1.2e11),
    (2e10, 3e10, 1e10),
    (5e10, 4e10, 6e10),
    vector_bits=512,
)


def make_sysfs(
    root: Path, groups: list[list[int]], l3: str | list[str] = "16384K", threads: dict[int, str] | None = None
) -> Path:
    """Write the cache entries of a machine whose cores share L3 in `groups`; other hardware threads too."""
    for index, group in enumerate(groups):
        shared = format_cpu_list(group)
        size = l3 if isinstance(l3, str) else l3[index]
        for core in group:
            write_cache(root, core, 0, ("1", "Data", "32K", str(core)))
            write_cache(root, core, 1, ("1", "Instruction", "32K", str(core)))
            write_cache(root, core, 2, ("2", "Unified", "512K", str(core)))
            write_cache(root, core, 3, ("3", "Unified", size, shared))
            topology = root / f"cpu{core}" / "topology"
            topology.mkdir()
            (topology / "thread_siblings_list").write_text((threads or {}).get(core, str(core)) + "\n")
    return root


def write_cache(root: Path, core: int, index: int, values: tuple[str, str, str, str]) -> None:
    folder = root / f"cpu{core}" / "cache" / f"index{index}"
    folder.mkdir(parents=True)
    for name, value in zip(("level", "type", "size", "shared_cpu_list"), values, strict=True):
        (folder / name).write_text(value + "\n")


def consecutive(groups: int, size: int) -> list[list[int]]:
    return [list(range(index * size, (index + 1) * size)) for index in range(groups)]


@pytest.mark.parametrize(("groups", "size"), [(1, 2), (16, 4), (16, 8)])
def test_cores_are_grouped_by_the_l3_they_share(tmp_path: Path, groups: int, size: int) -> None:
    ids = consecutive(groups, size)
    topology = read_topology(make_sysfs(tmp_path, ids), range(groups * size))
    assert topology.cache_groups == tuple(tuple(group) for group in ids)
    assert (topology.l2_bytes, topology.l3_bytes) == (512 * 2**10, 16 * 2**20)
    assert topology.notes == ()


def test_groups_need_not_be_of_consecutive_ids(tmp_path: Path) -> None:
    topology = read_topology(make_sysfs(tmp_path, [[0, 2], [1, 3]]), range(4))
    assert topology.cache_groups == ((0, 2), (1, 3))


def test_cores_that_are_not_allowed_are_left_out(tmp_path: Path) -> None:
    topology = read_topology(make_sysfs(tmp_path, consecutive(4, 4)), [4, 5, 12, 13])
    assert topology.cache_groups == ((4, 5), (12, 13))
    assert topology.notes == ()


def test_groups_cut_to_unequal_size_become_one_with_all_their_l3_and_a_note(tmp_path: Path) -> None:
    topology = read_topology(make_sysfs(tmp_path, consecutive(4, 4)), [0, 1, 2, 3, 4, 12])
    assert topology.cache_groups == ((0, 1, 2, 3, 4, 12),)
    assert topology.l3_bytes == 3 * 16 * 2**20
    assert len(topology.notes) == 1
    assert "unequal size (0-3 4 12)" in topology.notes[0]


def test_l3_of_unlike_size_count_as_the_smallest_with_a_note(tmp_path: Path) -> None:
    topology = read_topology(make_sysfs(tmp_path, consecutive(2, 8), ["98304K", "32M"]), range(16))
    assert topology.l3_bytes == 32 * 2**20
    assert "unlike size" in topology.notes[0]


def test_of_hardware_threads_that_share_a_core_the_lowest_allowed_counts(tmp_path: Path) -> None:
    # 4 cores in one group, each with a second thread 4 higher; thread 0 is not allowed, so 4 stands for it.
    threads = {core: f"{core % 4},{core % 4 + 4}" for core in range(8)}
    topology = read_topology(make_sysfs(tmp_path, [list(range(8))], threads=threads), range(1, 8))
    assert topology.cache_groups == ((1, 2, 3, 4),)
    assert "hardware threads 5-7" in topology.notes[0]


def test_without_l3_entries_one_group_of_an_assumed_size_is_taken_with_a_note(tmp_path: Path) -> None:
    topology = read_topology(tmp_path, range(3))
    assert topology.cache_groups == ((0, 1, 2),)
    assert topology.l3_bytes == ASSUMED_L3_BYTES
    assert "assuming one of 32 MiB for all 3 cores" in topology.notes[0]


def siblings_apart(cores: int) -> dict[int, str]:
    """Second threads numbered after all first ones, as on most servers: 0 and 64, 1 and 65, …"""
    return {thread: f"{thread % cores},{thread % cores + cores}" for thread in range(2 * cores)}


def siblings_adjacent(cores: int) -> dict[int, str]:
    """Threads of a core numbered one after the other, as on some virtual machines: 0-1, 2-3, …"""
    return {thread: f"{thread & ~1}-{thread | 1}" for thread in range(2 * cores)}


@pytest.mark.parametrize(("cores", "size"), [(64, 4), (64, 8), (128, 8), (128, 16)])
def test_of_a_server_with_two_threads_a_core_each_core_counts_once_in_the_group_of_its_l3(
    tmp_path: Path, cores: int, size: int
) -> None:
    firsts = consecutive(cores // size, size)
    groups = [[*group, *(core + cores for core in group)] for group in firsts]
    root = make_sysfs(tmp_path, groups, threads=siblings_apart(cores))
    topology = read_topology(root, range(2 * cores))
    assert topology.cache_groups == tuple(tuple(group) for group in firsts)
    assert topology.notes == (
        f"hardware threads {cores}-{2 * cores - 1} share a core with another and are left unused",
    )


def test_threads_of_a_core_may_be_numbered_one_after_the_other(tmp_path: Path) -> None:
    root = make_sysfs(tmp_path, consecutive(16, 8), threads=siblings_adjacent(64))
    groups = read_topology(root, range(128)).cache_groups
    assert groups == tuple(tuple(range(8 * group, 8 * group + 8, 2)) for group in range(16))


def test_a_container_with_the_second_threads_only_has_their_cores(tmp_path: Path) -> None:
    groups = [[*group, *(core + 64 for core in group)] for group in consecutive(16, 4)]
    topology = read_topology(make_sysfs(tmp_path, groups, threads=siblings_apart(64)), range(64, 80))
    assert topology.cache_groups == tuple(tuple(range(first, first + 4)) for first in range(64, 80, 4))
    assert topology.notes == ()


def test_a_container_with_whole_groups_of_two_sockets_keeps_them(tmp_path: Path) -> None:
    topology = read_topology(make_sysfs(tmp_path, consecutive(16, 8)), [*range(8), *range(64, 72)])
    assert topology.cache_groups == (tuple(range(8)), tuple(range(64, 72)))


def test_cores_that_are_offline_are_left_out_with_a_note(tmp_path: Path) -> None:
    # The kernel takes the cache entries of a core that goes offline away.
    root = make_sysfs(tmp_path, consecutive(15, 4))
    (root / "online").write_text("0-59\n")
    (root / "cpu60").mkdir()
    topology = read_topology(root, range(64))
    assert topology.cache_groups == tuple(tuple(group) for group in consecutive(15, 4))
    assert topology.l3_bytes == 16 * 2**20
    assert topology.notes == ("cores 60-63 are offline and are left out",)


def test_a_core_whose_sibling_is_offline_still_counts(tmp_path: Path) -> None:
    root = make_sysfs(tmp_path, [[0, 1, 2, 3]])
    (root / "online").write_text("0-3\n")
    assert read_topology(root, range(8)).cache_groups == ((0, 1, 2, 3),)


def test_if_all_allowed_cores_are_offline_the_error_names_them(tmp_path: Path) -> None:
    root = make_sysfs(tmp_path, [[0, 1]])
    (root / "online").write_text("0-1\n")
    with pytest.raises(ValueError, match="no core is allowed and cores 2-3 are offline"):
        read_topology(root, [2, 3])


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, dict[int, int]]]:
    """Trees of servers of 64 cores with two threads each, and the core of each thread."""
    made = []
    for siblings, groups in ((siblings_apart, 16), (siblings_adjacent, 8)):
        threads = siblings(64)
        core_of = {thread: min(parse_cpu_list(shared)) for thread, shared in threads.items()}
        by_core = sorted(threads, key=lambda thread: core_of[thread])
        size = 128 // groups
        shared = [by_core[size * group : size * (group + 1)] for group in range(groups)]
        root = make_sysfs(tmp_path_factory.mktemp("sysfs"), shared, threads=threads)
        made.append((root, core_of))
    return made


@given(st.integers(0, 1), st.sets(st.integers(0, 127), min_size=1))
@settings(max_examples=20)
def test_whatever_a_container_may_use_each_of_its_cores_is_in_one_group_once(
    servers: list[tuple[Path, dict[int, int]]], which: int, allowed: set[int]
) -> None:
    root, core_of = servers[which]
    topology = read_topology(root, allowed)
    chosen = [thread for group in topology.cache_groups for thread in group]
    assert allowed.issuperset(chosen)
    assert sorted(core_of[thread] for thread in chosen) == sorted({core_of[thread] for thread in allowed})
    assert len({len(group) for group in topology.cache_groups}) == 1


@pytest.mark.parametrize("quota_cores", [inf, 64.0, 100.0])
def test_a_process_with_the_time_of_all_its_cores_is_not_warned_of(quota_cores: float) -> None:
    assert quota_notes(64, quota_cores) == []


def test_a_process_with_less_time_than_cores_is_warned_of() -> None:
    (note,) = quota_notes(64, 3.5)
    assert "grants the time of 3.5 cores, fewer than the 64 that may be used" in note


def hybrid(root: Path) -> Path:
    """Write a processor of 4 fast cores and 4 slow ones that share one L3, each slow one with one thread."""
    cpus = root / "devices" / "system" / "cpu"
    return make_sysfs(cpus, [list(range(8))])


def test_cores_of_a_hybrid_processor_s_slow_kinds_are_left_unused_with_a_note(tmp_path: Path) -> None:
    root = hybrid(tmp_path)
    for unit, cores in (("cpu_core", "0-3"), ("cpu_atom", "4-5"), ("cpu_lowpower", "6,7")):
        (tmp_path / "devices" / unit).mkdir()
        (tmp_path / "devices" / unit / "cpus").write_text(f"{cores}\n")
    topology = read_topology(root, range(8))
    assert topology.cache_groups == ((0, 1, 2, 3),)
    assert "cores 4-7 are of a slower kind than the others and are left unused" in topology.notes[0]


def test_a_process_that_has_slow_cores_alone_uses_them(tmp_path: Path) -> None:
    root = hybrid(tmp_path)
    (tmp_path / "devices" / "cpu_atom").mkdir()
    (tmp_path / "devices" / "cpu_atom" / "cpus").write_text("4-7\n")
    topology = read_topology(root, range(4, 8))
    assert (topology.cache_groups, topology.notes) == (((4, 5, 6, 7),), ())


@pytest.mark.parametrize(
    ("name", "speeds", "used"),
    [
        ("cpu_capacity", [1024, 1024, 446, 446], (0, 1)),
        ("cpufreq/cpuinfo_max_freq", [5_100_000, 5_100_000, 3_700_000, 3_700_000], (0, 1)),
        # The best cores of a chip clock a little higher.
        ("cpufreq/cpuinfo_max_freq", [6_000_000, 5_700_000, 5_700_000, 5_700_000], (0, 1, 2, 3)),
        ("cpufreq/cpuinfo_max_freq", [5_100_000, "unknown", 3_700_000, 3_700_000], (0, 1, 2, 3)),
    ],
)
def test_cores_that_clock_far_lower_than_others_are_left_unused(
    tmp_path: Path, name: str, speeds: list[int | str], used: tuple[int, ...]
) -> None:
    root = make_sysfs(tmp_path, [[0, 1, 2, 3]])
    for core, speed in enumerate(speeds):
        file = root / f"cpu{core}" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{speed}\n")
    assert read_topology(root, range(4)).cache_groups == (used,)


def test_cores_without_an_l3_beside_others_that_have_one_are_left_unused(tmp_path: Path) -> None:
    root = make_sysfs(tmp_path, [[0, 1], [2, 3]])
    for core in (2, 3):
        shutil.rmtree(root / f"cpu{core}" / "cache" / "index3")
    topology = read_topology(root, range(4))
    assert (topology.cache_groups, topology.l3_bytes) == (((0, 1),), 16 * 2**20)
    assert topology.notes == ("cores 2-3 have no L3, as others have, and are left unused",)


@pytest.mark.parametrize("size", [None, "0K"])
def test_a_cache_without_a_size_counts_as_none(tmp_path: Path, size: str | None) -> None:
    root = make_sysfs(tmp_path, [[0, 1]], size or "16384K")
    if size is None:
        for core in (0, 1):
            (root / f"cpu{core}" / "cache" / "index3" / "size").unlink()
    topology = read_topology(root, range(2))
    assert topology.l3_bytes == ASSUMED_L3_BYTES and "tells no L3" in topology.notes[0]


def test_a_size_that_the_kernel_would_not_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'big' is not a cache size"):
        read_topology(make_sysfs(tmp_path, [[0, 1]], "big"), range(2))


def test_no_allowed_core_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no core is allowed"):
        read_topology(tmp_path, [])


@pytest.mark.parametrize(
    ("cores", "group_size", "unit"),
    [
        (2, 2, 1),
        (16, 4, 1),
        (16, 16, 1),
        (32, 4, 4),
        (64, 4, 4),
        (128, 8, 8),
        (48, 48, 8),
        (62, 31, 1),
        (60, 30, 6),
    ],
)
def test_the_core_unit_is_1_on_small_machines_and_divides_a_cache_group_on_large_ones(
    cores: int, group_size: int, unit: int
) -> None:
    assert core_unit(cores, group_size) == unit


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (
            "model name\t: AMD Ryzen Threadripper 3990X 64-Core Processor\n",
            "amd-ryzen-threadripper-3990x-64-core-processor",
        ),
        ("model name\t: Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz\n", "intel-xeon-gold-6130-cpu"),
    ],
)
def test_the_name_comes_from_the_processor_and_the_number_of_cores(
    tmp_path: Path, text: str, name: str
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{text}")
    assert host_name(8, tmp_path / "cpuinfo") == f"{name}-8-cores"


def test_a_processor_without_a_model_name_is_named_by_its_architecture(tmp_path: Path) -> None:
    assert host_name(4, tmp_path / "missing") == f"{os.uname().machine.replace('_', '-')}-processor-4-cores"


def test_this_machine_is_a_machine_of_cores_that_may_be_used(tmp_path: Path) -> None:
    machine = host(tmp_path, SPEEDS)
    assert os.sched_getaffinity(0).issuperset(machine.core_ids)
    assert (machine.core_peak_flops, machine.dram_bytes_per_s) == (1.2e11, 5e10)
    assert (machine.core_dram_bytes_per_s, machine.vector_bits) == (2e10, 512)
    assert machine.validated


def test_what_had_to_be_assumed_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bare = read_topology(tmp_path, os.sched_getaffinity(0))
    monkeypatch.setattr("veltair.machine.probes.host.read_topology", lambda: bare)
    with caplog.at_level(logging.WARNING):
        host(tmp_path, SPEEDS)
    assert "tells no L3" in caplog.text

import logging
import os
from pathlib import Path

import pytest

from veltair.machine.cpulist import format_cpu_list
from veltair.machine.host import (
    ASSUMED_L3_BYTES,
    HostSpeeds,
    core_unit,
    host,
    host_name,
    probe,
    read_topology,
)

SPEEDS = HostSpeeds((1e11, 1.2e11), (2e10, 3e10, 1e10), (5e10, 4e10, 6e10))


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


def test_a_peak_is_the_best_repeat_and_a_bandwidth_the_median() -> None:
    assert (SPEEDS.core_peak_flops, SPEEDS.core_dram_bytes_per_s, SPEEDS.dram_bytes_per_s) == (
        1.2e11,
        2e10,
        5e10,
    )


def test_all_cores_together_are_never_slower_than_one() -> None:
    assert HostSpeeds((1e11,), (3e10,), (2e10,)).dram_bytes_per_s == 3e10


def test_this_machine_is_a_machine_of_cores_that_may_be_used(tmp_path: Path) -> None:
    machine = host(tmp_path, SPEEDS)
    assert os.sched_getaffinity(0).issuperset(machine.core_ids)
    assert (machine.core_peak_flops, machine.dram_bytes_per_s) == (1.2e11, 5e10)
    assert machine.validated


def test_what_had_to_be_assumed_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bare = read_topology(tmp_path, os.sched_getaffinity(0))
    monkeypatch.setattr("veltair.machine.host.read_topology", lambda: bare)
    with caplog.at_level(logging.WARNING):
        host(tmp_path, SPEEDS)
    assert "tells no L3" in caplog.text


def test_the_probe_returns_a_speed_for_each_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veltair.machine.host.PROBE_SECONDS", 0.01)
    monkeypatch.setattr("veltair.machine.host.PROBE_REPEATS", 2)
    root = make_sysfs(tmp_path, [sorted(os.sched_getaffinity(0))], "4096K")
    speeds = probe(tmp_path / "build", read_topology(root))
    for repeats in (speeds.core_flops, speeds.core_dram_bytes_per_s_repeats, speeds.dram_bytes_per_s_repeats):
        assert len(repeats) == 2
        assert all(1e6 < speed < 1e14 for speed in repeats)


def test_a_probe_on_a_core_that_cannot_be_had_says_which(tmp_path: Path) -> None:
    topology = read_topology(make_sysfs(tmp_path, [[100000, 100001]]), [100000, 100001])
    with pytest.raises(RuntimeError, match=r"the probe failed on cores 100000 \(exit status 1\)"):
        probe(tmp_path / "build", topology)

"""What the system allows a process, from made-up trees of cgroups."""

import math
import os
import threading
from pathlib import Path

import pytest

from veltair.machine.topology.cpu_limits import CpuLimits, allowance

FOUR = frozenset({0, 1, 2, 3})
ALL = tuple(sorted(os.sched_getaffinity(0)))


def quota_in(tmp_path: Path, groups: str, files: dict[str, str]) -> float:
    """Return the quota of a process of some groups, where these files are in the tree."""
    (tmp_path / "membership").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return allowance(tmp_path / "membership", tmp_path / "tree").quota_cores


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {}, math.inf),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3.0),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "a/cpu.max": "300000 100000\n"}, 0.5),
        ("0::/a\n", {"other/cpu.max": "50000 100000\n"}, math.inf),
        (
            "3:cpu:/\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            math.inf,
        ),
        (
            "4:memory:/x\n3:cpu,cpuacct:/a\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "20000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "10000\n"},
            2.0,
        ),
        ("3:cpuset:/a\n", {"cpuset/a/cpu.cfs_quota_us": "1\n"}, math.inf),
        # The kernel names the controllers in an order of its own, which need not be that of the mount.
        (
            "4:cpuacct,cpu:/a\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
        (
            "4:cpu,cpuacct:/a\n",
            {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            3.0,
        ),
        ("0::/a\n", {"a/cpu.max": "\n", "cpu.max": "soon 100000\n"}, math.inf),
        ("no cgroup at all\n\n", {}, math.inf),
    ],
)
def test_the_quota_is_the_least_of_the_process_own_groups(
    tmp_path: Path, groups: str, files: dict[str, str], cores: float
) -> None:
    assert quota_in(tmp_path, groups, files) == cores


def test_a_quota_that_changes_is_read_anew(tmp_path: Path) -> None:
    assert quota_in(tmp_path, "0::/a\n", {"a/cpu.max": "max 100000"}) == math.inf
    assert quota_in(tmp_path, "0::/a\n", {"a/cpu.max": "10000 100000"}) == 0.1


def test_where_the_system_tells_nothing_there_is_no_quota(tmp_path: Path) -> None:
    assert allowance(tmp_path / "none", tmp_path).quota_cores == math.inf


def test_the_cores_are_those_of_the_calling_thread() -> None:
    found: list[CpuLimits] = []

    def pinned() -> None:
        os.sched_setaffinity(0, ALL[:1])
        found.append(allowance())

    thread = threading.Thread(target=pinned)
    thread.start()
    thread.join()
    assert found[0].core_ids == set(ALL[:1])
    assert allowance().core_ids == set(ALL)


def test_cores_that_are_gone_are_named_with_those_that_are_left() -> None:
    taken = CpuLimits(FOUR).taken(CpuLimits(frozenset({0, 2})), (0, 1, 2, 3))
    assert taken == (
        "cores taken away from this process: 1,3 (left: 0,2); give them back (taskset, cgroup) and run again"
    )


@pytest.mark.parametrize(
    ("before", "now", "core_ids"),
    [
        (CpuLimits(FOUR), CpuLimits(FOUR), (0, 1, 2, 3)),
        (CpuLimits(FOUR), CpuLimits(frozenset({0, 1})), (0, 1)),  # it does not run on the others
        (CpuLimits(frozenset({0})), CpuLimits(frozenset({2})), (10, 11)),  # nor did it ever have these
        (CpuLimits(frozenset({0})), CpuLimits(FOUR), (0,)),
        (CpuLimits(FOUR), CpuLimits(FOUR, 4.0), (0, 1, 2, 3)),  # enough for all of its cores
        (CpuLimits(FOUR, 2.0), CpuLimits(FOUR, 2.0), (0, 1, 2, 3)),  # as little as when it began
        (CpuLimits(FOUR, 2.0), CpuLimits(FOUR, 3.0), (0, 1, 2, 3)),
    ],
)
def test_nothing_is_taken_where_the_cores_in_use_stay(
    before: CpuLimits, now: CpuLimits, core_ids: tuple[int, ...]
) -> None:
    assert before.taken(now, core_ids) == ""


def test_a_quota_that_was_lowered_below_the_cores_is_told() -> None:
    taken = CpuLimits(FOUR).taken(CpuLimits(FOUR, 1.5), (0, 1, 2, 3))
    assert taken == (
        "the CPU quota of this process was lowered to the time of 1.5 cores, fewer than the 4 that it runs "
        "on: kernels are stopped under way. Give it whole cores and no quota (cgroup) and run again"
    )


def test_a_quota_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a quota of 0\.0 cores lets nothing run"):
        CpuLimits(FOUR, 0.0)

"""What the system lets this process use: which cores, and the time of how many. It can change at any time."""

import math
import os
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from veltair.machine.topology.cpulist import format_cpu_list

MEMBERSHIP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")

_MEMBERSHIPS_REMEMBERED = 8


@dataclass(frozen=True, slots=True)
class CpuLimits:
    """The core ids that a thread may run on, and of how many cores all of its process may use the time."""

    core_ids: frozenset[int]
    quota_cores: float = math.inf

    def __post_init__(self) -> None:
        if not self.quota_cores > 0:
            raise ValueError(f"a quota of {self.quota_cores} cores lets nothing run; give more than 0")

    def taken(self, now: "CpuLimits", core_ids: Collection[int]) -> str:
        """Return what of some cores that were allowed is allowed no longer, and what to do; else nothing."""
        lost = self.core_ids.intersection(core_ids) - now.core_ids
        if lost:
            return (
                f"cores taken away from this process: {format_cpu_list(lost)} (left: "
                f"{format_cpu_list(now.core_ids)}); give them back (taskset, cgroup) and run again"
            )
        if now.quota_cores < min(self.quota_cores, len(core_ids)):
            return (
                f"the CPU quota of this process was lowered to the time of {now.quota_cores:g} cores, fewer "
                f"than the {len(core_ids)} that it runs on: kernels are stopped under way. Give it whole "
                "cores and no quota (cgroup) and run again"
            )
        return ""


def allowance(membership: Path = MEMBERSHIP, cgroups: Path = CGROUPS) -> CpuLimits:
    """Return what the calling thread may use now.

    `membership` names the cgroups of the process, `cgroups` is where they are mounted: version 1, 2 or both.
    Where there are none, there is no quota.
    """
    try:
        groups = membership.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        groups = ""
    quotas = [_quota(path) for path in _quota_files(groups, cgroups)]
    return CpuLimits(frozenset(os.sched_getaffinity(0)), min(quotas, default=math.inf))


@lru_cache(_MEMBERSHIPS_REMEMBERED)
def _quota_files(groups: str, cgroups: Path) -> tuple[Path, ...]:
    """Return the files that can hold a quota for a process: of its groups, and of all that these are in."""
    found: list[Path] = []
    for line in groups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            found += _upwards(cgroups, group, "cpu.max")
        elif "cpu" in controllers.split(","):
            for mount in _mounts(cgroups):
                found += _upwards(mount, group, "cpu.cfs_quota_us")
    return tuple(found)


def _mounts(cgroups: Path) -> list[Path]:
    """Return where version 1 has the controller `cpu`: the kernel names several in an order of its own."""
    try:
        return [folder for folder in sorted(cgroups.iterdir()) if "cpu" in folder.name.split(",")]
    except OSError:
        return []


def _upwards(root: Path, group: str, name: str) -> list[Path]:
    inner = root / group.lstrip("/")
    return [folder / name for folder in (inner, *inner.parents) if folder.is_relative_to(root)]


def _quota(path: Path) -> float:
    """Return the quota in a file, in cores; infinite where there is none, or no number in it."""
    try:
        words = path.read_text(encoding="ascii").split()
        if path.name == "cpu.max":
            return math.inf if words[0] == "max" else int(words[0]) / int(words[1])
        if int(words[0]) < 0:
            return math.inf
        period = path.with_name("cpu.cfs_period_us").read_text(encoding="ascii")
        return int(words[0]) / int(period)
    except (OSError, ValueError, LookupError, ZeroDivisionError):
        return math.inf

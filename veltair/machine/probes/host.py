"""The machine we run on: its topology as Linux reports it, its speeds as a short probe measures them."""

import logging
import os
import platform
import re
from collections.abc import Collection
from pathlib import Path

from veltair.machine.probes.probe import HostSpeeds, probe
from veltair.machine.topology.cpulist import format_cpu_list, parse_cpu_list
from veltair.machine.topology.topology import Machine, Topology

SYSFS_CPUS = Path("/sys/devices/system/cpu")
CPUINFO = Path("/proc/cpuinfo")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")

# Where the kernel does not report the caches (some containers and virtual machines): typical of servers.
ASSUMED_L2_BYTES = 2**20
ASSUMED_L3_BYTES = 32 * 2**20

# Up to here cores are given one by one; above, in whole cache groups, if these are not larger than the unit
# the paper's authors used.
SMALL_MACHINE_CORES = 16
LARGEST_CORE_UNIT = 8

_log = logging.getLogger(__name__)


def host(build_dir: Path, speeds: HostSpeeds | None = None, cpu: str = "auto") -> Machine:
    """Return this machine as far as this process may use it, with speeds from a probe unless given.

    `cpu` is what the probe is compiled for, see `probe`.
    What had to be assumed is logged as a warning. Raises NativeBuildError if the probe cannot be compiled.
    """
    topology = read_topology()
    cores = sum(len(group) for group in topology.cache_groups)
    for note in (*topology.notes, *quota_notes(cores)):
        _log.warning("%s", note)
    speeds = speeds or probe(build_dir, topology, cpu)
    return Machine(
        name=host_name(cores),
        core_unit=core_unit(cores, len(topology.cache_groups[0])),
        cache_groups=topology.cache_groups,
        l2_bytes=topology.l2_bytes,
        l3_bytes=topology.l3_bytes,
        core_peak_flops=speeds.core_peak_flops,
        dram_bytes_per_s=speeds.dram_bytes_per_s,
        validated=True,
        vector_bits=speeds.vector_bits,
        clock_factors=speeds.clock_factors,
        core_dram_bytes_per_s=speeds.core_dram_bytes_per_s,
    )


def host_name(cores: int, cpuinfo: Path = CPUINFO) -> str:
    """Return a name for this machine's tables, like `amd-epyc-2-cores`, from the processor's own."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    processor = found.group(1) if found else f"{platform.machine()} processor"
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)|@.*", "", processor.lower())).strip("-")
    return f"{slug}-{cores}-cores"


def core_unit(cores: int, group_size: int) -> int:
    """Return the step in which cores are given.

    1 on machines of up to 16 cores, else the largest divisor of the cache group's size that is at most 8:
    the whole group where it is that small, as blocks in whole groups share no L3.
    """
    if cores <= SMALL_MACHINE_CORES:
        return 1
    return max(unit for unit in range(1, LARGEST_CORE_UNIT + 1) if group_size % unit == 0)


def read_topology(root: Path = SYSFS_CPUS, allowed: Collection[int] | None = None) -> Topology:
    """Return the usable cores and their caches from a sysfs tree.

    `allowed` are the ids this process may run on (its affinity if not given). Those that are offline are left
    out, and of hardware threads that share a core only the lowest allowed counts. Groups of unequal size (a
    container or taskset cut them) become one group of all cores with all their L3; without L3 entries the
    caches are assumed. Notes say so. Raises ValueError if no core is left.
    """
    ids, notes = _online(root, sorted(os.sched_getaffinity(0) if allowed is None else set(allowed)))
    if not ids:
        raise ValueError(" and ".join(["no core is allowed", *notes]) + "; give at least one core id online")
    cores, left_out = _first_threads(root, ids)
    notes += left_out
    l2 = _cache(root, cores[0], level=2)
    l2_bytes = l2[0] if l2 else ASSUMED_L2_BYTES
    sizes: dict[tuple[int, ...], int] = {}
    for core in cores:
        l3 = _cache(root, core, level=3)
        if l3 is None:
            notes.append(
                f"{root} tells no L3 for core {core}; assuming one of {ASSUMED_L3_BYTES >> 20} MiB for all "
                f"{len(cores)} cores, and {l2_bytes >> 10} KiB of L2 each"
            )
            return Topology((tuple(cores),), l2_bytes, ASSUMED_L3_BYTES, tuple(notes))
        sizes[tuple(sorted(l3[1].intersection(cores) | {core}))] = l3[0]
    return _group(sizes, l2_bytes, notes)


def quota_notes(cores: int, quota: Path = CPU_QUOTA) -> list[str]:
    """Return a note if a container may use less time than so many cores have: it is stopped under way then.

    `quota` is cgroup v2's `cpu.max`: the microseconds of all cores together in each period, or `max`, and the
    period. Without such a file there is no quota.
    """
    words = (_read(quota) or "max").split()
    if words[0] == "max":
        return []
    granted = int(words[0]) / int(words[1])
    if granted >= cores:
        return []
    return [
        f"{quota} grants the time of {granted:g} cores, fewer than the {cores} that may be used: kernels "
        "will be stopped under way. Give the container whole cores (a cpuset) and no quota"
    ]


def _online(root: Path, ids: list[int]) -> tuple[list[int], list[str]]:
    """Return the ids that are online, all where sysfs does not say, and a note if others were left out."""
    listed = _read(root / "online")
    known = set(parse_cpu_list(listed)) if listed else set(ids)
    offline = format_cpu_list(set(ids) - known)
    notes = [f"cores {offline} are offline and are left out"] if offline else []
    return [core for core in ids if core in known], notes


def _first_threads(root: Path, ids: list[int]) -> tuple[list[int], list[str]]:
    """Return one id a physical core, and a note if others were left out."""
    taken: list[int] = []
    siblings: set[int] = set()
    for core in ids:
        if core not in siblings:
            taken.append(core)
            shared = _read(root / f"cpu{core}" / "topology" / "thread_siblings_list")
            siblings.update(parse_cpu_list(shared) if shared else ())
    left_out = format_cpu_list(set(ids).difference(taken))
    if not left_out:
        return taken, []
    return taken, [f"hardware threads {left_out} share a core with another and are left unused"]


def _group(sizes: dict[tuple[int, ...], int], l2_bytes: int, notes: list[str]) -> Topology:
    """Return the topology of cache groups with their L3 sizes, made even where they are not."""
    groups = sorted(sizes)
    if len({len(group) for group in groups}) > 1:
        cores = tuple(sorted(core for group in groups for core in group))
        listed = " ".join(format_cpu_list(group) for group in groups)
        notes.append(
            f"the usable cores share their L3 in groups of unequal size ({listed}); treating them as one "
            "group of all cores. Give the process whole groups (taskset, cpuset) for placement by cache"
        )
        return Topology((cores,), l2_bytes, sum(sizes.values()), tuple(notes))
    if len(set(sizes.values())) > 1:
        notes.append(
            f"the cache groups have L3 of unlike size ({sorted(set(sizes.values()))} bytes); "
            "taking the smallest"
        )
    return Topology(tuple(groups), l2_bytes, min(sizes.values()), tuple(notes))


def _cache(root: Path, core: int, level: int) -> tuple[int, set[int]] | None:
    """Return the bytes of a core's cache of a level and the ids that share it, None if sysfs lacks them."""
    for index in sorted((root / f"cpu{core}" / "cache").glob("index*")):
        if _read(index / "level") == str(level) and _read(index / "type") != "Instruction":
            size, shared = _read(index / "size"), _read(index / "shared_cpu_list")
            if size and shared:
                return _parse_size(size), set(parse_cpu_list(shared))
    return None


def _parse_size(text: str) -> int:
    """Return bytes from sysfs's `32768K`. Raises ValueError on anything else."""
    found = re.fullmatch(r"(\d+)([KMG]?)", text)
    if not found:
        raise ValueError(f"{text!r} is not a cache size; the kernel writes them like 32768K")
    return int(found.group(1)) << {"": 0, "K": 10, "M": 20, "G": 30}[found.group(2)]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None

"""The machine we run on: its topology as Linux reports it, its speeds as a short probe measures them."""

import logging
import os
import platform
import re
from collections.abc import Collection
from pathlib import Path

from veltair.machine.probes.probe import HostSpeeds, probe
from veltair.machine.topology.cpu_limits import allowance
from veltair.machine.topology.cpulist import format_cpu_list, parse_cpu_list
from veltair.machine.topology.topology import Machine, Topology

SYSFS_CPUS = Path("/sys/devices/system/cpu")
CPUINFO = Path("/proc/cpuinfo")

# Where the kernel does not report the caches (some containers and virtual machines): typical of servers.
ASSUMED_L2_BYTES = 2**20
ASSUMED_L3_BYTES = 32 * 2**20

# Up to here cores are given one by one; above, in whole cache groups, if these are not larger than the unit
# the paper's authors used.
SMALL_MACHINE_CORES = 16
LARGEST_CORE_UNIT = 8

# Files of a core that tell its speed: the kernel's own estimate, or its highest clock in kHz. Of one kind of
# cores the best clock a little higher than the others, which does not make these slow.
SPEED_FILES = ("cpu_capacity", "cpufreq/cpuinfo_max_freq")
SLOW = 0.85
# Whose cores Intel's hybrid processors have beside the fast ones: the folders of their counters.
SLOW_UNITS = ("cpu_atom", "cpu_lowpower")

_log = logging.getLogger(__name__)


def host(build_dir: Path, speeds: HostSpeeds | None = None, cpu: str = "auto") -> Machine:
    """Return this machine as far as this process may use it, with speeds from a probe unless given.

    `cpu` is what the probe is compiled for, see `probe`.
    What had to be assumed is logged as a warning. Raises NativeBuildError if the probe cannot be compiled.
    """
    topology = read_topology()
    cores = sum(len(group) for group in topology.cache_groups)
    for note in (*topology.notes, *quota_notes(cores, allowance().quota_cores)):
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
    out, and of hardware threads that share a core only the lowest allowed counts. Cores that are slower than
    others, or have no L3 where others have one, are left out too: all cores count alike here. Groups of
    unequal size (a container or taskset cut them) become one group of all cores with all their L3; without
    any L3 entry the caches are assumed. Notes say so. Raises ValueError if no core is left.
    """
    ids, notes = _online(root, sorted(os.sched_getaffinity(0) if allowed is None else set(allowed)))
    if not ids:
        raise ValueError(" and ".join(["no core is allowed", *notes]) + "; give at least one core id online")
    for choose in (_first_threads, _fast_cores, _cores_with_l3):
        ids, left_out = choose(root, ids)
        notes += left_out
    return _topology(root, ids, notes)


def _topology(root: Path, cores: list[int], notes: list[str]) -> Topology:
    """Return the topology of the cores that are used."""
    l2 = _cache(root, cores[0], level=2)
    l2_bytes = l2[0] if l2 else ASSUMED_L2_BYTES
    sizes: dict[tuple[int, ...], int] = {}
    for core in cores:
        l3 = _cache(root, core, level=3)
        if l3 is None:  # nor has any other core one
            notes.append(
                f"{root} tells no L3 for core {core}; assuming one of {ASSUMED_L3_BYTES >> 20} MiB for all "
                f"{len(cores)} cores, and {l2_bytes >> 10} KiB of L2 each"
            )
            return Topology((tuple(cores),), l2_bytes, ASSUMED_L3_BYTES, tuple(notes))
        sizes[tuple(sorted(l3[1].intersection(cores) | {core}))] = l3[0]
    return _group(sizes, l2_bytes, notes)


def quota_notes(cores: int, quota_cores: float) -> list[str]:
    """Return a note if this process may use less time than so many cores: it is stopped under way then."""
    if quota_cores >= cores:
        return []
    return [
        f"a CPU quota (cgroup) grants the time of {quota_cores:g} cores, fewer than the {cores} that may be "
        "used: kernels will be stopped under way. Give the container whole cores (a cpuset) and no quota"
    ]


def _online(root: Path, ids: list[int]) -> tuple[list[int], list[str]]:
    """Return the ids that are online, all where sysfs does not say, and a note if others were left out."""
    known = set(_core_ids(root / "online") or ids)
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
            siblings.update(_core_ids(root / f"cpu{core}" / "topology" / "thread_siblings_list"))
    left_out = format_cpu_list(set(ids).difference(taken))
    if not left_out:
        return taken, []
    return taken, [f"hardware threads {left_out} share a core with another and are left unused"]


def _fast_cores(root: Path, ids: list[int]) -> tuple[list[int], list[str]]:
    """Return the cores that are not of a slower kind than others, and a note if there were such."""
    slow = _of_slow_units(root, ids) or _of_low_speed(root, ids)
    if not slow:
        return ids, []
    return [core for core in ids if core not in slow], [
        f"cores {format_cpu_list(slow)} are of a slower kind than the others and are left unused; to use "
        "them, give the process these alone (taskset, cpuset)"
    ]


def _of_slow_units(root: Path, ids: list[int]) -> set[int]:
    """Return the cores of a hybrid processor's slow kinds; none where a process has no others."""
    listed = [_core_ids(root.parents[1] / unit / "cpus") for unit in SLOW_UNITS]
    slow = {core for cores in listed for core in cores}.intersection(ids)
    return slow if len(slow) < len(ids) else set()


def _of_low_speed(root: Path, ids: list[int]) -> set[int]:
    """Return the cores that clock far lower than the fastest; none where sysfs does not tell of all."""
    for name in SPEED_FILES:
        speeds = {core: _read(root / f"cpu{core}" / name) for core in ids}
        known = {core: int(text) for core, text in speeds.items() if text and text.isdecimal()}
        if len(known) == len(ids):
            fastest = max(known.values())
            return {core for core, speed in known.items() if speed < SLOW * fastest}
    return set()


def _cores_with_l3(root: Path, ids: list[int]) -> tuple[list[int], list[str]]:
    """Return the cores that have an L3, all where none has, and a note if others were left out."""
    having = [core for core in ids if _cache(root, core, level=3)]
    if len(having) in (0, len(ids)):
        return ids, []
    without = format_cpu_list(set(ids).difference(having))
    return having, [f"cores {without} have no L3, as others have, and are left unused"]


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
            size, shared = _read(index / "size"), _core_ids(index / "shared_cpu_list")
            if size and shared and (size_bytes := _parse_size(size)):
                return size_bytes, set(shared)
    return None


def _core_ids(path: Path) -> tuple[int, ...]:
    """Return the core ids that a file lists, none if there is none. Raises ValueError on anything else."""
    text = _read(path)
    try:
        return parse_cpu_list(text) if text else ()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parse_size(text: str) -> int:
    """Return bytes from sysfs's `32768K`. Raises ValueError on anything else."""
    found = re.fullmatch(r"(\d+)([KMG]?)", text)
    if not found:
        raise ValueError(f"{text!r} is not a cache size; the kernel writes them like 32768K")
    return int(found.group(1)) << {"": 0, "K": 10, "M": 20, "G": 30}[found.group(2)]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None

"""Parts of the L3 by cores: Linux's resctrl, which sets what Intel's CAT and AMD's like of it allow.

A cache is divided into ways. Who runs on some cores may be told to bring data into some ways only; what lies
in the others it still finds. See the kernel's Documentation/filesystems/resctrl.rst.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from veltair.machine.topology.cpulist import format_cpu_list

ROOT = Path("/sys/fs/resctrl")
PREFIX = "veltair-"


class ResctrlError(RuntimeError):
    """The L3 cannot be parted as asked; the message says why."""


@dataclass(frozen=True, slots=True)
class CacheWays:
    """What can be set of the L3: its ways, the fewest in a part, how many parts, the ids of the caches."""

    ways: int
    fewest: int
    parts: int
    caches: tuple[int, ...]


def cache_ways(root: Path = ROOT) -> CacheWays | None:
    """Return what this machine offers; None where it offers nothing, or nobody mounted it.

    Raises ResctrlError if what it says cannot be understood.
    """
    info = root / "info" / "L3"
    try:
        mask = int((info / "cbm_mask").read_text(encoding="ascii"), 16)
        fewest, parts = (
            int((info / name).read_text(encoding="ascii")) for name in ("min_cbm_bits", "num_closids")
        )
        schemata = (root / "schemata").read_text(encoding="ascii")
    except OSError:
        return None
    except ValueError as error:
        raise ResctrlError(
            f"{info} says what is no number ({error}); see that resctrl is mounted there"
        ) from error
    found = re.search(r"^\s*L3:(.+)$", schemata, re.MULTILINE)
    caches = re.findall(r"(\d+)=", found[1]) if found else []
    if not caches or mask & (mask + 1):
        raise ResctrlError(
            f"{root} offers an L3 of the ways {mask:#x} in caches {caches or 'without a number'}; its "
            "schemata have no line like `L3:0=fffff`, or the ways have gaps"
        )
    return CacheWays(mask.bit_length(), fewest, parts, tuple(int(cache) for cache in caches))


def ways_by_cores(cores: Sequence[int], has: CacheWays) -> list[int]:
    """Return how many ways each of some parts of the cores has: in proportion, by largest remainder.

    None has fewer than can be set. Raises ResctrlError if there are not so many.
    """
    if has.fewest * len(cores) > has.ways or len(cores) >= has.parts:
        raise ResctrlError(
            f"{len(cores)} partitions are more than the L3 can be parted into: it has {has.ways} ways, at "
            f"least {has.fewest} in a part, and {has.parts - 1} parts beside that of all others; serve fewer "
            "tenants"
        )
    spare = has.ways - has.fewest * len(cores)
    quotas = [spare * count / sum(cores) for count in cores]
    found = [has.fewest + int(quota) for quota in quotas]
    by_remainder = sorted(range(len(cores)), key=lambda part: int(quotas[part]) - quotas[part])
    for part in by_remainder[: has.ways - sum(found)]:
        found[part] += 1
    return found


@contextmanager
def parted_l3(partitions: Mapping[str, Sequence[int]], root: Path = ROOT) -> Iterator[str]:
    """Let each partition, given by its core ids, fill ways of its own, until the end; say in a line what is.

    Where the machine offers nothing, it says that, and partitions share the L3. Raises ResctrlError if the L3
    cannot be parted so.
    """
    has = cache_ways(root)
    if has is None:
        yield f"no L3 allocation in {root}: partitions share the L3 (mount -t resctrl resctrl {root})"
        return
    ways = ways_by_cores([len(cores) for cores in partitions.values()], has)
    made: list[Path] = []
    try:
        first, told = 0, []
        for (name, cores), count in zip(partitions.items(), ways, strict=True):
            group = root / f"{PREFIX}{name}"
            made.append(group)
            _write_group(group, cores, ((1 << count) - 1) << first, has)
            told.append(f"{name}: cores {format_cpu_list(cores)}, {count} ways")
            first += count
        yield f"L3 of {has.ways} ways parted: {'; '.join(told)}"
    finally:
        for group in made:
            _remove(group)


def _write_group(group: Path, cores: Sequence[int], mask: int, has: CacheWays) -> None:
    schemata = ";".join(f"{cache}={mask:x}" for cache in has.caches)
    try:
        group.mkdir(exist_ok=True)
        (group / "schemata").write_text(f"L3:{schemata}\n", encoding="ascii")
        (group / "cpus_list").write_text(f"{format_cpu_list(cores)}\n", encoding="ascii")
    except OSError as error:
        raise ResctrlError(
            f"{group} cannot be set to cores {format_cpu_list(cores)} and ways {mask:#x} ({error}); measure "
            f"as root, or unmount {group.parent} to let partitions share the L3"
        ) from error


def _remove(group: Path) -> None:
    """Give the cores of a group back to all: its files are the kernel's and go with it."""
    if group.is_dir():
        group.rmdir()

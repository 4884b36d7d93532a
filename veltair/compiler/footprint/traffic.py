"""Parallelism, blocking and compulsory bytes of a version, and the traffic that follows at a cache size.

Pure functions of numbers: what reads them from scheduled TIR is in `tiling.py`.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, sqrt

from veltair.compiler.footprint.residency import RESIDENT_CACHE_BYTES, Residency

# Where a candidate's traffic is estimated: L1 and L2 of CPUs as they are, shares of an L3, a whole one.
CACHE_BYTES = (2**15, 2**18, 2**19, 2**20, 2**21, 2**22, 2**24, 2**25)
# Where a built version's is: a part of an L3 is often between 4 and 16 MiB.
CURVE_BYTES = (*CACHE_BYTES[:6], 2**23, *CACHE_BYTES[6:])


@dataclass(frozen=True, slots=True)
class Tiling:
    """What a loop nest does to caches and cores.

    `parallelism` is the extent of its fused parallel loop (1: none), `blocking_bytes` what one parallel
    iteration touches of inputs, weights, outputs and work space, `compulsory_bytes` what all of them touch
    together, without work space: that is what an iteration makes and uses itself and registers do not hold,
    such as padded or packed inputs, or the transformed tiles of a Winograd kernel. Of several parallel nests
    in a layer, the one with most arithmetic counts. `steepness` is an assumption to be varied: the exponent
    of traffic over compulsory bytes (1: as modelled, 0: nothing is fetched twice). `fetched_bytes` is what
    one core fetches into caches of `CURVE_BYTES`, as `tiling.nest_traffic_bytes` has it; empty where only the
    other numbers are known.
    """

    parallelism: int
    blocking_bytes: int
    compulsory_bytes: int
    steepness: float = 1.0
    fetched_bytes: tuple[int, ...] = ()
    residency: Residency | None = None

    def __post_init__(self) -> None:
        if self.parallelism < 1 or self.blocking_bytes < 0 or self.compulsory_bytes < 0:
            raise ValueError(f"{self}: parallelism is at least 1 and bytes are not negative")
        if not (self.steepness >= 0 and isfinite(self.steepness)):
            raise ValueError(f"{self}: steepness is a finite number, 0 or more")
        if len(self.fetched_bytes) not in (0, len(CURVE_BYTES)):
            raise ValueError(f"{self}: give the bytes fetched into {len(CURVE_BYTES)} caches, or none")
        if any(more < less for more, less in pairwise((*self.fetched_bytes, 0))):
            raise ValueError(f"{self}: into a larger cache no more is fetched, and no negative number")

    @property
    def copies(self) -> float:
        """In how many caches its bytes stand on average, if each iteration has one of its own; at least 1."""
        if self.compulsory_bytes == 0:
            return 1.0
        return max(1.0, self.parallelism * self.blocking_bytes / self.compulsory_bytes)

    @property
    def private_share(self) -> float:
        """The part of what an iteration touches that another one does not, 0 to 1.

        What all share, weights say, counts once: with s bytes of it and p private ones an iteration touches
        s + p bytes, and n iterations s + n p.
        """
        if self.parallelism == 1 or self.blocking_bytes == 0:
            return 1.0
        private = (self.compulsory_bytes - self.blocking_bytes) / (self.parallelism - 1)
        return min(1.0, max(0.0, private / self.blocking_bytes))


def dram_bytes(tiling: Tiling, cores: int, cache_bytes: float, groups: int = 1, warm: float = 1.0) -> float:
    """Return what a layer moves between DRAM and a cache that its cores share, both directions together.

    That is what it would fetch alone, less what it finds, and those of its results that leave the cache; all
    of what it would fetch alone where its residency is not known. `groups` is over how many private caches
    its cores are spread: what stands in several leaves room for less, of an older query's, which may lie in
    any of them, in the measure of the copies, of its own by their square root. `warm` is the share of the
    older query's bytes that others have left there.
    """
    alone = traffic_bytes(tiling, cores, cache_bytes, groups)
    residency = tiling.residency
    if residency is None:
        return alone
    copies = min(float(groups), tiling.copies)
    own_bytes = cache_bytes / sqrt(copies)
    within = interpolated(RESIDENT_CACHE_BYTES, residency.within_bytes, own_bytes)
    written = interpolated(RESIDENT_CACHE_BYTES, residency.written_bytes, own_bytes)
    old = interpolated(RESIDENT_CACHE_BYTES, residency.old_bytes, cache_bytes / copies)
    return max(0.0, alone - within - warm * old) + written


def curve(fetched_bytes: Sequence[int]) -> tuple[int, ...]:
    """Return the bytes fetched into caches of `CURVE_BYTES`; they may be given for those of `CACHE_BYTES`."""
    if len(fetched_bytes) != len(CACHE_BYTES):
        return tuple(fetched_bytes)
    return tuple(round(interpolated(CACHE_BYTES, fetched_bytes, size)) for size in CURVE_BYTES)


def traffic_bytes(tiling: Tiling, cores: int, cache_bytes: float, groups: int = 1) -> float:
    """Return the DRAM bytes of a layer whose cores share caches of `cache_bytes` together, one a group.

    Cores share data that fits. Else those of a group run iterations side by side, which share the cache and
    what they all touch: they fetch what one core would with as much of the cache as one iteration's bytes
    are of theirs together. Where the curve is not known, data that fits comes once; else each iteration
    fetches its own block, and where the blocks of those at work do not fit either, they re-fetch with the
    square root of what is missing, as blocked products do (Hong and Kung, STOC 1981).
    """
    least = float(tiling.compulsory_bytes)
    fits = least <= cache_bytes
    at_work = min(cores, tiling.parallelism)
    if tiling.fetched_bytes:
        part = cache_bytes if fits else cache_bytes / _equal_parts(tiling, at_work, min(groups, at_work))
        modelled = interpolated(CURVE_BYTES, tiling.fetched_bytes, part)
    else:
        modelled = least if fits else max(least, _of_blocks(tiling, at_work, cache_bytes))
    if tiling.steepness == 1.0 or least == 0.0:
        return modelled
    return float(least * (modelled / least) ** tiling.steepness)


def crossing_bytes(tiling: Tiling, cache_bytes: float, groups: int) -> float:
    """Return what of its own query a layer finds in another cache than its core's: no traffic of DRAM.

    Its cores are spread over `groups` private caches, and any of them wrote it.
    """
    residency = tiling.residency
    if residency is None:
        return 0.0
    own_bytes = cache_bytes / sqrt(min(float(groups), tiling.copies))
    within = interpolated(RESIDENT_CACHE_BYTES, residency.within_bytes, own_bytes)
    return within * (1.0 - 1.0 / groups)


def interpolated(sizes: Sequence[int], amounts: Sequence[float], cache_bytes: float) -> float:
    """Return the amount of a cache between two sizes: the part held is not fetched again."""
    index = bisect_right(sizes, cache_bytes)
    if index in (0, len(sizes)):
        return float(amounts[max(0, index - 1)])
    low, high = sizes[index - 1 : index + 1]
    before, after = amounts[index - 1 : index + 1]
    return before + (cache_bytes - low) / (high - low) * (after - before)


def _equal_parts(tiling: Tiling, at_work: int, groups: int) -> float:
    """Return into how many caches of one core those of some groups part, for the iterations at work."""
    return groups + (at_work - groups) * tiling.private_share


def _of_blocks(tiling: Tiling, at_work: int, cache_bytes: float) -> float:
    needed = float(tiling.blocking_bytes * at_work)
    refetch = max(1.0, sqrt(needed / cache_bytes)) if cache_bytes > 0 else needed
    return tiling.parallelism * tiling.blocking_bytes * refetch

"""Parallelism, blocking and compulsory bytes of a version, and the traffic that follows at a cache size.

Pure functions of numbers: what reads them from scheduled TIR is in `tiling.py`.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, sqrt

# Where a candidate's traffic is estimated: L1 and L2 of CPUs as they are, shares of an L3, a whole one.
CACHE_BYTES = (2**15, 2**18, 2**19, 2**20, 2**21, 2**22, 2**24, 2**25)


@dataclass(frozen=True, slots=True)
class Tiling:
    """What a loop nest does to caches and cores.

    `parallelism` is the extent of its fused parallel loop (1: none), `blocking_bytes` what one parallel
    iteration touches of inputs, weights, outputs and work space, `compulsory_bytes` what all of them touch
    together, without work space: that is what an iteration makes and uses itself and registers do not hold,
    such as padded or packed inputs, or the transformed tiles of a Winograd kernel. Of several parallel nests
    in a layer, the one with most arithmetic counts. `steepness` is an assumption to be varied: the exponent
    of traffic over compulsory bytes (1: as modelled, 0: nothing is fetched twice). `fetched_bytes` is what
    one core fetches into caches of `CACHE_BYTES`, as `tiling.nest_traffic_bytes` has it; empty where only the
    other numbers are known.
    """

    parallelism: int
    blocking_bytes: int
    compulsory_bytes: int
    steepness: float = 1.0
    fetched_bytes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.parallelism < 1 or self.blocking_bytes < 0 or self.compulsory_bytes < 0:
            raise ValueError(f"{self}: parallelism is at least 1 and bytes are not negative")
        if not (self.steepness >= 0 and isfinite(self.steepness)):
            raise ValueError(f"{self}: steepness is a finite number, 0 or more")
        if len(self.fetched_bytes) not in (0, len(CACHE_BYTES)):
            raise ValueError(f"{self}: give the bytes fetched into {len(CACHE_BYTES)} caches, or none")
        if any(more < less for more, less in pairwise((*self.fetched_bytes, 0))):
            raise ValueError(f"{self}: into a larger cache no more is fetched, and no negative number")


def traffic_bytes(tiling: Tiling, cores: int, cache_bytes: float) -> float:
    """Return the DRAM bytes of a layer whose cores share a cache of `cache_bytes`.

    Cores share data that fits. Else each of the iterations at work has an equal part of the cache, and all
    together fetch what one core would with such a part. Where that is not known, data that fits comes once;
    else each iteration fetches its own block, and where the blocks of those at work do not fit either, they
    re-fetch with the square root of what is missing, as blocked products do (Hong and Kung, STOC 1981).
    """
    least = float(tiling.compulsory_bytes)
    fits = least <= cache_bytes
    at_work = min(cores, tiling.parallelism)
    if tiling.fetched_bytes:
        modelled = _interpolated(tiling.fetched_bytes, cache_bytes if fits else cache_bytes / at_work)
    else:
        modelled = least if fits else max(least, _of_blocks(tiling, at_work, cache_bytes))
    if tiling.steepness == 1.0 or least == 0.0:
        return modelled
    return float(least * (modelled / least) ** tiling.steepness)


def _interpolated(fetched_bytes: Sequence[float], cache_bytes: float) -> float:
    """Return what a cache between two of `CACHE_BYTES` fetches: the part held is not fetched again."""
    index = bisect_right(CACHE_BYTES, cache_bytes)
    if index in (0, len(CACHE_BYTES)):
        return float(fetched_bytes[max(0, index - 1)])
    low, high = CACHE_BYTES[index - 1 : index + 1]
    more, less = fetched_bytes[index - 1 : index + 1]
    return more + (cache_bytes - low) / (high - low) * (less - more)


def _of_blocks(tiling: Tiling, at_work: int, cache_bytes: float) -> float:
    needed = float(tiling.blocking_bytes * at_work)
    refetch = max(1.0, sqrt(needed / cache_bytes)) if cache_bytes > 0 else needed
    return tiling.parallelism * tiling.blocking_bytes * refetch

"""Parallelism, blocking and compulsory bytes of a version, and the traffic that follows at a cache size.

Pure functions of numbers: what reads them from scheduled TIR is in `tiling.py`.
"""

from dataclasses import dataclass
from math import isfinite, sqrt

# Where a candidate's traffic is estimated: L1 and L2 of CPUs as they are, shares of an L3, a whole one.
CACHE_BYTES = (2**15, 2**18, 2**19, 2**20, 2**21, 2**22, 2**24, 2**25)


@dataclass(frozen=True, slots=True)
class Tiling:
    """What a loop nest does to caches and cores.

    `parallelism` is the extent of its fused parallel loop (1: none), `blocking_bytes` what one parallel
    iteration touches of inputs, weights and outputs, `compulsory_bytes` what all of them touch together. Of
    several parallel nests in a layer, the one with most iterations counts. `steepness` is an assumption to be
    varied: the exponent of traffic over compulsory bytes (1: as modelled, 0: nothing is fetched twice).
    """

    parallelism: int
    blocking_bytes: int
    compulsory_bytes: int
    steepness: float = 1.0

    def __post_init__(self) -> None:
        if self.parallelism < 1 or self.blocking_bytes < 0 or self.compulsory_bytes < 0:
            raise ValueError(f"{self}: parallelism is at least 1 and bytes are not negative")
        if not (self.steepness >= 0 and isfinite(self.steepness)):
            raise ValueError(f"{self}: steepness is a finite number, 0 or more")


def traffic_bytes(tiling: Tiling, cores: int, cache_bytes: float) -> float:
    """Return the DRAM bytes of a layer whose cores share a cache of `cache_bytes`.

    All data fits: each byte comes once. Else each parallel iteration fetches its own block; and where the
    blocks of the iterations at work do not fit either, they re-fetch with the square root of what is missing,
    as blocked matrix products do (Hong and Kung, STOC 1981).
    """
    least = float(tiling.compulsory_bytes)
    if least <= cache_bytes:
        return least
    at_work = tiling.blocking_bytes * min(cores, tiling.parallelism)
    refetch = max(1.0, sqrt(at_work / cache_bytes)) if cache_bytes > 0 else float(at_work)
    modelled = max(least, tiling.parallelism * tiling.blocking_bytes * refetch)
    if tiling.steepness == 1.0:
        return modelled
    return float(least * (modelled / least) ** tiling.steepness)

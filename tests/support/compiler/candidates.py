"""Candidates of two layer structures, made up, and how versions are selected of them."""

from veltair.compiler.footprint.traffic import Tiling
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.select.select import Selection

SELECTION = Selection(1.5, 5)


def candidate(structure: str, index: int, parallelism: int, blocking_bytes: int, seconds: float) -> Candidate:
    return Candidate(
        structure, index, Tiling(parallelism, blocking_bytes, 10**6), (seconds,), ["trace", index]
    )


# On one core 1.0, 1.1 and 1.3 s. On two cores 1.0 s (no parallel loop), 0.55 s and 0.65 s.
CONV = [
    candidate("conv", 0, 1, 4000, 1.0),
    candidate("conv", 1, 2, 2000, 1.1),
    candidate("conv", 2, 64, 10, 1.3),
]


POOL = [candidate("pool", 0, 8, 100, 0.5)]


FOUND = {"conv": CONV, "pool": POOL}

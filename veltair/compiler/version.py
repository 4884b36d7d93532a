"""Code versions of a layer: those measured in the search and those kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from veltair.compiler.tiling import Tiling


@dataclass(frozen=True, slots=True)
class Candidate:
    """One schedule of a structure, measured in the search.

    `index` is its place in the search, `run_seconds` its raw times (empty: it failed to build or to run),
    `trace` the schedule as TVM's JSON.
    """

    structure: str
    index: int
    tiling: Tiling
    run_seconds: tuple[float, ...]
    trace: Any

    @property
    def median_seconds(self) -> float:
        """The median of its raw times; infinite if it did not run."""
        return median(self.run_seconds) if self.run_seconds else float("inf")


@dataclass(frozen=True, slots=True)
class Version:
    """A candidate that was kept; `symbol` is its function in the model's library."""

    candidate: Candidate
    symbol: str

    @property
    def tiling(self) -> Tiling:
        """Its parallelism and blocking."""
        return self.candidate.tiling


Versions = Mapping[str, tuple[Version, ...]]

"""Code versions of a layer as the search measured them; those kept are built, see build.VersionPlan."""

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

"""Code versions of a layer as the search measured them; those kept are built, see build.VersionPlan."""

from dataclasses import dataclass
from math import ceil, isfinite
from statistics import median
from typing import Any, Literal

from veltair.compiler.footprint.traffic import CACHE_BYTES, Tiling

# Found by the evolutionary search, written by hand in schedules.py, or a kernel of recipes/.
Origin = Literal["search", "schedule", "recipe"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One schedule of a structure, measured in the search.

    `index` is its place in the search, `run_seconds` its raw times on `measured_cores` cores (empty: it
    failed to build or to run), `trace` the schedule as TVM's JSON, or a recipe (None: not kept).
    `traffic_bytes` is what one core fetches, estimated, into caches of the sizes of `CACHE_BYTES`; empty
    where that is not known.
    """

    structure: str
    index: int
    tiling: Tiling
    run_seconds: tuple[float, ...]
    trace: Any
    origin: Origin = "search"
    traffic_bytes: tuple[int, ...] = ()
    measured_cores: int = 1

    def __post_init__(self) -> None:
        if len(self.traffic_bytes) not in (0, len(CACHE_BYTES)):
            raise ValueError(
                f"candidate {self.index} of {self.structure} has traffic for "
                f"{len(self.traffic_bytes)} caches; give one number for each of {CACHE_BYTES}, or none"
            )
        if self.measured_cores < 1:
            raise ValueError(
                f"candidate {self.index} of {self.structure} was measured on {self.measured_cores} cores; "
                "give 1 or more"
            )
        if not all(isfinite(second) and second > 0 for second in self.run_seconds):
            raise ValueError(
                f"candidate {self.index} of {self.structure} took {self.run_seconds} s; times are positive: "
                "leave out runs that failed"
            )

    @property
    def median_seconds(self) -> float:
        """The median of its raw times; infinite if it did not run."""
        return median(self.run_seconds) if self.run_seconds else float("inf")

    def seconds_on(self, cores: int) -> float:
        """Return its modelled seconds on some cores: its median, by the rounds that its parallel loop takes.

        A loop of P iterations takes ceil(P / cores) rounds. Memory that cores share is not in the model.
        """
        return self.median_seconds * self._rounds(cores) / self._rounds(self.measured_cores)

    def _rounds(self, cores: int) -> int:
        return ceil(self.tiling.parallelism / cores)

"""Machines: how many cores, which of them share an L3, and how fast cores and memory are."""

from bisect import bisect_right
from dataclasses import dataclass
from math import inf, isfinite, isinf

CACHE_LINE_BYTES = 64
# Speeds that may be unknown: infinite then, so that they limit nothing.
LIMITS = ("core_dram_bytes_per_s", "link_bytes_per_s")
COSTS = ("launch_s", "join_s")


@dataclass(frozen=True, slots=True)
class Machine:
    """A CPU as the policies and the simulator see it.

    `core_unit` is the step in which cores are given. `cache_groups` lists the core ids that share one L3 of
    `l3_bytes` each. `core_peak_flops` is one core's fused multiply-add peak in FLOP/s (float32) at the clock
    of all cores at work, and `dram_bytes_per_s` the bandwidth of all cores together. `validated` is False
    where no measurement on a machine of this kind stands behind its tables: figures then say so.

    What follows may be unknown, and then costs and limits nothing. `clock_factors` are points (active cores,
    clock relative to that of all cores), ascending, linear in between. Every `link_groups` cache groups (0:
    all) share a link to memory of `link_bytes_per_s`. `core_dram_bytes_per_s` is what one core reads.
    `launch_s` and `join_s` are what a kernel pays to start on several cores and to end on them. `vector_bits`
    are of the vectors that reach the peak.
    """

    name: str
    core_unit: int
    cache_groups: tuple[tuple[int, ...], ...]
    l2_bytes: int
    l3_bytes: int
    core_peak_flops: float
    dram_bytes_per_s: float
    validated: bool
    clock_factors: tuple[tuple[int, float], ...] = ((1, 1.0),)
    link_groups: int = 0
    link_bytes_per_s: float = inf
    core_dram_bytes_per_s: float = inf
    launch_s: float = 0.0
    join_s: float = 0.0
    vector_bits: int = 256

    def __post_init__(self) -> None:
        self._check_cores()
        self._check_speeds()
        self._check_clock()
        # What was left open gets its value here, so that nobody else has to know the convention.
        object.__setattr__(self, "link_groups", self.link_groups or len(self.cache_groups))
        if isinf(self.core_dram_bytes_per_s):
            object.__setattr__(self, "core_dram_bytes_per_s", self.dram_bytes_per_s)

    @property
    def cores(self) -> int:
        """Number of cores."""
        return len(self.cache_groups) * len(self.cache_groups[0])

    @property
    def core_ids(self) -> tuple[int, ...]:
        """Core ids in the order of the cache groups."""
        return tuple(core for group in self.cache_groups for core in group)

    @property
    def total_l3_bytes(self) -> int:
        """L3 of all cache groups together."""
        return self.l3_bytes * len(self.cache_groups)

    @property
    def core_counts(self) -> tuple[int, ...]:
        """The counts that can be granted: multiples of the core unit."""
        return tuple(range(self.core_unit, self.cores + 1, self.core_unit))

    def clock(self, active_cores: float) -> float:
        """Return the clock with so many cores at work, relative to that of all; constant off the ends."""
        points = self.clock_factors
        above = bisect_right(points, active_cores, key=lambda point: point[0])
        if above in (0, len(points)):
            return points[max(0, above - 1)][1]
        (low, before), (high, after) = points[above - 1], points[above]
        return before + (after - before) * (active_cores - low) / (high - low)

    def _check_cores(self) -> None:
        ids = [core for group in self.cache_groups for core in group]
        if not ids or len(set(ids)) != len(ids):
            raise ValueError(
                f"Machine {self.name}: cache groups {self.cache_groups} must name each core once"
            )
        if len({len(group) for group in self.cache_groups}) != 1:
            raise ValueError(
                f"Machine {self.name}: cache groups differ in size; give every group the same cores"
            )
        if not 1 <= self.core_unit <= len(ids) or len(ids) % self.core_unit:
            raise ValueError(
                f"Machine {self.name}: core unit {self.core_unit} does not divide {len(ids)} cores"
            )
        if self.link_groups < 0 or (self.link_groups and len(self.cache_groups) % self.link_groups):
            raise ValueError(
                f"Machine {self.name}: links of {self.link_groups} cache groups do not divide its "
                f"{len(self.cache_groups)}; give a divisor"
            )

    def _check_speeds(self) -> None:
        for quantity in ("l2_bytes", "l3_bytes", "core_peak_flops", "dram_bytes_per_s", "vector_bits"):
            value = getattr(self, quantity)
            if not (value > 0 and isfinite(value)):
                raise ValueError(f"Machine {self.name}: {quantity} is {value}; give a number above 0")
        for quantity in LIMITS:
            if not getattr(self, quantity) > 0:
                raise ValueError(
                    f"Machine {self.name}: {quantity} is {getattr(self, quantity)}; give a number above 0, "
                    "or leave it out if it is not known"
                )
        for quantity in COSTS:
            value = getattr(self, quantity)
            if not (value >= 0 and isfinite(value)):
                raise ValueError(f"Machine {self.name}: {quantity} is {value}; give 0 seconds or more")
        if self.dram_bytes_per_s < self.core_dram_bytes_per_s < inf:
            raise ValueError(
                f"Machine {self.name}: one core reads {self.core_dram_bytes_per_s:g} bytes/s of DRAM, more "
                f"than the {self.dram_bytes_per_s:g} of all cores together; make them agree"
            )

    def _check_clock(self) -> None:
        counts = [count for count, _ in self.clock_factors]
        if not counts or counts[0] < 1 or counts[-1] > self.cores or counts != sorted(set(counts)):
            raise ValueError(
                f"Machine {self.name}: clock_factors are given at {counts} active cores; "
                f"give counts from 1 to {self.cores}, ascending, each once"
            )
        factors = [factor for _, factor in self.clock_factors]
        if not all(factor > 0 and isfinite(factor) for factor in factors):
            raise ValueError(f"Machine {self.name}: clock_factors {factors} must be finite and above 0")
        if factors[-1] != 1.0:
            raise ValueError(
                f"Machine {self.name}: the last of clock_factors is {factors[-1]}; core_peak_flops is stated "
                "at the clock of all cores, so the last one is 1"
            )


@dataclass(frozen=True, slots=True)
class Topology:
    """The cores that can be used and the caches they share; `notes` says what was assumed or left out."""

    cache_groups: tuple[tuple[int, ...], ...]
    l2_bytes: int
    l3_bytes: int
    notes: tuple[str, ...]

"""Machines: how many cores, which of them share an L3, and how fast memory is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Machine:
    """A CPU as the policies and the simulator see it.

    `core_unit` is the step in which cores are given. `cache_groups` lists the core ids that share one L3 of
    `l3_bytes` each. `core_peak_flops` is one core's fused multiply-add peak in FLOP/s (float32) and
    `dram_bytes_per_s` the bandwidth of all cores together. `validated` is False where no measurement on
    a machine of this kind stands behind its tables: figures then say so.
    """

    name: str
    core_unit: int
    cache_groups: tuple[tuple[int, ...], ...]
    l2_bytes: int
    l3_bytes: int
    core_peak_flops: float
    dram_bytes_per_s: float
    validated: bool

    def __post_init__(self) -> None:
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
        for quantity in ("l2_bytes", "l3_bytes", "core_peak_flops", "dram_bytes_per_s"):
            if not getattr(self, quantity) > 0:
                raise ValueError(
                    f"Machine {self.name}: {quantity} is {getattr(self, quantity)}; give a number above 0"
                )

    @property
    def cores(self) -> int:
        """Number of cores."""
        return sum(len(group) for group in self.cache_groups)

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

"""The time of a layer on a described machine: computing, moving data, and how the two add up.

Pure: functions of numbers. The derived cost tables are this formula at the levels that policies see, and the
simulator charges it for whatever cache and bandwidth a layer has at the moment.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, inf, isfinite

from veltair.compiler.footprint.traffic import Tiling, dram_bytes
from veltair.machine.topology.topology import Machine


@dataclass(frozen=True, slots=True)
class LayerCostModel:
    """One version of a layer: its computing time on one core at the all-core clock, net of memory time.

    It is 0 for a layer that only moves data.
    """

    compute_s: float
    tiling: Tiling

    def __post_init__(self) -> None:
        if not (self.compute_s >= 0 and isfinite(self.compute_s)):
            raise ValueError(f"a layer computes for {self.compute_s} s; give a finite time, 0 or more")


@dataclass(frozen=True, slots=True, eq=False)
class MachineCostModel:
    """The cost models of all versions, `layers[model][layer][version]`, and how computing and memory combine.

    A layer takes (compute^k + memory^k)^(1/k) with k = `combine`: 1 is their sum, nothing overlaps; infinity
    the longer of both, all overlaps.
    """

    combine: float
    layers: Mapping[str, tuple[tuple[LayerCostModel, ...], ...]]

    def __post_init__(self) -> None:
        if not self.combine >= 1:
            raise ValueError(f"the exponent of a cost model is {self.combine}; give 1 or more, or infinity")

    def versions(self) -> Iterator[tuple[tuple[str, int, int], LayerCostModel]]:
        """Yield model, layer and version of each cost model, and the cost model."""
        for model, layers in self.layers.items():
            for layer, versions in enumerate(layers):
                for version, one in enumerate(versions):
                    yield (model, layer, version), one


def predicted_seconds(
    cost_model: LayerCostModel,
    machine_cost_model: MachineCostModel,
    machine: Machine,
    cores: int,
    moved_bytes: float,
    bytes_per_s: float,
    active_cores: int,
) -> float:
    """Return how long a version of a layer takes on some cores with what it gets of DRAM.

    `moved_bytes` are those that it moves (`dram_bytes`), `bytes_per_s` is its bandwidth, `active_cores` how
    many cores of the machine are at work: they set the clock.
    """
    compute_s = cost_model.compute_s * rounds(cost_model.tiling, cores) / machine.clock(active_cores)
    memory_s = moved_bytes / bytes_per_s
    return combined(compute_s, memory_s, machine_cost_model.combine) + fork_s(
        cost_model.tiling, machine, cores
    )


def spread_dram_bytes(
    tiling: Tiling, machine: Machine, cores: int, l3_bytes: float, warm: float = 1.0
) -> float:
    """Return what a layer moves on cores that are spread over the cache groups, with some bytes of L3.

    `warm` is that of `dram_bytes`.
    """
    return dram_bytes(tiling, cores, l3_bytes, min(cores, len(machine.cache_groups)), warm)


def rounds(tiling: Tiling, cores: int) -> float:
    """Return the share of a layer's iterations that its busiest core runs."""
    return ceil(tiling.parallelism / cores) / tiling.parallelism


def fork_s(tiling: Tiling, machine: Machine, cores: int) -> float:
    """Return the cost of launching and joining a kernel over cores: none for one iteration or on one core."""
    return machine.launch_s + machine.join_s if tiling.parallelism > 1 and cores > 1 else 0.0


def combined(compute_s: float, memory_s: float, exponent: float) -> float:
    """Return the time of both: between their maximum (exponent infinity) and their sum (exponent 1)."""
    longer, shorter = (compute_s, memory_s) if compute_s >= memory_s else (memory_s, compute_s)
    if exponent == inf or shorter == 0.0:
        return longer
    # Relative to the longer one, powers neither underflow nor overflow.
    return float(longer * (1.0 + (shorter / longer) ** exponent) ** (1.0 / exponent))


def net_of_memory(seconds: float, memory_s: float, exponent: float, least_s: float) -> float:
    """Return the computing time that combines with `memory_s` to `seconds`, at least `least_s`.

    Where memory alone would take as long as was measured, computing cannot be told: it is the least that the
    core could take, but never more than was measured.
    """
    least_s = min(least_s, seconds)
    if memory_s >= seconds:
        return least_s
    if exponent == inf:
        return seconds
    return max(least_s, float(seconds * (1.0 - (memory_s / seconds) ** exponent) ** (1.0 / exponent)))


def block_bytes_per_s(machine: Machine, cores: int, share: float = 1.0) -> float:
    """Return the bandwidth of a block on cores that are spread over the cache groups.

    It is the least of a share of the machine's, of what its cores draw, and of the links that they reach.
    """
    links = min(cores, len(machine.cache_groups) // machine.link_groups)
    drawn = min(cores * machine.core_dram_bytes_per_s, links * machine.link_bytes_per_s)
    return min(share * machine.dram_bytes_per_s, drawn)


def block_l3_bytes(machine: Machine, cores: int, share: float = 1.0) -> float:
    """Return the L3 of a block on cores that are spread over the cache groups.

    It is the least of a share of the machine's and of all the groups that its cores reach.
    """
    return min(share * machine.total_l3_bytes, float(cores * machine.l3_bytes))

"""What running together costs: the one model of slowdown, for the simulator and the proxy.

Each running layer presses on the others with two shares: the DRAM bandwidth that it asks for alone (traffic
/ seconds at level 0) over the machine's, and its L3 footprint over the L3 that they share. The pressure that
a layer meets is the larger of the two shares summed over its co-runners, clipped to [0, 1]. Its time at that
pressure is the cost table's, linear between profiled levels and constant beyond the last.

Assumptions, unvalidated until co-runs on a many-core machine are measured:

- placement is `spread`: every block shares the whole L3 with every other;
- a layer asks for what it would draw alone, also while it is slowed down;
- pressure is one number: DRAM and L3 do not add up, and only the profiled curve tells layers apart.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from veltair.compiler.model import LayerBlock
from veltair.machine.cost import CostTable
from veltair.machine.topology import Machine


@dataclass(frozen=True, slots=True)
class LayerLoad:
    """One version of a layer on a number of cores: its time by pressure, and how it presses on others.

    `seconds` has an entry for each of `levels`, and `slopes` the rise from there to the next one, in seconds
    per unit of pressure (0 after the last). `dram_share` and `l3_share` are shares of the machine's, not
    clipped.
    """

    levels: tuple[float, ...]
    seconds: tuple[float, ...]
    slopes: tuple[float, ...]
    dram_share: float
    l3_share: float

    def seconds_at(self, pressure: float) -> float:
        """Return the time of the layer at a pressure in [0, 1]."""
        below = bisect_right(self.levels, pressure) - 1
        return self.seconds[below] + (pressure - self.levels[below]) * self.slopes[below]


def pressure(loads: Iterable[LayerLoad]) -> float:
    """Return the pressure that a layer started now would meet beside these running ones."""
    dram = l3 = 0.0
    for load in loads:
        dram += load.dram_share
        l3 += load.l3_share
    return min(1.0, max(dram, l3))


def pressures(loads: Sequence[LayerLoad]) -> list[float]:
    """Return the pressure that each of these layers, running together, meets from the others."""
    dram = l3 = 0.0
    for load in loads:
        dram += load.dram_share
        l3 += load.l3_share
    met = []
    for load in loads:
        by_dram, by_l3 = dram - load.dram_share, l3 - load.l3_share
        worse = by_dram if by_dram > by_l3 else by_l3
        met.append(worse if worse < 1.0 else 1.0)
    return met


class Contention:
    """The loads of a cost table's layers on a machine, made once for each model and core count."""

    def __init__(self, costs: CostTable, machine: Machine) -> None:
        """Keep the table; loads are made when first asked for."""
        self._costs = costs
        self._machine = machine
        self._tables: dict[tuple[str, int], list[dict[int, LayerLoad]]] = {}

    def loads(self, block: LayerBlock, versions: Sequence[int], cores: int) -> list[LayerLoad]:
        """Return the load of each layer of a block, run in these versions on so many cores.

        Raises LookupError if a layer has no such version or the core count was not profiled.
        """
        table = self._tables.get((block.model, cores))
        if table is None:
            table = self._tables[block.model, cores] = self._table(block.model, cores)
        try:
            return [table[block.start + place][version] for place, version in enumerate(versions)]
        except LookupError:
            raise LookupError(self._what_is_missing(block, versions, cores, table)) from None

    def _table(self, model: str, cores: int) -> list[dict[int, LayerLoad]]:
        costs, place = self._costs.model(model), self._costs.core_index(cores)
        seconds = costs.seconds[:, :, place, :].tolist()
        traffic = costs.traffic_bytes[:, :, place, 0].tolist()
        footprint = costs.footprint_bytes.tolist()
        return [
            {
                version: self._load(times, traffic[layer][version], footprint[layer][version], cores)
                for version, times in enumerate(versions)
                if times[0] < float("inf")
            }
            for layer, versions in enumerate(seconds)
        ]

    def _load(
        self, times: list[float], traffic_bytes: float, footprint_bytes: float, cores: int
    ) -> LayerLoad:
        levels = self._costs.levels
        if cores == self._machine.cores:
            # Nobody can run beside a block on all cores, so it has no time under pressure.
            times = [times[0]] * len(levels)
        rises = [
            (times[place + 1] - times[place]) / (levels[place + 1] - levels[place])
            for place in range(len(levels) - 1)
        ]
        return LayerLoad(
            levels,
            tuple(times),
            (*rises, 0.0),
            traffic_bytes / times[0] / self._machine.dram_bytes_per_s,
            footprint_bytes / self._machine.total_l3_bytes,
        )

    def _what_is_missing(
        self, block: LayerBlock, versions: Sequence[int], cores: int, table: list[dict[int, LayerLoad]]
    ) -> str:
        if block.stop > len(table) or len(versions) != len(block):
            return (
                f"{block} with {len(versions)} versions does not fit the {len(table)} layers that were "
                f"profiled on {self._costs.machine}; use the cost table of the models that are served"
            )
        layer, version = next(
            (block.start + place, version)
            for place, version in enumerate(versions)
            if version not in table[block.start + place]
        )
        return (
            f"layer {layer} of {block.model} has no version {version} on {cores} cores of "
            f"{self._costs.machine} (it has {sorted(table[layer])}); choose one of those or "
            "rerun rule `profile`"
        )

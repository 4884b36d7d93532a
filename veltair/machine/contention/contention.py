"""The contention model: how much co-running layers slow each other down, for simulator and pressure sensor.

Each running layer presses on the others with two shares: the DRAM bandwidth that it asks for alone (traffic
/ seconds at level 0) over the machine's, and its L3 footprint over the L3 that they share. The pressure that
a layer meets is the larger of the two shares summed over its co-runners, clipped to [0, 1].

Two models say how long a layer takes among others, behind one interface:

- `Contention`, where times were measured: the cost table's at the pressure that the layer meets, linear
  between profiled levels and constant beyond the last;
- `ModelledContention`, for described machines: their cost model with the L3 that a layer's cores get, the
  clock of the cores at work, and its max-min fair part of memory bandwidth.

Where L3 is shared follows from placement. Under `spread` every block shares all of it with every other;
under `pinned` a block meets the footprint of those that have cores in its cache groups, as dense as it lies
there.

Assumptions, unvalidated until co-runs on a many-core machine are measured: a layer asks for what it would
draw alone, also while it is slowed down; and for the table pressure is one number: DRAM and L3 do not
add up, and only the profiled curve tells layers apart.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from veltair.compiler.footprint.traffic import dram_bytes
from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.contention.layer_demand import LayerDemand, ModelDemandCurves, make_curves
from veltair.machine.contention.sharing import (
    CacheGroupShare,
    Use,
    capacities,
    max_min_fair,
    pinned_bytes_per_s,
    pinned_l3_bytes,
    spread_l3_bytes,
    use_of,
)
from veltair.machine.costs.cost_model import MachineCostModel, block_bytes_per_s, predicted_seconds
from veltair.machine.costs.table import CostTable
from veltair.machine.topology.placement import PLACEMENTS
from veltair.machine.topology.topology import Machine

_ALL_OF_DRAM: Use = ((0, 1.0),)


@dataclass(slots=True)
class RunningLayers:
    """The running blocks, oldest first: their current layers, their cores and, if pinned, where these are.

    `warm` is the share of what an older query left for each layer that is still there, `moved_bytes` what it
    moves under the conditions that were worked out last. Where blocks share cores, all layers take `stretch`
    times as long.
    """

    demands: list[LayerDemand] = field(default_factory=list)
    cores: list[int] = field(default_factory=list)
    group_cores: list[CacheGroupShare] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    moved_bytes: list[float] = field(default_factory=list)
    stretch: float = 1.0

    def __iter__(self) -> Iterator[tuple[LayerDemand, int, CacheGroupShare]]:
        return zip(self.demands, self.cores, self.group_cores, strict=True)

    def append(
        self, demand: LayerDemand, cores: int, group_cores: CacheGroupShare, warm: float = 1.0
    ) -> None:
        """Add a block that starts."""
        self.demands.append(demand)
        self.cores.append(cores)
        self.group_cores.append(group_cores)
        self.warm.append(warm)
        self.moved_bytes.append(0.0)

    def remove(self, index: int) -> None:
        """Remove a block that ended."""
        del self.demands[index], self.cores[index], self.group_cores[index]
        del self.warm[index], self.moved_bytes[index]


def pressure(demands: Iterable[LayerDemand], stretch: float = 1.0) -> float:
    """Return the pressure that a layer started now would meet beside these running ones.

    They take `stretch` times as long as on cores of their own, so draw that much less at a time.
    """
    dram = l3 = 0.0
    for demand in demands:
        dram += demand.dram_share
        l3 += demand.l3_share
    return min(1.0, max(dram / stretch, l3))


def pressures(demands: Sequence[LayerDemand], stretch: float = 1.0) -> list[float]:
    """Return the pressure that each of these layers, running together, meets from the others.

    They take `stretch` times as long as on cores of their own.
    """
    dram = l3 = 0.0
    for demand in demands:
        dram += demand.dram_share
        l3 += demand.l3_share
    met = []
    for demand in demands:
        by_dram, by_l3 = (dram - demand.dram_share) / stretch, l3 - demand.l3_share
        worse = by_dram if by_dram > by_l3 else by_l3
        met.append(worse if worse < 1.0 else 1.0)
    return met


class Contention:
    """What a cost table's layers demand of a machine, and their times beside each other by that table.

    `scale` multiplies what co-runners add to a layer's time: 1 is the model, 0 no contention at all.
    """

    cost_model: MachineCostModel | None = None

    def __init__(
        self, costs: CostTable, machine: Machine, placement: str = "spread", scale: float = 1.0
    ) -> None:
        """Keep the table; demands are made when first asked for.

        Raises ValueError for another placement than `spread` and `pinned`, and for a bad scale.
        """
        if placement not in PLACEMENTS:
            raise ValueError(f"placement is {placement!r}; give one of {', '.join(PLACEMENTS)}")
        if not 0 <= scale < math.inf:
            raise ValueError(f"the scale of contention is {scale}; give a finite number, 0 or more")
        self.costs = costs
        self.machine = machine
        self.pinned = placement == "pinned"
        self.scale = scale
        self.capacities = capacities(machine, placement)
        self._tables: dict[tuple[str, int], list[dict[int, LayerDemand]]] = {}
        self._curves: dict[str, ModelDemandCurves] = {}

    def demands(self, block: LayerBlock, versions: Sequence[int], cores: int) -> list[LayerDemand]:
        """Return the demand of each layer of a block, run in these versions on so many cores.

        Raises LookupError if a layer has no such version or the core count was not profiled.
        """
        table = self._tables.get((block.model, cores))
        if table is None:
            table = self._tables[block.model, cores] = self._table(block.model, cores)
        try:
            return [table[block.start + index][version] for index, version in enumerate(versions)]
        except LookupError:
            raise LookupError(self._what_is_missing(block, versions, cores, table)) from None

    def curves(self, model: str) -> ModelDemandCurves:
        """Return the demands of a model as arrays. Raises ValueError for bytes that are no amount."""
        if model not in self._curves:
            self._curves[model] = make_curves(self.costs, self.machine, model, self.scale)
        return self._curves[model]

    def conditions(self, running: RunningLayers) -> list[float]:
        """Return what each of the running layers meets; `seconds` says how long it takes then."""
        if self.pinned:
            return self._pressures_where_pinned(running)
        return pressures(running.demands, running.stretch)

    def seconds(self, demand: LayerDemand, condition: float, stretch: float = 1.0) -> float:
        """Return the time of a layer under the condition that it meets, where blocks share cores."""
        return demand.seconds_at(condition, stretch)

    def pressure(self, running: RunningLayers) -> float:
        """Return the pressure in [0, 1] that a block started now would meet.

        Pinned, it would be on all cores that are free: where none are, no L3 counts.
        """
        if not self.pinned:
            return pressure(running.demands, running.stretch)
        dram = 0.0
        for demand in running.demands:
            dram += demand.dram_share
        groups = self.machine.cache_groups
        taken: Counter[int] = Counter()
        for group_cores in running.group_cores:
            taken.update(dict(group_cores))
        free = [(group, len(cores) - taken[group]) for group, cores in enumerate(groups)]
        total = sum(count for _, count in free)
        met = self._met(tuple(index for index in free if index[1]), total, self._density(running))
        return min(1.0, max(dram / running.stretch, met))

    def _pressures_where_pinned(self, running: RunningLayers) -> list[float]:
        density = self._density(running)
        dram = 0.0
        for demand in running.demands:
            dram += demand.dram_share
        met = []
        for demand, cores, group_cores in running:
            by_dram = (dram - demand.dram_share) / running.stretch
            by_l3 = self._met(group_cores, cores, density, demand.l3_share)
            worse = by_dram if by_dram > by_l3 else by_l3
            met.append(worse if worse < 1.0 else 1.0)
        return met

    def _density(self, running: RunningLayers) -> list[float]:
        """Return what lies in each cache group of all footprints, as a share of the whole L3."""
        density = [0.0] * len(self.machine.cache_groups)
        for demand, cores, group_cores in running:
            for group, count in group_cores:
                density[group] += demand.l3_share * (count / cores)
        return density

    def _met(
        self, group_cores: CacheGroupShare, cores: int, density: Sequence[float], own_share: float = 0.0
    ) -> float:
        """Return the others' footprint over the L3 that its cores share with them."""
        met = 0.0
        for group, count in group_cores:
            part = count / cores
            met += part * (density[group] - own_share * part)
        return met * len(self.machine.cache_groups)

    def _table(self, model: str, cores: int) -> list[dict[int, LayerDemand]]:
        curves, index = self.curves(model), self.costs.core_index(cores)
        slopes = curves.slopes[:, :, index].tolist()
        dram, l3 = curves.dram_share[:, :, index].tolist(), curves.l3_share.tolist()
        cost_models = self.cost_model.layers[model] if self.cost_model else None
        return [
            {
                version: LayerDemand(
                    self.costs.levels,
                    tuple(times),
                    tuple(slopes[layer][version]),
                    dram[layer][version],
                    l3[layer][version],
                    cost_models[layer][version] if cost_models else None,
                )
                for version, times in enumerate(versions)
                if times[0] < math.inf
            }
            for layer, versions in enumerate(curves.seconds[:, :, index].tolist())
        ]

    def _what_is_missing(
        self, block: LayerBlock, versions: Sequence[int], cores: int, table: list[dict[int, LayerDemand]]
    ) -> str:
        if block.stop > len(table) or len(versions) != len(block):
            return (
                f"{block} with {len(versions)} versions does not fit the {len(table)} layers that were "
                f"profiled on {self.costs.machine}; use the cost table of the models that are served"
            )
        layer, version = next(
            (block.start + index, version)
            for index, version in enumerate(versions)
            if version not in table[block.start + index]
        )
        return (
            f"layer {layer} of {block.model} has no version {version} on {cores} cores of "
            f"{self.costs.machine} (it has {sorted(table[layer])}); choose one of those or "
            "rerun rule `profile`"
        )


class ModelledContention(Contention):
    """The same demand and pressure, but times by the cost model of a described machine.

    A layer asks for as much bandwidth as it would draw at its full speed. One that gets less takes as long as
    its bytes do: the model's time at the bandwidth at which it draws just what it gets.
    """

    cost_model: MachineCostModel

    def __init__(
        self,
        costs: CostTable,
        machine: Machine,
        cost_model: MachineCostModel,
        placement: str = "spread",
        scale: float = 1.0,
    ) -> None:
        """Keep table and cost model. Raises ValueError as `Contention` does."""
        super().__init__(costs, machine, placement, scale)
        self.cost_model = cost_model

    def curves(self, model: str) -> ModelDemandCurves:
        """Return the demands of a model. Raises LookupError if the cost model lacks one of its versions."""
        curves, layers = super().curves(model), self.cost_model.layers.get(model, ())
        for layer, version in np.argwhere(np.isfinite(curves.seconds[..., 0]).any(axis=2)).tolist():
            if layer >= len(layers) or version >= len(layers[layer]):
                raise LookupError(
                    f"the cost model of {self.machine.name} has no version {version} of layer {layer} of "
                    f"{model}, which its table has; derive both from the same tables"
                )
        return curves

    def conditions(self, running: RunningLayers) -> list[float]:
        """Return the seconds that each running layer takes; conditions are these times themselves."""
        busy_cores = sum(running.cores)
        busy: Counter[int] = Counter()
        for group_cores in running.group_cores:
            busy.update(dict(group_cores))
        offers = [
            self._offer(demand, cores, group_cores, warm, busy_cores, busy, running.stretch)
            for (demand, cores, group_cores), warm in zip(running, running.warm, strict=True)
        ]
        running.moved_bytes[:] = [offer.moved_bytes for offer in offers]
        uses = [use_of(self.machine, at) if self.pinned else _ALL_OF_DRAM for at in running.group_cores]
        granted = max_min_fair([offer.wanted_bytes_per_s for offer in offers], uses, self.capacities)
        return [offer.seconds(rate, self.scale) for offer, rate in zip(offers, granted, strict=True)]

    def seconds(self, demand: LayerDemand, condition: float, stretch: float = 1.0) -> float:
        """Return the time of a layer: its condition."""
        return condition

    def _offer(
        self,
        demand: LayerDemand,
        cores: int,
        group_cores: CacheGroupShare,
        warm: float,
        busy_cores: int,
        busy: Counter[int],
        stretch: float,
    ) -> "_Offer":
        assert demand.cost_model is not None
        machine, cost_model = self.machine, demand.cost_model
        if self.pinned:
            l3_bytes = pinned_l3_bytes(machine, group_cores, busy)
            alone_bytes = float(machine.l3_bytes * len(group_cores))
            limit = pinned_bytes_per_s(machine, cores, use_of(machine, group_cores))
            groups = len(group_cores)
        else:
            l3_bytes = spread_l3_bytes(machine, cores, busy_cores)
            alone_bytes = spread_l3_bytes(machine, cores, cores)
            limit = block_bytes_per_s(machine, cores)
            groups = min(cores, len(machine.cache_groups))
        limit = min(limit, demand.bytes_per_s)
        moved, alone_moved = (
            dram_bytes(cost_model.tiling, cores, size, groups, warm) for size in (l3_bytes, alone_bytes)
        )
        full_s, alone_s = (
            predicted_seconds(cost_model, self.cost_model, machine, cores, amount, limit, busy_cores)
            * stretch
            for amount in (moved, alone_moved)
        )
        return _Offer(moved, full_s, alone_s, moved / full_s)


@dataclass(frozen=True, slots=True)
class _Offer:
    """A layer with L3 and clock of the moment: its bytes, its time at full bandwidth, and with all its L3."""

    moved_bytes: float
    full_s: float
    alone_s: float
    wanted_bytes_per_s: float

    def seconds(self, bytes_per_s: float, scale: float) -> float:
        seconds = self.full_s if bytes_per_s >= self.wanted_bytes_per_s else self.moved_bytes / bytes_per_s
        return seconds if scale == 1.0 else self.alone_s + scale * (seconds - self.alone_s)


def make_contention(
    costs: CostTable,
    machine: Machine,
    placement: str = "spread",
    cost_model: MachineCostModel | None = None,
    scale: float = 1.0,
) -> Contention:
    """Return the contention of a machine by its cost model (`Tables.cost_model`), or by its table."""
    if cost_model is None:
        return Contention(costs, machine, placement, scale)
    return ModelledContention(costs, machine, cost_model, placement, scale)

"""What a policy expects each layer to take, in which version: the cost tables under its version rule."""

from bisect import bisect_right
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.costs.table import CostTable
from veltair.machine.topology.topology import Machine
from veltair.serving.loop.policy import Context

Row = tuple[float, ...]
"""Seconds by core count."""


class VersionRule(StrEnum):
    """Which versions a policy runs, and which times it expects of them."""

    SOLO_ALONE = "solo_alone"
    """The solo version without interference: blind to pressure."""
    FASTEST_ALONE = "fastest_alone"
    """The version that is fastest on each core count without interference: blind to pressure too."""
    SOLO_AT_LEVEL = "solo_at_level"
    """The solo version at the current pressure level."""
    FASTEST_AT_LEVEL = "fastest"
    """The version that is fastest at the current level on each core count."""
    PRICED_AT_LEVEL = "priced"
    """The version that costs all blocks together least: its time, and the price of its traffic there."""


_BLIND = (VersionRule.SOLO_ALONE, VersionRule.FASTEST_ALONE)

AdaptiveRule = Literal[VersionRule.FASTEST_AT_LEVEL, VersionRule.PRICED_AT_LEVEL]
"""How policies with adaptive compilation choose the version of a layer; an option."""


@dataclass(frozen=True, slots=True)
class FixedVersion:
    """The rule that knows one version of each layer: version `number`, or the last that the layer has.

    Versions are ordered from the most local one on. Times are those at the current pressure level.
    """

    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError(f"FixedVersion: number is {self.number}; give 0 (the most local one) or more")


class LatencyTables:
    """What a policy expects each layer of each model to take, under its version rule.

    `counts` are the core counts that can be granted, ascending: multiples of the core unit at which every
    layer of every model has a time. Levels are indices, from `level`. Raises ValueError if there is no count.
    """

    def __init__(self, context: Context, rule: VersionRule | FixedVersion) -> None:
        levels = (0.0,) if rule in _BLIND else context.costs.levels
        tables = {name: _read(context, name, rule) for name in context.models}
        grantable = _grantable(context, [seconds for seconds, _ in tables.values()])
        self._levels = levels
        self.counts: tuple[int, ...] = tuple(context.costs.cores[index] for index in grantable)
        self._seconds = {name: seconds[..., grantable] for name, (seconds, _) in tables.items()}
        self._versions = {name: versions[..., grantable] for name, (_, versions) in tables.items()}
        remaining = {name: _suffix_sums(seconds) for name, seconds in self._seconds.items()}
        self._least = {name: left.min(axis=2).tolist() for name, left in remaining.items()}
        self._left = remaining
        self._remaining = {name: _rows(left) for name, left in remaining.items()}
        # What a decision asks for is a dictionary away: no array is touched on its path.
        self._whole: dict[tuple[str, int, int], tuple[int, ...]] = {}
        self._best: dict[tuple[str, int, int, int], int] = {}

    def level(self, pressure: float) -> int:
        """Return the profiled level nearest to a pressure in [0, 1]; of two equally near, the lower."""
        levels = self._levels
        above = bisect_right(levels, pressure)
        if above == len(levels):
            return above - 1
        if above == 0:
            return 0
        return above - 1 if pressure - levels[above - 1] <= levels[above] - pressure else above

    def levels(self) -> range:
        """Return all levels."""
        return range(len(self._levels))

    @property
    def pressures(self) -> tuple[float, ...]:
        """The pressure of each level, ascending."""
        return tuple(self._levels)

    def seconds(self, model: str, level: int) -> NDArray[np.float64]:
        """Return seconds of a model's layers, shape (layers, core counts)."""
        seconds: NDArray[np.float64] = self._seconds[model][level]
        return seconds

    def versions_by_layer(self, model: str) -> NDArray[np.int64]:
        """Return versions of a model's layers, shape (levels, layers, core counts)."""
        versions: NDArray[np.int64] = self._versions[model]
        return versions

    def remaining_by_layer(self, model: str) -> NDArray[np.float64]:
        """Return what `remaining_s` returns of all, shape (levels, layers + 1, core counts)."""
        return self._left[model]

    def remaining_s(self, model: str, first: int, level: int) -> Row:
        """Return seconds from layer `first` to the end of the model, by core count; 0 after the last."""
        return self._remaining[model][level][first]

    def least_remaining_s(self, model: str, first: int, level: int) -> float:
        """Return seconds from layer `first` to the end on the core count that suits that best."""
        least: float = self._least[model][level][first]
        return least

    def best_cores(self, model: str, level: int, first: int = 0, stop: int | None = None) -> int:
        """Return the core count on which layers [first, stop) are fastest: not always the largest."""
        remaining = self._remaining[model][level]
        stop = len(remaining) - 1 if stop is None else stop
        key = (model, level, first, stop)
        best = self._best.get(key)
        if best is None:
            times = [whole - rest for whole, rest in zip(remaining[first], remaining[stop], strict=True)]
            best = self._best[key] = self.counts[times.index(min(times))]
        return best

    def versions(self, block: LayerBlock, level: int, cores: int) -> tuple[int, ...]:
        """Return the version of each layer of a block on one of the core counts."""
        key = (block.model, level, cores)
        whole = self._whole.get(key)
        if whole is None:
            column = self._versions[block.model][level, :, self.counts.index(cores)]
            whole = self._whole[key] = tuple(column.tolist())
        return whole[block.start : block.stop]


def priced_versions(costs: CostTable, model: str, machine: Machine) -> NDArray[np.int64]:
    """Return the version of least price, shape (levels, layers, profiled core counts).

    The price of T seconds on c of C cores that move some bytes, at pressure p, is T c / C + p bytes /
    bandwidth: the share of the machine's time that it holds cores, and, as far as others press, that it holds
    the memory. What is fastest for itself takes cache and bandwidth from the others and is paid for so.
    """
    table = costs.model(model)
    held = table.seconds * np.asarray(costs.cores, dtype=np.float64)[None, None, :, None] / machine.cores
    moved = table.traffic_bytes / machine.dram_bytes_per_s
    price = held + np.asarray(costs.levels) * moved
    versions: NDArray[np.int64] = price.transpose(3, 0, 1, 2).argmin(axis=2)
    return versions


def _read(
    context: Context, model: str, rule: VersionRule | FixedVersion
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return seconds and versions, both of shape (levels, layers, profiled core counts)."""
    costs = context.costs.model(model)
    by_level = costs.seconds.transpose(3, 0, 1, 2)
    if rule in _BLIND:
        by_level = by_level[:1]
    if rule in (VersionRule.FASTEST_ALONE, VersionRule.FASTEST_AT_LEVEL):
        versions = by_level.argmin(axis=2)
    elif rule is VersionRule.PRICED_AT_LEVEL:
        versions = priced_versions(context.costs, model, context.machine)
    else:
        chosen = costs.solo
        if isinstance(rule, FixedVersion):
            alone = costs.seconds[..., 0].min(axis=2)
            last = [int(np.flatnonzero(np.isfinite(versions)).max()) for versions in alone]
            chosen = np.minimum(rule.number, last)
        versions = np.broadcast_to(chosen[None, :, None], by_level[:, :, 0].shape)
    seconds = np.take_along_axis(by_level, versions[:, :, None], axis=2)[:, :, 0]
    return seconds, versions


def _grantable(context: Context, tables: list[NDArray[np.float64]]) -> list[int]:
    """Return the indices of the profiled core counts that can be granted."""
    costs, unit, cores = context.costs, context.machine.core_unit, context.machine.cores
    grantable = [
        index
        for index, count in enumerate(costs.cores)
        if count % unit == 0
        and count <= cores
        and all(np.isfinite(seconds[..., index]).all() for seconds in tables)
    ]
    if not grantable:
        raise ValueError(
            f"cost table of {costs.machine}: of its core counts {costs.cores} none is a multiple of the core "
            f"unit {unit}, within {cores} cores and profiled for each layer of {', '.join(context.models)}; "
            "set `profile.cores` to such counts and rerun rule `profile`"
        )
    return grantable


def _suffix_sums(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sums over the layers from each one to the last, and 0 after it."""
    sums = seconds[:, ::-1].cumsum(axis=1)[:, ::-1]
    return np.concatenate([sums, np.zeros_like(sums[:, :1])], axis=1)


def _rows(table: NDArray[np.float64]) -> list[list[Row]]:
    """Return a table of shape (levels, layers, core counts) as one tuple a level and layer."""
    return [[tuple(row) for row in level] for level in table.tolist()]

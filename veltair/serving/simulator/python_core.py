"""The simulator's inner loop in Python: the oracle of simulator_core.c, and what runs where gcc is missing.

A layer takes the seconds of `machine/contention.py`, times one factor drawn from the measured repeats of its
model. Whenever a block starts, ends, enters its next layer or adopts a new core count, the conditions of all
running layers are worked out anew, and what is left of a layer whose condition changed is stretched by the
ratio of its new time to its old one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.contention.contention import Contention, RunningLayers
from veltair.machine.contention.layer_demand import LayerDemand
from veltair.machine.contention.older_queries import OlderQueries
from veltair.machine.contention.sharing import CacheGroupShare
from veltair.machine.costs.block_costs import BlockCosts
from veltair.serving.loop.backend import BlockEnd, Resized
from veltair.serving.loop.policy import Allocation

# Of a layer that has just begun: below every pressure and time.
_NO_CONDITION = -1.0


class Core(Protocol):
    """The inner loop of the simulator. A query is named by its id and has at most one block."""

    @property
    def events(self) -> int:
        """Layer ends so far."""

    def start(self, allocation: Allocation, noise_index: bytes, now_s: float) -> None:
        """Run a block from now on. `noise_index` holds an index into its model's noise for each layer."""

    def pin(self, query_id: int, group_cores: CacheGroupShare) -> None:
        """Say on which cache groups a block's cores are, after its start and each change of its cores."""

    def resize(self, query_id: int, cores: int, versions: tuple[int, ...] | None, now_s: float) -> None:
        """Change a running block at its first layer end after `grant_s`, unless it ends then."""

    def yield_block(self, query_id: int, now_s: float) -> None:
        """End a running block `yield_s` after its first layer end after `grant_s`."""

    def advance(self, limit_s: float) -> BlockEnd | Resized | None:
        """Let layers end up to a time, and return the first event that leaves the simulator, if any does."""

    def pressure(self) -> float:
        """Return the pressure in [0, 1] that a block started now would meet."""

    def progress(self) -> Mapping[int, int]:
        """Return how many layers of each running block have ended; a live view."""

    def clear(self) -> None:
        """End all blocks at once."""


@dataclass(slots=True, eq=False)
class _Running:
    """A running block: its current layer began at `begin_s` and ends at `end_s` unless a co-runner changes.

    `seconds` is that layer's time under `condition`, without noise. `demands` and `noise` have one entry for
    each layer of the block. From `next_due_s` on it adopts `next_cores` (None: no change is under way) at a
    layer end: `next_demands` are those of its last layers. From `yield_due_s` on it ends at a layer end; one
    that `is_ending` has ended its last layer, and still holds its cores until `end_s`. `bytes_per_s` is the
    most that it may draw of memory.
    """

    query_id: int
    block: LayerBlock
    versions: tuple[int, ...]
    cores: int
    demands: list[LayerDemand]
    noise: list[float]
    begin_s: float
    end_s: float = math.inf
    ended: int = 0
    condition: float = _NO_CONDITION
    seconds: float = math.nan
    next_cores: int | None = None
    next_due_s: float = math.inf
    next_demands: list[LayerDemand] | None = None
    yield_due_s: float = math.inf
    is_ending: bool = False
    bytes_per_s: float | None = None

    def enter_layer(self, begin_s: float) -> None:
        """Begin the next layer; the condition that it meets follows."""
        self.begin_s = begin_s
        self.condition = _NO_CONDITION

    def meet(self, condition: float, seconds: float, now_s: float) -> None:
        """Re-time the current layer to a condition that it meets from now on."""
        begin_s = self.begin_s
        if self.condition == _NO_CONDITION:
            self.end_s = begin_s + seconds * self.noise[self.ended]
        elif begin_s > now_s:
            self.end_s = begin_s + (self.end_s - begin_s) * (seconds / self.seconds)
        else:
            self.end_s = now_s + (self.end_s - now_s) * (seconds / self.seconds)
        self.condition = condition
        self.seconds = seconds


class PythonCore:
    """The inner loop, one layer end at a time."""

    def __init__(
        self, contention: Contention, noise: Mapping[str, NDArray[np.float64]], costs: BlockCosts
    ) -> None:
        """Begin with nothing running at time 0."""
        self.events = 0
        self._contention = contention
        self._noise = noise
        self._costs = costs
        self._now_s = 0.0
        self._running: list[_Running] = []
        self._layers = RunningLayers()
        self._older = OlderQueries(contention.machine)
        self._by_query: dict[int, _Running] = {}
        self._ended: dict[int, int] = {}
        self._progress = MappingProxyType(self._ended)
        self._stale = False
        self._next_end_s = math.inf
        self._next_index = 0
        self._decided_s = 0.0

    def start(self, allocation: Allocation, noise_index: bytes, now_s: float) -> None:
        """Run a block from now on. Raises LookupError if it was not profiled so."""
        query_id, block, cores = allocation.query_id, allocation.block, allocation.cores
        versions, bytes_per_s = allocation.versions, allocation.dram_bytes_per_s
        picked = np.frombuffer(noise_index, dtype=np.uint32)[block.start : block.stop]
        demands = self._demands(block, versions, cores, bytes_per_s)
        noise = self._noise[block.model][picked].tolist()
        begin_s = max(now_s, self._decided_s) + self._costs.start_of(block.model)
        running = _Running(query_id, block, versions, cores, demands, noise, begin_s, bytes_per_s=bytes_per_s)
        self._now_s = now_s
        self._running.append(running)
        self._layers.append(demands[0], cores, (), self._warmth(running))
        self._by_query[query_id] = running
        self._ended[query_id] = 0
        self._stale = True

    def pin(self, query_id: int, group_cores: CacheGroupShare) -> None:
        """Say on which cache groups a block's cores are."""
        self._layers.group_cores[self._running.index(self._by_query[query_id])] = group_cores
        self._stale = True

    def resize(self, query_id: int, cores: int, versions: tuple[int, ...] | None, now_s: float) -> None:
        """Change a running block at a later layer end. Raises LookupError if that was not profiled."""
        running = self._by_query[query_id]
        versions = running.versions if versions is None else versions
        block, first = running.block, running.ended + 1
        if first < len(block):
            rest = LayerBlock(block.model, block.start + first, block.stop)
            running.next_demands = self._demands(rest, versions[first:], cores, running.bytes_per_s)
        running.versions = versions
        running.next_cores = cores
        running.next_due_s = max(now_s, self._decided_s) + self._costs.grant_s

    def yield_block(self, query_id: int, now_s: float) -> None:
        """End a running block at a later layer end."""
        self._by_query[query_id].yield_due_s = max(now_s, self._decided_s) + self._costs.grant_s

    def advance(self, limit_s: float) -> BlockEnd | Resized | None:
        """Let layers end up to a time, and return the first event that leaves the simulator, if any does.

        Either way a decision follows: about that event, or about what is due at that time.
        """
        event = self._advance(limit_s)
        event_s = limit_s if event is None else event.time_s
        if event_s < math.inf:
            # Decisions wait for one another; those that take no time have ended by the next event.
            self._decided_s = max(self._decided_s, event_s) + self._costs.decision_s
        return event

    def _advance(self, limit_s: float) -> BlockEnd | Resized | None:
        while True:
            if self._stale:
                self._retime()
            if not (self._running and self._next_end_s <= limit_s):
                return None
            event = self._end_layer(self._next_index, self._next_end_s)
            if event is not None:
                return event

    def pressure(self) -> float:
        """Return the pressure in [0, 1] that a block started now would meet."""
        # Not as they were last worked out: a block may just have ended.
        return self._contention.pressure(replace(self._layers, stretch=self._stretch()))

    def progress(self) -> Mapping[int, int]:
        """Return how many layers of each running block have ended; a live view."""
        return self._progress

    def clear(self) -> None:
        """End all blocks at once."""
        self._running.clear()
        self._layers = RunningLayers()
        self._by_query.clear()
        self._ended.clear()
        self._stale = True

    def _demands(
        self, block: LayerBlock, versions: Sequence[int], cores: int, bytes_per_s: float | None
    ) -> list[LayerDemand]:
        demands = self._contention.demands(block, versions, cores)
        if bytes_per_s is None:
            return demands
        return [demand.limited(bytes_per_s, self._contention.machine) for demand in demands]

    def _retime(self) -> None:
        now_s, contention, layers = self._now_s, self._contention, self._layers
        next_end_s, next_index, before = math.inf, 0, layers.stretch
        layers.stretch = self._stretch()
        # By the cost model the conditions are seconds, and tell by themselves.
        changed = layers.stretch != before and contention.cost_model is None
        conditions = contention.conditions(layers)
        for index, running in enumerate(self._running):
            condition = conditions[index]
            if (changed or condition != running.condition) and not running.is_ending:
                demand = running.demands[running.ended]
                running.meet(condition, contention.seconds(demand, condition, layers.stretch), now_s)
            if running.end_s < next_end_s:
                next_end_s, next_index = running.end_s, index
        self._next_end_s, self._next_index = next_end_s, next_index
        self._stale = False

    def _stretch(self) -> float:
        return self._costs.stretch(sum(self._layers.cores), self._contention.machine.cores)

    def _end_layer(self, index: int, time_s: float) -> BlockEnd | Resized | None:
        self._now_s = time_s
        self._stale = True
        running = self._running[index]
        if running.is_ending:
            return self._end_block(index)
        self.events += 1
        self._older.move(self._layers.moved_bytes[index])
        running.ended += 1
        if running.ended == len(running.demands):
            return self._end_block(index)
        self._ended[running.query_id] = running.ended
        if running.yield_due_s <= time_s:
            return self._yield_block(index)
        event = None
        if running.next_cores is None or running.next_due_s > time_s:
            running.enter_layer(time_s)
        else:
            event = self._adopt(running, running.next_cores)
            self._layers.cores[index] = running.cores
        self._layers.demands[index] = running.demands[running.ended]
        self._layers.warm[index] = self._warmth(running)
        return event

    def _warmth(self, running: _Running) -> float:
        """Return the share of what an older query left for the layer that begins."""
        groups = min(running.cores, len(self._contention.machine.cache_groups))
        layer, demand = running.block.start + running.ended, running.demands[running.ended]
        return self._older.use(running.block.model, layer, demand, groups)

    def _yield_block(self, index: int) -> BlockEnd | None:
        running, yield_s = self._running[index], self._costs.yield_s
        if yield_s == 0:
            return self._end_block(index)
        running.is_ending = True
        running.end_s = self._now_s + yield_s
        return None

    def _end_block(self, index: int) -> BlockEnd:
        running = self._running.pop(index)
        self._layers.remove(index)
        del self._by_query[running.query_id], self._ended[running.query_id]
        return BlockEnd(self._now_s, running.query_id, running.block.start + running.ended)

    def _adopt(self, running: _Running, cores: int) -> Resized:
        costs = self._costs
        cost_s = costs.resize_s if cores != running.cores else 0.0
        if cores > running.cores:
            cost_s += costs.join_s
        assert running.next_demands is not None
        rest = len(running.demands) - running.ended
        # Layers that have ended are never asked for again.
        running.demands[running.ended :] = running.next_demands[len(running.next_demands) - rest :]
        running.cores = cores
        running.next_cores = running.next_demands = None
        running.enter_layer(self._now_s + cost_s)
        return Resized(self._now_s, running.query_id, cores)

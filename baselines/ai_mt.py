"""AI-MT: two lanes of half the machine, a memory-bound unit always beside a compute-bound one.

Faithful: what runs together differs in what it is bound by, so that one moves data while the other
computes; first come, first served within a class. The port: the paper pairs the fetches and the products of
an accelerator's sub-layers; here a unit is a run of consecutive layers of one class, and a lane half of the
cores. A layer is memory-bound if, alone on a lane, it draws at least `memory_share` of the machine's
bandwidth; unless it is given, the share that halves the work of a query of each model, so that neither lane
is left without. With pairing `always` a lane stays idle rather than run what its neighbour is bound by;
with `preferred` it then takes the first that waits. A query alone has one lane, so an idle system serves it
slower than it could.

Paper: AI-MT (Baek, Kwon and Kim, ISCA 2020).
Unit: consecutive layers bound by the same.
Preemption: none.
Cores: two halves, one unit each.
Memory: memory-bound beside compute-bound.
Versions: solo.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import chain
from typing import Annotated

import numpy as np
from pydantic import Field

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Allocation, Answer, Context, Pending, Snapshot
from veltair.serving.policies.blocks import TOLERANCE
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions, admit, round_down
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule
from veltair.serving.policies.slices import SliceTimes

LANES = 2


class Pairing(StrEnum):
    """What a lane does if nobody waits whose unit is bound by something else than its neighbour's."""

    ALWAYS = "always"
    """It stays idle."""
    PREFERRED = "preferred"
    """It runs what there is."""


class AiMt:
    """Runs two units at a time, bound by different things; late is who is late on a lane."""

    def __init__(
        self,
        context: Context,
        *,
        order: Order,
        drop_late: DropLate,
        pairing: Pairing = Pairing.ALWAYS,
        memory_share: Annotated[float, Field(gt=0)] | None = None,
    ) -> None:
        tables = LatencyTables(context, VersionRule.SOLO_ALONE)
        self._lane = round_down(context.machine.cores // LANES, tables.counts)
        if not self._lane:
            raise ValueError(
                f"AiMt: two lanes on {context.machine.cores} cores of which at least {tables.counts[0]} are "
                "given at a time; serve on a larger machine"
            )
        self._times = SliceTimes(tables)
        self._options = QueueOptions(order, Conflict.WAIT, drop_late)
        self._pairing = pairing
        demands = {name: demand(context, name, self._lane) for name in context.models}
        bound = balance(demands.values()) if memory_share is None else memory_share
        self.memory_bound: Mapping[str, tuple[bool, ...]] = {
            name: tuple(share >= bound for share, _ in layers) for name, layers in demands.items()
        }
        # By model, from each layer on: the unit that begins there, and the seconds to the model's end.
        self._units = {name: units_of(name, layers) for name, layers in self.memory_bound.items()}
        self._left_s = {name: self._seconds_left(units) for name, units in self._units.items()}

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late, and the units that start now."""
        waiting, late = admit(
            snapshot, self._options, lambda entry: self._left_s[entry.query.model][entry.next_layer]
        )
        beside = [self._bound(running.query.model, running.block.start) for running in snapshot.running]
        chosen: list[Pending] = []
        while len(beside) < LANES and (entry := self._next(waiting, chosen, beside)) is not None:
            chosen.append(entry)
            beside.append(self._bound(entry.query.model, entry.next_layer))
        return [*late, *(self._start(entry) for entry in chosen)]

    def _next(
        self, waiting: Sequence[Pending], chosen: Sequence[Pending], beside: Sequence[bool]
    ) -> Pending | None:
        """Return who is next to run beside units of these classes, of those not chosen yet."""
        for entry in waiting:
            if self._bound(entry.query.model, entry.next_layer) not in beside:
                return entry
        if self._pairing is Pairing.ALWAYS:
            return None
        return next((entry for entry in waiting if entry not in chosen), None)

    def _start(self, entry: Pending) -> Allocation:
        block = self._units[entry.query.model][entry.next_layer]
        cores = self._times.best_cores(block, self._lane)
        return Allocation(entry.query.id, block, self._times.versions(block, cores), cores)

    def _bound(self, model: str, layer: int) -> bool:
        return self.memory_bound[model][layer]

    def _seconds_left(self, units: Sequence[LayerBlock]) -> list[float]:
        left_s = [0.0] * (len(units) + 1)
        for first in reversed(range(len(units))):
            unit = units[first]
            left_s[first] = self._times.least_s(unit, self._lane) + left_s[unit.stop]
        return left_s


def units_of(model: str, bound: Sequence[bool]) -> list[LayerBlock]:
    """Return for each layer the run of layers from it on that are bound by the same."""
    stops = [len(bound)] * len(bound)
    for layer in reversed(range(len(bound) - 1)):
        stops[layer] = stops[layer + 1] if bound[layer] == bound[layer + 1] else layer + 1
    return [LayerBlock(model, layer, stop) for layer, stop in enumerate(stops)]


def demand(context: Context, model: str, cores: int) -> list[tuple[float, float]]:
    """Return of each layer, in its solo version on some cores, the share of the bandwidth and the seconds."""
    costs = context.costs.model(model)
    layers, column = np.arange(len(costs.solo)), context.costs.core_index(cores)
    seconds = costs.seconds[layers, costs.solo, column, 0]
    drawn = costs.traffic_bytes[layers, costs.solo, column, 0] / seconds
    shares: list[float] = (drawn / context.machine.dram_bytes_per_s).tolist()
    return list(zip(shares, seconds.tolist(), strict=True))


def balance(models: Iterable[Iterable[tuple[float, float]]]) -> float:
    """Return the share of the bandwidth that halves the work: layers that draw it or more take half the time.

    `models` has share and seconds of each layer of each model. Of the layers in the order of what they draw,
    it is what the one at half of the time draws.
    """
    layers = sorted(chain.from_iterable(models), reverse=True)
    half_s, passed_s = sum(seconds for _, seconds in layers) / 2, 0.0
    for share, seconds in layers:
        passed_s += seconds
        if passed_s >= half_s * (1 - TOLERANCE):
            return share
    raise ValueError("AiMt: no model has a layer; serve one")

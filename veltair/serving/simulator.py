"""The simulator: a backend in virtual time. Unvalidated until its co-runs are compared with measured ones.

The model. A block runs layer by layer. A layer at pressure p takes `seconds_at(p)` of
`machine/contention.py`, times one factor drawn from the measured repeats of its model. Whenever a block
starts, ends, enters its next layer or adopts a new core count, the pressures of all running layers are
computed anew, and what is left of a layer whose pressure changed is stretched by the ratio of its new time
to its old one.

The costs of starting a block and of changing its cores are waits before the layer that follows; they are
neither noisy nor stretched by pressure, and during them the block already presses on the others.

Noise is drawn for all layers of a query when it arrives. So a trace and a seed give each query the same
factors under every policy and at every rate: common random numbers.

Time is a number: the same inputs give the same events, bit for bit. At equal times layers end (and
cores are freed) first, in the order in which their blocks were started; then queries arrive; then wakes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from veltair.compiler.model import LayerBlock
from veltair.machine.contention import Contention, LayerLoad, pressure, pressures
from veltair.serving.agenda import Agenda
from veltair.serving.dispatcher import Arrival, BlockEnd, Closed, Event, Resized
from veltair.serving.policy import Allocation, Context, Resize
from veltair.serving.query import Query

# Below every pressure: a layer that has just begun has met none yet.
_NOT_MET = -1.0


@dataclass(slots=True)
class _Running:
    """A running block: its current layer began at `begin_s` and ends at `end_s` unless a neighbour changes.

    `seconds` is that layer's time at `pressure`, without noise. `loads` and `noise` have one entry a layer of
    the block. `next_cores` is the count to adopt at the next layer end, or None.
    """

    query_id: int
    block: LayerBlock
    versions: tuple[int, ...]
    cores: int
    loads: list[LayerLoad]
    noise: list[float]
    begin_s: float
    end_s: float = math.inf
    ended: int = 0
    pressure: float = _NOT_MET
    seconds: float = math.nan
    next_cores: int | None = None

    def enter_layer(self, begin_s: float) -> None:
        """Begin the next layer; the pressure that it meets follows."""
        self.begin_s = begin_s
        self.pressure = _NOT_MET

    def meet(self, pressure: float, now_s: float) -> None:
        """Re-time the current layer to a pressure that it meets from now on."""
        seconds = self.loads[self.ended].seconds_at(pressure)
        begin_s = self.begin_s
        if self.pressure == _NOT_MET:
            self.end_s = begin_s + seconds * self.noise[self.ended]
        elif begin_s > now_s:
            self.end_s = begin_s + (self.end_s - begin_s) * (seconds / self.seconds)
        else:
            self.end_s = now_s + (self.end_s - now_s) * (seconds / self.seconds)
        self.pressure = pressure
        self.seconds = seconds


class Simulator:
    """Runs blocks in virtual time by the cost table and the contention model.

    `events` counts layer ends: the simulator's work, of which only block ends and adopted resizes leave it,
    beside arrivals and wakes. The run is cut off `drain_s` seconds after the last arrival: if anything
    still runs or is due then, Closed is the last event.
    """

    events: int

    def __init__(
        self,
        arrivals: Sequence[Query],
        context: Context,
        rng: np.random.Generator,
        *,
        start_cost_s: float,
        resize_cost_s: float,
        drain_s: float,
    ) -> None:
        """Take the trace, ordered by arrival, and what it runs on.

        Raises ValueError if the trace is out of order, a time is negative, or the cost table has not the
        layers of a model; LookupError if a query asks for a model that is not served or was not profiled.
        """
        _check_costs(start_cost_s, resize_cost_s)
        _check_models(arrivals, context)
        self.events = 0
        self._agenda = Agenda(arrivals, drain_s)
        self._contention = Contention(context.costs, context.machine)
        self._noise = {name: context.costs.model(name).noise for name in context.models}
        self._layers = {name: len(model.layers) for name, model in context.models.items()}
        self._rng = rng
        self._start_cost_s = start_cost_s
        self._resize_cost_s = resize_cost_s
        self._now_s = 0.0
        self._factors: dict[int, NDArray[np.float64]] = {}
        self._running: list[_Running] = []
        self._loads: list[LayerLoad] = []
        self._by_query: dict[int, _Running] = {}
        self._ended: dict[int, int] = {}
        self._progress = MappingProxyType(self._ended)
        self._stale = False
        self._next_end_s = math.inf
        self._next_place = 0

    def start(self, allocation: Allocation) -> None:
        """Run a block from now on. Raises LookupError if it was not profiled so."""
        block, query_id = allocation.block, allocation.query_id
        running = _Running(
            query_id,
            block,
            allocation.versions,
            allocation.cores,
            self._contention.loads(block, allocation.versions, allocation.cores),
            self._factors[query_id][block.start : block.stop].tolist(),
            self._now_s + self._start_cost_s,
        )
        self._running.append(running)
        self._loads.append(running.loads[0])
        self._by_query[query_id] = running
        self._ended[query_id] = 0
        self._stale = True

    def resize(self, resize: Resize) -> None:
        """Change a running block at its next layer end (no effect, and no event, in its last layer)."""
        running = self._by_query[resize.query_id]
        running.next_cores = resize.cores
        if resize.versions is not None:
            running.versions = resize.versions

    def wake_at(self, time_s: float) -> None:
        """Deliver Woken at that time."""
        self._agenda.wake_at(time_s)

    def wait(self) -> Event | None:
        """Return the next event, or None once nothing is left to arrive, to run or to wake for."""
        agenda = self._agenda
        due_s, close_s = agenda.next_s, agenda.close_s
        while True:
            if self._stale:
                self._retime()
            end_s = self._next_end_s
            if end_s <= due_s and end_s <= close_s:
                event = self._end_layer(self._next_place, end_s)
                if event is not None:
                    return event
            elif due_s <= close_s:
                return self._take_due()
            elif end_s == due_s == math.inf:
                return None
            else:
                return self._close()

    def pressure(self) -> float:
        """Return the pressure in [0, 1] that a block started now would meet."""
        return pressure(self._loads)

    def progress(self) -> Mapping[int, int]:
        """Return how many layers of each running block have ended; a live view."""
        return self._progress

    def _retime(self) -> None:
        now_s = self._now_s
        next_end_s, next_place = math.inf, 0
        met_by_place = pressures(self._loads)
        for place, running in enumerate(self._running):
            met = met_by_place[place]
            if met != running.pressure:
                running.meet(met, now_s)
            if running.end_s < next_end_s:
                next_end_s, next_place = running.end_s, place
        self._next_end_s, self._next_place = next_end_s, next_place
        self._stale = False

    def _end_layer(self, place: int, time_s: float) -> BlockEnd | Resized | None:
        self.events += 1
        self._now_s = time_s
        self._stale = True
        running = self._running[place]
        running.ended += 1
        if running.ended == len(running.loads):
            return self._end_block(place)
        self._ended[running.query_id] = running.ended
        event = None
        if running.next_cores is None:
            running.enter_layer(time_s)
        else:
            event = self._adopt(running, running.next_cores)
        self._loads[place] = running.loads[running.ended]
        return event

    def _end_block(self, place: int) -> BlockEnd:
        running = self._running.pop(place)
        query_id, block = running.query_id, running.block
        del self._loads[place], self._by_query[query_id], self._ended[query_id]
        if block.stop == self._layers[block.model]:
            del self._factors[query_id]
        return BlockEnd(self._now_s, query_id)

    def _adopt(self, running: _Running, cores: int) -> Resized:
        cost_s = self._resize_cost_s if cores != running.cores else 0.0
        ended, block = running.ended, running.block
        rest = LayerBlock(block.model, block.start + ended, block.stop)
        # Layers that have ended are never asked for again.
        running.loads[ended:] = self._contention.loads(rest, running.versions[ended:], cores)
        running.cores = cores
        running.next_cores = None
        running.enter_layer(self._now_s + cost_s)
        return Resized(self._now_s, running.query_id, cores)

    def _take_due(self) -> Event:
        event = self._agenda.pop()
        self._now_s = event.time_s
        if isinstance(event, Arrival):
            noise, layers = self._noise[event.query.model], self._layers[event.query.model]
            self._factors[event.query.id] = noise[self._rng.integers(len(noise), size=layers)]
        return event

    def _close(self) -> Closed:
        self._now_s = self._agenda.close_s
        self._agenda = Agenda((), 0.0)
        for state in (self._running, self._loads, self._by_query, self._ended, self._factors):
            state.clear()
        self._stale = True
        return Closed(self._now_s)


def _check_costs(start_cost_s: float, resize_cost_s: float) -> None:
    for name, cost_s in (("start_cost_s", start_cost_s), ("resize_cost_s", resize_cost_s)):
        if not 0 <= cost_s < math.inf:
            raise ValueError(f"{name} is {cost_s}; give 0 seconds or more")


def _check_models(arrivals: Sequence[Query], context: Context) -> None:
    for name, model in context.models.items():
        profiled = len(context.costs.model(name).solo)
        if profiled != len(model.layers):
            raise ValueError(
                f"{name} has {len(model.layers)} layers, but {profiled} were profiled on "
                f"{context.costs.machine}; rerun rule `profile`"
            )
    for query in arrivals:
        if query.model not in context.models:
            raise LookupError(
                f"query {query.id} asks for {query.model}, which is not served "
                f"({', '.join(context.models)} are)"
            )

"""The simulator: a backend in virtual time. Unvalidated until its co-runs are compared with measured ones.

The model. A block runs layer by layer. How long a layer takes beside others says `machine/contention.py`; the
inner loop that re-times layers is `simulator_core.c`, with `python_core.py` as its oracle and where there is
no gcc. This file deals with what comes in and goes out: the trace, noise, placement, wakes.

The costs of starting a block and of changing its cores are waits before the layer that follows, that of
ending it early one after the layer before; they are neither noisy nor stretched by pressure, and during them
the block presses on the others: with the layer that follows, or with the one before.

Noise is drawn for all layers of a query (`noise.py`), whatever is decided about it. A block that serves
several queries is stretched by that of the one that it is named after.

A load takes the time that the context says, whatever runs beside it, and slows nothing down.

Time is a number: the same inputs give the same events, bit for bit. At equal times layers end (and
cores are freed) first, in the order in which their blocks were started; then a load ends; then queries
arrive; then wakes.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.c_build import NativeBuildError
from veltair.machine.contention.contention import Contention, make_contention
from veltair.machine.contention.sharing import CacheGroupShare, cores_by_group, groups_of
from veltair.machine.costs.block_costs import FREE, BlockCosts
from veltair.machine.costs.cost_model import MachineCostModel
from veltair.machine.topology.placement import Holdings, pinned
from veltair.serving.loop.backend import Arrival, BlockEnd, Closed, Command, Event, Resized
from veltair.serving.loop.policy import Allocation, Context, Evict, Load, Resize, Wake, Yield, most_blocks
from veltair.serving.loop.query import Query
from veltair.serving.simulator.agenda import Agenda
from veltair.serving.simulator.native_core import NativeCore
from veltair.serving.simulator.noise import NoiseBatch, noise_rows
from veltair.serving.simulator.pressure_sensor import NoisyPressure, SensorError
from veltair.serving.simulator.python_core import Core, PythonCore

__all__ = ["SensorError", "Simulator"]

CORES = ("c", "python")
PINNED_SHARING = (
    "a block is to share its cores, but all are pinned to cores of their own; set "
    "`simulated.placement: spread`"
)


class CoreChange(Enum):
    """What becomes of a block's cores."""

    HOLD = "hold"
    """It starts on them."""
    RESERVE = "reserve"
    """It is to have so many: those it gains are kept for it."""
    ADOPT = "adopt"
    """From now on it has so many."""
    RELEASE = "release"
    """It ended."""


class Simulator:
    """Runs blocks in virtual time by the cost table or a machine's cost model, and the contention model.

    `events` counts layer ends: the simulator's work, of which only block ends and adopted resizes leave it,
    beside arrivals and wakes. The run is cut off `drain_s` seconds after the last arrival: if anything
    still runs or is due then, Closed is the last event.
    """

    def __init__(
        self,
        arrivals: Sequence[Query],
        context: Context,
        noise: Iterator[NoiseBatch],
        *,
        drain_s: float,
        costs: BlockCosts = FREE,
        placement: str = "spread",
        cost_model: MachineCostModel | None = None,
        contention_scale: float = 1.0,
        sensor_error: SensorError | None = None,
        core: str = "c",
        build_dir: Path | None = None,
    ) -> None:
        """Take the trace, ordered by arrival, its noise (`noise_batches`), and what it runs on.

        `costs` are what blocks wait for beside their layers. `cost_model` is that of a described machine;
        None: the cost table's times. `sensor_error` is the error with which policies read pressure; None:
        exact. `core` is the inner loop, `c` (compiled into `build_dir`, by default the user's cache folder)
        or `python`.

        Raises ValueError if the trace is out of order, `drain_s` is negative or no number, or the cost table
        has not the layers of a model; LookupError if a query asks for a model that is not served or was not
        profiled.
        """
        _check_models(arrivals, context)
        self._agenda = Agenda(arrivals, drain_s)
        self._layers = {name: len(model.layers) for name, model in context.models.items()}
        self._cores, self._most_blocks = context.machine.cores, most_blocks(context.machine)
        contention = make_contention(context.costs, context.machine, placement, cost_model, contention_scale)
        self._core = _make_core(core, contention, context, costs, build_dir)
        self._context = context
        self._groups = groups_of(context.machine)
        self._sensor_error = sensor_error
        self._arrivals = arrivals
        self._holdings = Holdings(context.machine, pinned) if contention.pinned else None
        self._sensor = NoisyPressure(sensor_error) if sensor_error else None
        self._batches = noise
        self._rows = noise_rows(noise, context)
        self._now_s = 0.0
        self._noise_index: dict[int, bytes] = {}
        self._running: dict[int, str] = {}  # the model of each query's block
        self._others: dict[int, tuple[int, ...]] = {}  # whom blocks serve beside

    @property
    def events(self) -> int:
        """Layer ends so far."""
        return self._core.events

    # For serving_loop.c, which replaces wait(): a run uses one of them, never both.

    @property
    def core(self) -> Core:
        """The inner loop."""
        return self._core

    @property
    def arrivals(self) -> Sequence[Query]:
        """The whole trace."""
        return self._arrivals

    @property
    def close_s(self) -> float:
        """When the run is cut off."""
        return self._agenda.close_s

    @property
    def pinned(self) -> bool:
        """Whether blocks run on cores of their own, which then have to be held by `hold`."""
        return self._holdings is not None

    @property
    def sensor_error(self) -> SensorError | None:
        """The error with which policies read pressure; None: it is exact."""
        return self._sensor_error

    @property
    def batches(self) -> Iterator[NoiseBatch]:
        """The trace with its noise, in batches."""
        return self._batches

    def next_sensor_errors(self) -> NDArray[np.float64]:
        """Return the sensor's errors of the events to come, shape (events,). ValueError: there is none."""
        if self._sensor is None:
            raise ValueError("pressure is read exactly; make the simulator with a SensorError")
        return self._sensor.next_errors()

    def hold(
        self, change: CoreChange, block: int, cores: int, first: int | None = None
    ) -> CacheGroupShare | None:
        """Hold or free cores of a block, named by any number of its own; return where those in use are.

        None: that is as before, or the block has ended. `first` is the number of the first of those that it
        starts on, where it named them.
        """
        assert self._holdings is not None
        holdings = self._holdings
        if change is CoreChange.HOLD:
            holdings.take(block, cores, first)
        elif change is CoreChange.RESERVE:
            holdings.resize(block, cores)
            return None
        elif change is CoreChange.ADOPT:
            holdings.adopt(block, cores)
        else:
            holdings.release(block)
            return None
        # Cores beyond those in use are reserved for a growth that is on its way.
        return cores_by_group(holdings.of(block)[:cores], self._groups)

    def do(self, command: Command) -> None:
        """Start a block now, change or end a running one at its next layer end, or wake at a time.

        Raises LookupError for a query that cannot be started or layers that were not profiled so, ValueError
        for more blocks than cores or a time that is past or no number.
        """
        match command:
            case Allocation():
                self._start(command)
            case Resize():
                self._resize(command)
            case Yield(query_id=query_id):
                self._core.yield_block(query_id, self._now_s)
            case Wake(time_s=time_s):
                self._wake_at(time_s)
            case Load(model=model):
                self._load(model)
            case Evict():
                pass  # what is resident is the policy's to keep

    def _start(self, allocation: Allocation) -> None:
        query_id, block, cores = allocation.query_id, allocation.block, allocation.cores
        noise_index = self._noise_index.get(query_id)
        if noise_index is None or query_id in self._running:
            raise LookupError(f"query {query_id} has not arrived, has ended or runs already; start others")
        if len(self._running) == (self._most_blocks if allocation.shares_cores else self._cores):
            raise ValueError(
                f"query {query_id} is to start, but {len(self._running)} blocks run on {self._cores} cores; "
                "wait until one ends"
            )
        if allocation.shares_cores and self._holdings is not None:
            raise ValueError(PINNED_SHARING)
        if allocation.others:
            name = self._context.costs_name(block.model, 1 + len(allocation.others))
            allocation = replace(allocation, block=LayerBlock(name, block.start, block.stop))
        self._core.start(allocation, noise_index, self._now_s)
        self._running[query_id] = block.model
        self._others[query_id] = allocation.others
        if self._holdings is not None:
            self._hold(CoreChange.HOLD, query_id, cores, allocation.first_core)

    def _resize(self, resize: Resize) -> None:
        self._core.resize(resize.query_id, resize.cores, resize.versions, self._now_s)
        if self._holdings is not None:
            self._hold(CoreChange.RESERVE, resize.query_id, resize.cores)

    def _load(self, model: str) -> None:
        limits = self._context.memory
        if limits is None or model not in limits.load_s:
            raise LookupError(f"{model} is to be loaded, but how long that takes is not known; give `memory`")
        self._agenda.load_until(self._now_s + limits.load_s[model], model)

    def _wake_at(self, time_s: float) -> None:
        if not self._now_s <= time_s:
            raise ValueError(f"asked at {self._now_s} s to wake at {time_s} s; name a later time")
        self._agenda.wake_at(time_s)

    def wait(self) -> Event | None:
        """Return the next event, or None once nothing is left to arrive, to run or to wake for."""
        agenda = self._agenda
        due_s, close_s = agenda.next_s, agenda.close_s
        if self._sensor is not None:
            self._sensor.next_event()
        event = self._core.advance(due_s if due_s < close_s else close_s)
        if event is not None:
            self._now_s = event.time_s
            self._update_cores(event)
            return event
        if due_s <= close_s:
            return self._take_due()
        if due_s == math.inf and not self._running:
            return None
        return self._close()

    def pressure(self) -> float:
        """Return the pressure in [0, 1] that a block started now would meet, as the sensor reads it."""
        pressure = self._core.pressure()
        return pressure if self._sensor is None else self._sensor.read(pressure)

    def progress(self) -> Mapping[int, int]:
        """Return how many layers of each running block have ended; a live view."""
        return self._core.progress()

    def _update_cores(self, event: BlockEnd | Resized) -> None:
        query_id = event.query_id
        if isinstance(event, BlockEnd):
            if event.next_layer == self._layers[self._running.pop(query_id)]:
                for ended in (query_id, *self._others[query_id]):
                    del self._noise_index[ended]
            del self._others[query_id]
            if self._holdings is not None:
                self._hold(CoreChange.RELEASE, query_id, 0)
        elif self._holdings is not None:
            self._hold(CoreChange.ADOPT, query_id, event.cores)

    def _hold(self, change: CoreChange, query_id: int, cores: int, first: int | None = None) -> None:
        group_cores = self.hold(change, query_id, cores, first)
        if group_cores is not None:
            self._core.pin(query_id, group_cores)

    def _take_due(self) -> Event:
        event = self._agenda.pop()
        self._now_s = event.time_s
        if isinstance(event, Arrival):
            self._noise_index[event.query.id] = next(self._rows).tobytes()
        return event

    def _close(self) -> Closed:
        self._now_s = self._agenda.close_s
        self._agenda = Agenda((), 0.0)
        self._core.clear()
        self._running.clear()
        self._others.clear()
        self._noise_index.clear()
        return Closed(self._now_s)


def _make_core(
    core: str,
    contention: Contention,
    context: Context,
    costs: BlockCosts,
    build_dir: Path | None,
) -> Core:
    if core not in CORES:
        raise ValueError(f"the simulator's core is {core!r}; give one of {', '.join(CORES)}")
    noise = {name: context.costs.model(name).noise for name in context.models}
    noise |= {name: noise[model] for model, built in context.batches.items() for name in built.values()}
    starts_s = {
        name: costs.start_of(model) for model, built in context.batches.items() for name in built.values()
    }
    costs = replace(costs, starts_s={**costs.starts_s, **starts_s})
    if core == "c":
        try:
            return NativeCore(contention, noise, costs, build_dir, context.batches)
        except NativeBuildError as error:
            warnings.warn(
                f"simulating in Python, with the same results but slowly: {error}",
                RuntimeWarning,
                stacklevel=3,
            )
    return PythonCore(contention, noise, costs)


def _check_models(arrivals: Sequence[Query], context: Context) -> None:
    models = [(name, model) for name, model in context.models.items()]
    models += [
        (name, context.models[one]) for one, built in context.batches.items() for name in built.values()
    ]
    for name, model in models:
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

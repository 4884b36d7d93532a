"""How long a decision takes: policy and dispatcher, from an event to what follows from it."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from statistics import median
from typing import cast

from veltair.config import Config
from veltair.evaluation.benchmarks.workers import COMMAND
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult, median_result
from veltair.evaluation.experiment.scenario import Scenario, policy_maker
from veltair.evaluation.loadgen.arrivals import share_samples
from veltair.serving.loop.backend import Arrival, BlockEnd, Command, Event, Woken
from veltair.serving.loop.dispatcher import Dispatcher, Outcome, serve
from veltair.serving.loop.policy import Allocation, Context, Policy, Wake
from veltair.serving.loop.query import Ending, Query

PENDING = (10, 200)


class Timing:
    """A dispatcher whose decisions are timed: `seconds` holds how many queries waited, and what it took."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher, self._waiting = dispatcher, 0
        self.seconds: list[tuple[int, float]] = []

    def handle(self, event: Event, pressure: float, progress: Mapping[int, int]) -> Outcome:
        """Decide."""
        start_s = time.perf_counter()
        outcome = self._dispatcher.handle(event, pressure, progress)
        self.seconds.append((self._waiting, time.perf_counter() - start_s))
        self._waiting += isinstance(event, Arrival)
        self._waiting += isinstance(event, BlockEnd) and not any(
            record.ending is Ending.SERVED for record in outcome.finished
        )
        self._waiting -= sum(isinstance(command, Allocation) for command in outcome.commands)
        self._waiting -= sum(record.ending is Ending.REJECTED for record in outcome.finished)
        return outcome

    def check_drained(self) -> None:
        """Raise PolicyError if queries are still open."""
        self._dispatcher.check_drained()


class Burst:
    """A backend at which all queries arrive before the first block ends; blocks end in the order of starts.

    Each is in its last layer, so resizes and yields have no effect. Time stands still, but for wakes.
    """

    def __init__(self, queries: Sequence[Query]) -> None:
        self._arrivals, self._wakes = deque(queries), list[float]()
        self._running: dict[int, int] = {}
        self._stops: dict[int, int] = {}

    def do(self, command: Command) -> None:
        """Run a block, or deliver Woken once nothing else happens."""
        if isinstance(command, Allocation):
            self._running[command.query_id] = len(command.block) - 1
            self._stops[command.query_id] = command.block.stop
        elif isinstance(command, Wake):
            self._wakes.append(command.time_s)

    def wait(self) -> Event | None:
        """Return the next event."""
        if self._arrivals:
            return Arrival(0.0, self._arrivals.popleft())
        if self._running:
            query_id = next(iter(self._running))
            del self._running[query_id]
            return BlockEnd(0.0, query_id, self._stops.pop(query_id))
        return Woken(self._wakes.pop()) if self._wakes else None

    def pressure(self) -> float:
        """Return 0: nothing runs beside anything."""
        return 0.0

    def progress(self) -> Mapping[int, int]:
        """Return how many layers of each running block have ended."""
        return self._running


def decision_figures(config: Config, scenario: Scenario) -> dict[str, BenchmarkResult]:
    """Return the microseconds of policy and dispatcher for one event, by policy and of the slowest policy.

    Blocks take no time, and about as many queries wait as the figure's name says.
    """
    figures = {}
    for waiting in PENDING:
        for policy in config.policies:
            taken_us = decisions_us(policy_maker(config, policy), scenario, waiting)
            unit = f"µs of policy and dispatcher an event, about {waiting} queries waiting, median"
            figures[f"decision_us_{waiting}_{policy}"] = median_result(taken_us, unit, COMMAND)
            print(f"{policy}, {waiting} waiting: {median(taken_us):.1f} µs", flush=True)
        medians = tuple(figures[f"decision_us_{waiting}_{policy}"].value for policy in config.policies)
        figures[f"decision_us_{waiting}"] = BenchmarkResult(
            max(medians), f"{unit}, the slowest policy; samples: all", medians, COMMAND
        )
    return figures


def decisions_us(make: Callable[[Context], Policy], scenario: Scenario, waiting: int) -> list[float]:
    """Return the microseconds of each event at which so many queries wait, give or take a tenth."""
    names = share_samples(scenario.weights)
    burst = [
        Query(number, names[number % len(names)], 0.0, scenario.qos_s[names[number % len(names)]])
        for number in range(2 * waiting)
    ]
    timing = Timing(Dispatcher(make(scenario.context), scenario.context))
    for _ in islice(serve(cast(Dispatcher, timing), Burst(burst)), len(burst)):
        pass
    return [1e6 * took_s for count, took_s in timing.seconds if abs(count - waiting) <= 0.1 * waiting]

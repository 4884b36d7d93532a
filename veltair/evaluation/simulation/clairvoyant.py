"""A bound above every policy: who knows all arrivals and all noise beforehand, and may divide layers.

Each query needs at least the work of its cheapest plan that is in time, with its own noise. Work is counted
at the clock of the full machine. A described machine that is less busy runs faster, so a layer alone takes
less time, but not less work: c cores at clock f do c f of it a second, and all busy cores together at most
C, as f falls more slowly than the busy cores grow. That is valid, and tighter than core-seconds at the clock
at which a block is timed alone (`Scenario.fluid_qps`). Where contention is charged in full, the least bytes
of all queries must pass the memory, too.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from veltair.evaluation.experiment.scenario import Scenario
from veltair.evaluation.metrics.capacity import Capacity, CapacitySearch, Satisfaction, find_capacity
from veltair.evaluation.metrics.fluid_schedule import Demand, most_on_time
from veltair.evaluation.metrics.targets import LeastPlan, fluid_capacity, least_plan
from veltair.evaluation.simulation.run import (
    SimulationSettings,
    count_from_s,
    noise_of,
    scenario_arrivals,
)
from veltair.serving.loop.query import Query


def clairvoyant_capacity(
    scenario: Scenario, settings: SimulationSettings, search: CapacitySearch, seed: int
) -> Capacity:
    """Return the highest rate at which enough queries could be on time; the share of models is not bounded.

    It has the arrivals and the noise of a simulated run of that seed, and counts from where that counts.
    """
    least = _LeastDemands(scenario, settings)

    def measure(qps: float) -> Satisfaction:
        arrivals = scenario_arrivals(scenario, settings, qps, seed)
        return Satisfaction(_share(least, arrivals, seed), 0.0, queries=len(arrivals))

    return find_capacity(measure, scenario.fluid_qps, search)


def clairvoyant_share(
    scenario: Scenario, settings: SimulationSettings, arrivals: Sequence[Query], seed: int
) -> float:
    """Return the largest share of a run's counted queries that could be on time."""
    return _share(_LeastDemands(scenario, settings), arrivals, seed)


def full_clock_work(scenario: Scenario, model: str) -> NDArray[np.float64]:
    """Return core-seconds at the full machine's clock, shape (layers, versions, core counts).

    They are those of level 0: of who is alone but for the clock, and finds in the caches what its own model
    left there. Infinite where there is no such version.
    """
    costs = scenario.context.costs if scenario.busy_costs is None else scenario.busy_costs
    work: NDArray[np.float64] = costs.model(model).seconds[..., 0] * np.asarray(costs.cores, dtype=np.float64)
    return work


class _LeastDemands:
    """The least that queries of a scenario take of cores and of memory."""

    def __init__(self, scenario: Scenario, settings: SimulationSettings) -> None:
        context = scenario.context
        self.scenario, self._settings = scenario, settings
        self._tables = [context.costs.model(name) for name in context.models]
        self._plans = [self._plan(name) for name in context.models]
        # A block starts once at least, on the fewest cores at least.
        self._start_core_s = [
            min(context.costs.cores) * settings.costs.start_of(name) for name in context.models
        ]
        self._bytes = [_least_bytes(table.traffic_bytes) for table in self._tables]

    def of(self, arrivals: Sequence[Query], seed: int) -> list[Demand]:
        """Return what each query takes, with the noise that a run of this seed draws for it."""
        work, moved = [], []
        for part in noise_of(self.scenario, arrivals, seed):
            qos_s = np.array([query.qos_s for query in part.queries])
            core_s, loaded = np.empty(len(qos_s)), np.empty(len(qos_s))
            for model in np.unique(part.models).tolist():
                rows, table = np.flatnonzero(part.models == model), self._tables[model]
                factors = table.noise[part.noise_index[rows, : len(table.seconds)]]
                core_s[rows] = self._plans[model].core_s(factors, qos_s[rows]) + self._start_core_s[model]
                loaded[rows] = factors @ self._bytes[model]
            work.append(core_s)
            moved.append(loaded)
        machine = self.scenario.context.machine
        demands = [Demand(np.concatenate(work), fluid_capacity(machine))]
        # Times that were measured know no bandwidth; contention at less than its scale may pass it.
        if self.scenario.cost_model is not None and self._settings.contention >= 1.0:
            demands.append(Demand(np.concatenate(moved), machine.dram_bytes_per_s))
        return demands

    def _plan(self, model: str) -> LeastPlan:
        costs = self.scenario.context.costs
        work_s = full_clock_work(self.scenario, model) / np.asarray(costs.cores, dtype=np.float64)
        return least_plan(costs.model(model).seconds[..., 0], costs.cores, work_s)


def _least_bytes(traffic_bytes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least bytes of each layer, of shape (layers, versions, core counts, levels)."""
    least: NDArray[np.float64] = np.nanmin(traffic_bytes.reshape(len(traffic_bytes), -1), axis=1)
    return least


def _share(least: _LeastDemands, arrivals: Sequence[Query], seed: int) -> float:
    from_s = count_from_s(arrivals, least.scenario.qos_s)
    counted = np.array([query.arrival_s >= from_s for query in arrivals])
    arrivals_s = np.array([query.arrival_s for query in arrivals])
    deadlines_s = np.array([query.deadline_s for query in arrivals])
    demands = [Demand(demand.of_each[counted], demand.per_s) for demand in least.of(arrivals, seed)]
    return min(1.0, most_on_time(arrivals_s[counted], deadlines_s[counted], demands) / int(counted.sum()))

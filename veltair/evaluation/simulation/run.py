"""The simulated study: for each policy the QPS at 95 % QoS, then its records at loads that all share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import tee
from math import ceil, isfinite
from typing import Any

import numpy as np
import pandas as pd

from veltair.evaluation.experiment.invariants import checked, checked_columns
from veltair.evaluation.experiment.scenario import (
    MakePolicy,
    Scenario,
    capacity_columns,
    scenario_columns,
)
from veltair.evaluation.loadgen.arrivals import Seeds
from veltair.evaluation.loadgen.tenants import tenant_queries
from veltair.evaluation.metrics.capacity import (
    Capacity,
    CapacitySearch,
    Satisfaction,
    find_capacities,
    find_capacity,
    satisfaction_of,
    warmup_s,
)
from veltair.evaluation.metrics.capacity_table import reference_rate
from veltair.evaluation.metrics.records import Run, to_frame
from veltair.machine.costs.block_costs import FREE, BlockCosts
from veltair.machine.costs.table import CostTable
from veltair.serving.loop.ended_queries import ArrivalColumns, EndedQueries
from veltair.serving.loop.policy import Context
from veltair.serving.loop.query import Query, QueryRecord
from veltair.serving.simulator.native_loop import end_simulated, serve_simulated
from veltair.serving.simulator.noise import NoiseBatch, noise_batches
from veltair.serving.simulator.pressure_sensor import SensorError
from veltair.serving.simulator.simulator import Simulator

# A run shorter than this many latency targets is over before an overload could make anybody late.
LEAST_RUN_QOS = 20


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """How one rate is simulated: at least `queries` Poisson arrivals, and what the simulator charges for.

    Queries are still served for `drain_qos` x the longest latency target after the last arrival. `costs` and
    `placement` are those of `Simulator`. `contention` scales what co-runners add to a layer's time (0: the
    null model). `sensor_levels` is the standard deviation of the pressure that policies read, in steps
    between the profiled levels. `loadgen_cores` is how many cores LoadGen keeps busy beside the kernels,
    `pace` how many times as long as the tables say every layer takes.
    """

    queries: int
    drain_qos: float
    costs: BlockCosts = FREE
    placement: str = "spread"
    contention: float = 1.0
    sensor_levels: float = 0.0
    loadgen_cores: float = 0.0
    pace: float = 1.0


def simulate(
    scenario: Scenario, make: MakePolicy, settings: SimulationSettings, qps: float, seed: int
) -> tuple[tuple[Query, ...], Iterator[QueryRecord], Simulator]:
    """Return the arrivals, the records as they come, and the simulator of one run.

    Each record is checked against what cannot be done (`invariants.py`) before it is handed on.
    """
    arrivals = scenario_arrivals(scenario, settings, qps, seed)
    return arrivals, *simulate_arrivals(scenario, make, settings, arrivals, seed)


def simulate_arrivals(
    scenario: Scenario,
    make: MakePolicy,
    settings: SimulationSettings,
    arrivals: Sequence[Query],
    seed: int,
) -> tuple[Iterator[QueryRecord], Simulator]:
    """Return the records of given arrivals as they come, checked as by `simulate`, and the simulator."""
    noise, *same = tee(noise_of(scenario, arrivals, seed), 3)
    simulator = make_simulator(scenario, settings, arrivals, seed, noise=noise)
    seen = scenario.policy_context
    records = serve_simulated(make(seen), seen, simulator)
    least_core_s = scenario.least_work.of_each(same[0])
    fluid = scenario.fluid_work.of_each(same[1]), scenario.fluid_cores
    return checked(records, arrivals, scenario.context, least_core_s, fluid), simulator


def simulate_columns(
    scenario: Scenario,
    make: MakePolicy,
    settings: SimulationSettings,
    arrivals: Sequence[Query],
    columns: ArrivalColumns,
    seed: int,
) -> Iterator[EndedQueries]:
    """Return what became of given arrivals, which `columns` are of: `simulate_arrivals`, in columns."""
    noise, *same = tee(noise_of(scenario, arrivals, seed), 3)
    simulator = make_simulator(scenario, settings, arrivals, seed, noise=noise)
    seen = scenario.policy_context
    ended = end_simulated(make(seen), seen, simulator)
    fluid = scenario.fluid_work.of_parts(same[1]), scenario.fluid_cores
    return checked_columns(
        ended, arrivals, columns, scenario.context, scenario.least_work.of_parts(same[0]), fluid
    )


def scenario_arrivals(
    scenario: Scenario, settings: SimulationSettings, qps: float, seed: int
) -> tuple[Query, ...]:
    """Return the queries of one run at a rate."""
    min_duration_ms = ceil(1e3 * LEAST_RUN_QOS * max(scenario.qos_s.values()))
    return tenant_queries(scenario.senders, qps, min_duration_ms, settings.queries, seed)


def make_simulator(
    scenario: Scenario,
    settings: SimulationSettings,
    arrivals: Sequence[Query],
    seed: int,
    *,
    noise: Iterator[NoiseBatch] | None = None,
    core: str = "c",
) -> Simulator:
    """Return a simulator of these arrivals; service noise and the sensor's error are drawn from the seed.

    `noise` is that of `noise_of`, where the caller needs it too; `core` is the inner loop, `c` or `python`.
    """
    context = scenario.context
    levels = context.costs.levels
    sigma = settings.sensor_levels * (levels[-1] / max(1, len(levels) - 1))
    if settings.loadgen_cores:
        context = replace(context, costs=beside_loadgen(context, settings.loadgen_cores))
    if settings.pace != 1:
        paces = [settings.pace] * len(context.costs.cores)
        context = replace(context, costs=context.costs.stretched(paces))
    return Simulator(
        arrivals,
        context,
        noise_of(scenario, arrivals, seed) if noise is None else noise,
        drain_s=settings.drain_qos * max(scenario.qos_s.values()),
        costs=settings.costs,
        placement=settings.placement,
        cost_model=scenario.cost_model,
        contention_scale=settings.contention,
        sensor_error=SensorError(sigma=sigma, seed=seed) if sigma else None,
        core=core,
    )


def beside_loadgen(context: Context, loadgen_cores: float) -> CostTable:
    """Return the times of layers on cores that LoadGen takes so many of away.

    Its threads run on any core and go before kernels. A layer ends with the last of its cores, so a block on
    c of C cores stands still while one of them is taken: for the share `loadgen_cores` x c / C of its time.
    Raises ValueError if nothing would be left.
    """
    cores = context.machine.cores
    taken = [loadgen_cores * count / cores for count in context.costs.cores]
    if max(taken) >= 1:
        raise ValueError(
            f"LoadGen keeps {loadgen_cores:.3g} cores busy, which leaves a block on all {cores} no time; "
            "measure at a lower rate, or give `simulated.loadgen_cores` below 1"
        )
    return context.costs.stretched([1 / (1 - share) for share in taken])


def noise_of(scenario: Scenario, arrivals: Sequence[Query], seed: int) -> Iterator[NoiseBatch]:
    """Yield the service noise of a run, in batches: the same for every policy, and at every rate."""
    # A stream of its own: the service noise must not follow the arrivals.
    rng = np.random.default_rng([seed, Seeds.derive(seed).qsl])
    return noise_batches(arrivals, scenario.context, rng)


def count_from_s(arrivals: Sequence[Query], qos_s: Mapping[str, float]) -> float:
    """Return when counting starts: the warm-up before it is served, not counted."""
    return warmup_s(arrivals[-1].arrival_s, max(qos_s.values()))


def find_policy_capacity(
    scenario: Scenario, make: MakePolicy, settings: SimulationSettings, search: CapacitySearch, seed: int
) -> tuple[Capacity, Capacity]:
    """Return a policy's capacity, pooled and for the minimum over tenants, searched from the fluid bound."""
    return find_capacities(
        _satisfaction_at(scenario, make, settings, search, seed), _estimate_qps(scenario), search
    )


def find_pooled_capacity(
    scenario: Scenario, make: MakePolicy, settings: SimulationSettings, search: CapacitySearch, seed: int
) -> Capacity:
    """Return a policy's pooled capacity alone, for a third fewer rates."""
    return find_capacity(
        _satisfaction_at(scenario, make, settings, search, seed), _estimate_qps(scenario), search
    )


def _satisfaction_at(
    scenario: Scenario, make: MakePolicy, settings: SimulationSettings, search: CapacitySearch, seed: int
) -> Callable[[float], Satisfaction]:
    def measure(qps: float) -> Satisfaction:
        arrivals = scenario_arrivals(scenario, settings, qps, seed)
        columns = ArrivalColumns.of(arrivals)
        ended = simulate_columns(scenario, make, settings, arrivals, columns, seed)
        first_s = count_from_s(arrivals, scenario.qos_s)
        return satisfaction_of(ended, columns, first_s, stop_below=search.target)

    return measure


def _estimate_qps(scenario: Scenario) -> float:
    bound = scenario.fluid_qps
    return bound if isfinite(bound) else 1.0 / _isolated_s(scenario)


def _isolated_s(scenario: Scenario) -> float:
    return float(scenario.targets["isolated_latency_s"].sum())


def capacity_row(
    scenario: Scenario, policy: str, seed: int, pooled: Capacity, minimum: Capacity
) -> dict[str, Any]:
    """Return a row of the capacity table of simulated runs."""
    return {
        **scenario_columns(scenario, "simulator", scenario.simulator_validated),
        **capacity_columns(scenario, policy, seed, pooled, minimum),
    }


def offered_rates(
    capacity: pd.DataFrame, policy: str, fluid_qps: float, loads: Sequence[float]
) -> list[float]:
    """Return the rates at which a policy's records are kept: loads that all share, and its own capacity.

    `capacity` holds one machine, workload and seed; `loads` are shares of the `reference_rate`.
    """
    answers = dict(zip(capacity["policy"], capacity["qps_at_95"], strict=True))
    reference, _ = reference_rate(answers, fluid_qps)
    rates = {reference * load for load in loads}
    if answers[policy] > 0:
        rates.add(answers[policy])
    return sorted(rates)


def policy_records(
    scenario: Scenario,
    policy: str,
    make: MakePolicy,
    settings: SimulationSettings,
    rates: Sequence[float],
    seed: int,
) -> pd.DataFrame:
    """Return the records of a policy at each of the rates, in one table."""
    frames = []
    for qps in rates:
        arrivals, records, _ = simulate(scenario, make, settings, qps, seed)
        run = Run(
            **scenario_columns(scenario, "simulator", scenario.simulator_validated),
            policy=policy,
            qps=qps,
            seed=seed,
        )
        frames.append(to_frame(records, run, count_from_s(arrivals, scenario.qos_s)))
    return pd.concat(frames, ignore_index=True)

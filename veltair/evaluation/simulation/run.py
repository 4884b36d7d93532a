"""The simulated study: for each policy the QPS at 95 % QoS, then its records at loads that all share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, isfinite
from typing import Any

import numpy as np
import pandas as pd

from veltair.evaluation.experiment.common_random_numbers import Stream
from veltair.evaluation.experiment.invariants import checked
from veltair.evaluation.experiment.scenario import (
    MakePolicy,
    Scenario,
    capacity_columns,
    scenario_columns,
)
from veltair.evaluation.loadgen.arrivals import Seeds, server_queries, share_samples
from veltair.evaluation.metrics.capacity import (
    Capacity,
    Satisfaction,
    SearchSettings,
    find_capacities,
    find_capacity,
    satisfaction_of,
    warmup_s,
)
from veltair.evaluation.metrics.capacity_table import reference_rate
from veltair.evaluation.metrics.records import Run, to_frame
from veltair.serving.loop.query import Query, QueryRecord
from veltair.serving.simulator.native_loop import serve_simulated
from veltair.serving.simulator.noise import noise_batches
from veltair.serving.simulator.pressure_sensor import SensorError
from veltair.serving.simulator.simulator import Simulator

# A run shorter than this many latency targets is over before an overload could make anybody late.
LEAST_RUN_QOS = 20
# Nothing has compared the simulator's contention with a real machine yet, not even on the host.
SIMULATOR_VALIDATED = False


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """How one rate is simulated: at least `queries` Poisson arrivals, and what the simulator charges for.

    Queries are still served for `drain_qos` x the longest latency target after the last arrival. `placement`
    and the costs are those of `Simulator`. `contention` scales what co-runners add to a layer's time (0: the
    null model). `proxy_levels` is the standard deviation of the pressure that policies are told, in steps
    between the profiled levels. `start_costs_s` are starts of single models, in place of `start_cost_s`.
    """

    queries: int
    start_cost_s: float
    resize_cost_s: float
    drain_qos: float
    grant_cost_s: float = 0.0
    join_cost_s: float = 0.0
    placement: str = "spread"
    contention: float = 1.0
    proxy_levels: float = 0.0
    start_costs_s: Mapping[str, float] = field(default_factory=dict)


def simulate(
    scenario: Scenario, make: MakePolicy, settings: SimulationSettings, qps: float, seed: int
) -> tuple[tuple[Query, ...], Iterator[QueryRecord], Simulator]:
    """Return the arrivals, the records as they come, and the simulator of one run.

    Each record is checked against what cannot be done (`invariants.py`) before it is handed on.
    """
    arrivals = scenario_arrivals(scenario, settings, qps, seed)
    simulator = make_simulator(scenario, settings, arrivals, seed)
    records = serve_simulated(make(scenario.context), scenario.context, simulator)
    least_core_s = scenario.least_work.of_each(
        noise_batches(arrivals, scenario.context, _noise(scenario, seed))
    )
    return arrivals, checked(records, arrivals, scenario.context, least_core_s), simulator


def scenario_arrivals(
    scenario: Scenario, settings: SimulationSettings, qps: float, seed: int
) -> tuple[Query, ...]:
    """Return the queries of one run at a rate."""
    return server_queries(
        qps,
        min_duration_ms=ceil(1e3 * LEAST_RUN_QOS * max(scenario.qos_s.values())),
        min_query_count=settings.queries,
        seed=seed,
        sample_models=share_samples(scenario.weights),
        qos_s=scenario.qos_s,
    )


def make_simulator(
    scenario: Scenario, settings: SimulationSettings, arrivals: Sequence[Query], seed: int
) -> Simulator:
    """Return a simulator of these arrivals, with a seed of its own for noise and for the proxy's error."""
    levels = scenario.context.costs.levels
    sigma = settings.proxy_levels * (levels[-1] / max(1, len(levels) - 1))
    return Simulator(
        arrivals,
        scenario.context,
        _noise(scenario, seed),
        start_cost_s=settings.start_cost_s,
        resize_cost_s=settings.resize_cost_s,
        drain_s=settings.drain_qos * max(scenario.qos_s.values()),
        start_costs_s=settings.start_costs_s,
        grant_cost_s=settings.grant_cost_s,
        join_cost_s=settings.join_cost_s,
        placement=settings.placement,
        cost_model=scenario.cost_model,
        contention_scale=settings.contention,
        proxy=SensorError(sigma=sigma, seed=seed) if sigma else None,
    )


def _noise(scenario: Scenario, seed: int) -> Stream:
    # A stream of its own: the service noise must not follow the arrivals.
    return scenario.draws.stream(seed, lambda: np.random.default_rng([seed, Seeds.derive(seed).qsl]))


def count_from_s(arrivals: Sequence[Query], qos_s: Mapping[str, float]) -> float:
    """Return when counting starts: the warm-up before it is served, not counted."""
    return warmup_s(arrivals[-1].arrival_s, max(qos_s.values()))


def find_policy_capacity(
    scenario: Scenario, make: MakePolicy, settings: SimulationSettings, search: SearchSettings, seed: int
) -> tuple[Capacity, Capacity]:
    """Return a policy's capacity, pooled and for the minimum over models, searched from the fluid bound."""
    return find_capacities(
        _satisfaction_at(scenario, make, settings, search, seed), _estimate_qps(scenario), search
    )


def find_pooled_capacity(
    scenario: Scenario, make: MakePolicy, settings: SimulationSettings, search: SearchSettings, seed: int
) -> Capacity:
    """Return a policy's pooled capacity alone, for a third fewer rates."""
    return find_capacity(
        _satisfaction_at(scenario, make, settings, search, seed), _estimate_qps(scenario), search
    )


def _satisfaction_at(
    scenario: Scenario, make: MakePolicy, settings: SimulationSettings, search: SearchSettings, seed: int
) -> Callable[[float], Satisfaction]:
    def measure(qps: float) -> Satisfaction:
        arrivals, records, _ = simulate(scenario, make, settings, qps, seed)
        return satisfaction_of(
            records, arrivals, count_from_s(arrivals, scenario.qos_s), stop_below=search.target
        )

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
        **scenario_columns(scenario, "simulator", SIMULATOR_VALIDATED),
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
            **scenario_columns(scenario, "simulator", SIMULATOR_VALIDATED), policy=policy, qps=qps, seed=seed
        )
        frames.append(to_frame(records, run, count_from_s(arrivals, scenario.qos_s)))
    return pd.concat(frames, ignore_index=True)

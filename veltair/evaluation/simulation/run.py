"""The simulated study: for each policy the QPS at 95 % QoS, then its records at loads that all share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, isfinite, nan
from typing import Any

import numpy as np
import pandas as pd

from veltair.compiler.frontend.model import Model
from veltair.evaluation.loadgen.arrivals import Seeds, server_queries, share_samples
from veltair.evaluation.metrics.capacity import (
    Capacity,
    Satisfaction,
    SearchSettings,
    Status,
    find_capacities,
    find_capacity,
    satisfaction_of,
    warmup_s,
)
from veltair.evaluation.experiment.common_random_numbers import Draws, Stream
from veltair.evaluation.experiment.invariants import LeastWork, checked
from veltair.evaluation.metrics.records import Run, to_frame
from veltair.evaluation.metrics.targets import SATISFACTION, fluid_bound, targets
from veltair.machine.costs.cost_model import MachineLaw
from veltair.machine.costs.folder import Tables
from veltair.serving.simulator.native_loop import serve_simulated
from veltair.serving.simulator.noise import noise_parts
from veltair.serving.loop.policy import Context, Policy
from veltair.serving.loop.query import Query, QueryRecord
from veltair.serving.simulator.simulator import ProxyError, Simulator

MakePolicy = Callable[[Context], Policy]
# A run shorter than this many latency targets is over before an overload could make anybody late.
LEAST_RUN_QOS = 20
# Nothing has compared the simulator's contention with a real machine yet, not even on the host.
SIMULATOR_VALIDATED = False
REFERENCE = "Planaria"


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


@dataclass(frozen=True, slots=True)
class Site:
    """What is compared on one machine: the models with their targets there, its tables, and a workload.

    `law` is that of a described machine, which policies do not see; None where its costs were measured.
    `satisfaction` is the share of queries that must be on time.
    """

    context: Context
    targets: pd.DataFrame
    workload: str
    weights: Mapping[str, int]
    law: MachineLaw | None = None
    satisfaction: float = SATISFACTION
    draws: Draws = field(default_factory=Draws, compare=False, repr=False)
    least_work: LeastWork = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "least_work", LeastWork(self.context))

    @property
    def qos_s(self) -> dict[str, float]:
        """Latency targets by model."""
        return {name: self.context.models[name].qos_s for name in self.weights}

    @property
    def fluid_qps(self) -> float:
        """A bound that no policy passes: the rate at which on-time queries alone fill all cores."""
        total = sum(self.weights.values())
        work = dict(zip(self.targets["model"], self.targets["work_optimal_core_s"], strict=True))
        shares = {name: weight / total for name, weight in self.weights.items()}
        bound = fluid_bound(
            {name: work[name] for name in shares},
            shares,
            self.context.machine.cores,
            satisfaction=self.satisfaction,
        )
        return bound.pooled_qps


def make_site(
    tables: Tables,
    qos_s: Mapping[str, float],
    relax: float,
    workload: str,
    weights: Mapping[str, int],
    satisfaction: float = SATISFACTION,
) -> Site:
    """Return a workload on a machine, its targets raised to what the machine can meet.

    `qos_s` are the targets asked for. Raises LookupError for a model without tables.
    """
    missing = [name for name in weights if name not in tables.layers]
    if missing:
        raise LookupError(
            f"the cost tables of {tables.machine.name} lack {', '.join(missing)} (they have "
            f"{', '.join(tables.layers)}); profile here (`profile.costs: measured`)"
        )
    asked = [Model(name, tables.layers[name], qos_s[name]) for name in weights]
    table = targets(asked, tables.costs, relax)
    given = dict(zip(table["model"], table["qos_s"], strict=True))
    models = {model.name: Model(model.name, model.layers, given[model.name]) for model in asked}
    # Indexing a table anew takes seconds, so it is done only where some models are left out.
    costs = tables.costs if models.keys() == set(tables.costs.models) else tables.costs.select(list(models))
    context = Context(models, costs, tables.machine)
    return Site(context, table, workload, dict(weights), tables.law, satisfaction)


def simulate(
    site: Site, make: MakePolicy, settings: SimulationSettings, qps: float, seed: int
) -> tuple[tuple[Query, ...], Iterator[QueryRecord], Simulator]:
    """Return the arrivals, the records as they come, and the simulator of one run.

    Each record is checked against what cannot be done (`invariants.py`) before it is handed on.
    """
    arrivals = site_arrivals(site, settings, qps, seed)
    simulator = make_simulator(site, settings, arrivals, seed)
    records = serve_simulated(make(site.context), site.context, simulator)
    least_core_s = site.least_work.of_each(noise_parts(arrivals, site.context, _noise(site, seed)))
    return arrivals, checked(records, arrivals, site.context, least_core_s), simulator


def site_arrivals(site: Site, settings: SimulationSettings, qps: float, seed: int) -> tuple[Query, ...]:
    """Return the queries of one run at a rate."""
    return server_queries(
        qps,
        min_duration_ms=ceil(1e3 * LEAST_RUN_QOS * max(site.qos_s.values())),
        min_query_count=settings.queries,
        seed=seed,
        sample_models=share_samples(site.weights),
        qos_s=site.qos_s,
    )


def make_simulator(
    site: Site, settings: SimulationSettings, arrivals: Sequence[Query], seed: int
) -> Simulator:
    """Return a simulator of these arrivals, with a seed of its own for noise and for the proxy's error."""
    levels = site.context.costs.levels
    sigma = settings.proxy_levels * (levels[-1] / max(1, len(levels) - 1))
    return Simulator(
        arrivals,
        site.context,
        _noise(site, seed),
        start_cost_s=settings.start_cost_s,
        resize_cost_s=settings.resize_cost_s,
        drain_s=settings.drain_qos * max(site.qos_s.values()),
        start_costs_s=settings.start_costs_s,
        grant_cost_s=settings.grant_cost_s,
        join_cost_s=settings.join_cost_s,
        placement=settings.placement,
        law=site.law,
        contention_scale=settings.contention,
        proxy=ProxyError(sigma=sigma, seed=seed) if sigma else None,
    )


def _noise(site: Site, seed: int) -> Stream:
    # A stream of its own: the service noise must not follow the arrivals.
    return site.draws.stream(seed, lambda: np.random.default_rng([seed, Seeds.derive(seed).qsl]))


def count_from_s(arrivals: Sequence[Query], qos_s: Mapping[str, float]) -> float:
    """Return when counting starts: the warm-up before it is served, not counted."""
    return warmup_s(arrivals[-1].arrival_s, max(qos_s.values()))


def find_policy_capacity(
    site: Site, make: MakePolicy, settings: SimulationSettings, search: SearchSettings, seed: int
) -> tuple[Capacity, Capacity]:
    """Return a policy's capacity, pooled and for the minimum over models, searched from the fluid bound."""
    return find_capacities(_satisfaction_at(site, make, settings, search, seed), _estimate_qps(site), search)


def find_pooled_capacity(
    site: Site, make: MakePolicy, settings: SimulationSettings, search: SearchSettings, seed: int
) -> Capacity:
    """Return a policy's pooled capacity alone, for a third fewer rates."""
    return find_capacity(_satisfaction_at(site, make, settings, search, seed), _estimate_qps(site), search)


def _satisfaction_at(
    site: Site, make: MakePolicy, settings: SimulationSettings, search: SearchSettings, seed: int
) -> Callable[[float], Satisfaction]:
    def measure(qps: float) -> Satisfaction:
        arrivals, records, _ = simulate(site, make, settings, qps, seed)
        return satisfaction_of(
            records, arrivals, count_from_s(arrivals, site.qos_s), stop_below=search.target
        )

    return measure


def _estimate_qps(site: Site) -> float:
    bound = site.fluid_qps
    return bound if isfinite(bound) else 1.0 / _isolated_s(site)


def _isolated_s(site: Site) -> float:
    return float(site.targets["isolated_latency_s"].sum())


def capacity_row(site: Site, policy: str, seed: int, pooled: Capacity, minimum: Capacity) -> dict[str, Any]:
    """Return a row of the capacity table of simulated runs."""
    return {
        **site_columns(site, "simulator", SIMULATOR_VALIDATED),
        **capacity_columns(site, policy, seed, pooled, minimum),
    }


def capacity_columns(
    site: Site, policy: str, seed: int, pooled: Capacity, minimum: Capacity
) -> dict[str, Any]:
    """Return what the capacity table says of a policy's search on either backend."""
    return {
        "policy": policy,
        "seed": seed,
        "queries": pooled.queries,
        "fluid_qps": site.fluid_qps,
        "qps_at_95": pooled.qps,
        "high_qps": pooled.high_qps,
        "qps_at_95_minimum": minimum.qps,
        "resolution": pooled.resolution,
        "cut": pooled.status is Status.CUT,
        "unservable": pooled.status is Status.UNSERVABLE,
        "invalid": "the rate above it gave no valid run" if pooled.status is Status.INVALID else "",
        "answer": pooled.describe(),
    }


def over_seeds(capacity: pd.DataFrame) -> pd.DataFrame:
    """Return one row per policy: the mean over seeds, the widest bracket, and the spread of the seeds."""
    keys = ["backend", "machine", "validated", "workload", "policy"]
    if "common_qps" not in capacity:
        capacity = capacity.assign(common_qps=nan)
    groups = capacity.groupby(keys, sort=False)
    merged = groups.agg(
        qps_at_95=("qps_at_95", "mean"),
        qps_at_95_std=("qps_at_95", "std"),
        high_qps=("high_qps", "max"),
        qps_at_95_minimum=("qps_at_95_minimum", "mean"),
        fluid_qps=("fluid_qps", "first"),
        common_qps=("common_qps", "first"),
        resolution=("resolution", "max"),
        cut=("cut", "any"),
        unservable=("unservable", "all"),
        invalid=("invalid", "max"),
        answer=("answer", "first"),
        seeds=("seed", "nunique"),
    )
    return merged.reset_index()


def offered_rates(
    capacity: pd.DataFrame, policy: str, fluid_qps: float, loads: Sequence[float]
) -> list[float]:
    """Return the rates at which a policy's records are kept: loads that all share, and its own capacity.

    `capacity` holds one machine, workload and seed; `loads` are shares of `reference_qps`.
    """
    answers = dict(zip(capacity["policy"], capacity["qps_at_95"], strict=True))
    reference = reference_qps(answers, fluid_qps)
    rates = {reference * load for load in loads}
    if answers[policy] > 0:
        rates.add(answers[policy])
    return sorted(rates)


def reference_qps(answers: Mapping[str, float], fluid_qps: float) -> float:
    """Return the rate that loads are shares of: Planaria's QPS at 95 % QoS.

    Where it serves nothing, or does not take part, it is the best policy's, and at last the fluid bound.
    """
    return answers.get(REFERENCE) or max(answers.values()) or fluid_qps


def policy_records(
    site: Site, policy: str, make: MakePolicy, settings: SimulationSettings, rates: Sequence[float], seed: int
) -> pd.DataFrame:
    """Return the records of a policy at each of the rates, in one table."""
    frames = []
    for qps in rates:
        arrivals, records, _ = simulate(site, make, settings, qps, seed)
        run = Run(**site_columns(site, "simulator", SIMULATOR_VALIDATED), policy=policy, qps=qps, seed=seed)
        frames.append(to_frame(records, run, count_from_s(arrivals, site.qos_s)))
    return pd.concat(frames, ignore_index=True)


def site_columns(site: Site, backend: str, validated: bool) -> dict[str, Any]:
    """Return what every row about a site says of it; `validated` is the backend's part of that claim."""
    machine = site.context.machine
    return {
        "backend": backend,
        "machine": machine.name,
        "validated": machine.validated and validated,
        "workload": site.workload,
    }

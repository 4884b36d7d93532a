"""How fast the simulator is: on a many-core machine, beside SimPy, with a million queries, and as it grows.

All on one core, with contention, on the modelled 3990X at 70 % of the policy's own capacity there (of
Planaria's where it has none), preset `paper`. Goals: 500 000 layer ends/s with Veltair-FULL, 50 000
decisions/s with LayerWise, 10 x SimPy, 10^6 queries in 180 s and 1024 MiB, and at most twice the time a
layer end on 1024 cores (against 8) and with ten times the pending queries.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from veltair.config import Config
from veltair.evaluation.benchmarks.million_queries import MillionResult, serve_in_fresh_process
from veltair.evaluation.benchmarks.simpy_queue import Service, simpy_ends_s
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult, median_result, write_benchmark
from veltair.evaluation.experiment.scenario import Scenario, make_scenario, scenario_of
from veltair.evaluation.loadgen.arrivals import server_queries, share_samples
from veltair.evaluation.metrics.capacity import CapacitySearch
from veltair.evaluation.simulation.run import (
    SimulationSettings,
    find_pooled_capacity,
    make_simulator,
    noise_of,
)
from veltair.evaluation.simulation.steps import simulation_settings
from veltair.machine.costs.block_costs import FREE
from veltair.machine.costs.folder import COSTS, read_tables
from veltair.machine.costs.table import CostTable
from veltair.serving.loop.policy import Allocation, Context, Pending, Policy, Snapshot
from veltair.serving.loop.query import Query, QueryRecord
from veltair.serving.policies.presets import make_policy
from veltair.serving.simulator.native_loop import serve_simulated
from veltair.serving.simulator.noise import service_factors

COMMAND = "snakemake --cores all benchmarks_simulator"
PRESET = "paper"
FULL = "veltair.serving.policies.adaptive:VeltairFULL"
LAYER_WISE = "baselines.layer_wise:LayerWise"
PLANARIA = "baselines.planaria:Planaria"
FCFS = "baselines.fcfs_min:FcfsMin"
LOAD, SEED = 0.7, 1
# How finely the capacity is searched of which a load is a share.
RESOLUTION = 0.05
# Long enough for every query to end, however many wait at first.
DRAIN_QOS = 1e9


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: queries a run, runs a figure, the many queries, and the shorter of two queues."""

    queries: int = 5_000
    samples: int = 5
    many_queries: int = 1_000_000
    pending: int = 500


@dataclass(frozen=True, slots=True)
class Machines:
    """Folders of cost tables: of the many-core machine, and of the same with 8 and with 1024 cores."""

    many: Path
    small: Path
    large: Path


@dataclass(frozen=True, slots=True)
class Pace:
    """What a run did in how many wall seconds: layer ends, decisions, and its records.

    The seconds include making the policy.
    """

    events: int
    decisions: int
    seconds: float
    records: Sequence[QueryRecord]

    @property
    def event_us(self) -> float:
        """Microseconds a layer end."""
        return 1e6 * self.seconds / self.events


@dataclass(frozen=True, slots=True)
class Bench:
    """A policy in a scenario, and what a start and a resize cost there: what all its runs share."""

    scenario: Scenario
    policy: str
    settings: SimulationSettings

    def make(self, context: Context) -> Policy:
        """Return the policy, fresh for a run."""
        return make_policy(self.policy, context, PRESET, {})

    def loaded_qps(self) -> float:
        """Return `LOAD` of the policy's capacity, or of Planaria's where it has none, as loads of the study.

        Raises ValueError if neither has any.
        """
        search = CapacitySearch(RESOLUTION)
        for bench in (self, replace(self, policy=PLANARIA)):
            capacity = find_pooled_capacity(self.scenario, bench.make, self.settings, search, SEED)
            if capacity.qps > 0:
                return LOAD * capacity.qps
        raise ValueError(
            f"{self.policy} and {PLANARIA} serve no rate of {self.scenario.workload} at 95 % QoS on "
            f"{self.scenario.context.machine.name}, so there is no load to measure at; name a lighter "
            "workload first"
        )

    def arrivals(self, qps: float) -> tuple[Query, ...]:
        """Return the queries of a run at a rate."""
        return server_queries(
            qps,
            min_duration_ms=1,
            min_query_count=self.settings.queries,
            seed=SEED,
            sample_models=share_samples(self.scenario.weights),
            qos_s=self.scenario.qos_s,
        )

    def run(self, arrivals: Sequence[Query], core: str = "c") -> Pace:
        """Return the pace of a run, in C or all in Python."""
        context = self.scenario.context
        settings = replace(self.settings, drain_qos=DRAIN_QOS)
        simulator = make_simulator(self.scenario, settings, arrivals, SEED, core=core)
        start_s = time.perf_counter()
        records = list(serve_simulated(self.make(context), context, simulator))
        seconds = time.perf_counter() - start_s
        decisions = len(arrivals) + sum(record.blocks for record in records)
        return Pace(simulator.events, decisions, seconds, records)


def write_simulator(config: Config, machines: Machines, output: Path, size: Size | None = None) -> None:
    """Measure all figures for the first workload of a configuration, and write them."""
    size = size or Size()
    workload = next(iter(config.workloads))
    scenario = scenario_of(config, read_tables(machines.many), workload)
    settings = replace(simulation_settings(config), queries=size.queries)
    full = Bench(scenario, FULL, settings)
    qps = full.loaded_qps()
    figures = {
        **speed_figures(full, Bench(scenario, LAYER_WISE, settings), qps, size.samples),
        **simpy_figures(scenario, settings, size.samples),
        **growth_figures(config, machines, workload, settings, size.samples),
        "growth_pending": pending_figure(full, size.pending, size.samples),
    }
    served = serve_in_fresh_process(config, machines.many, workload, FULL, qps, size.many_queries)
    figures |= many_figures(served)
    for name, figure in figures.items():
        print(f"{name}: {figure.value:,.4g} {figure.unit}", flush=True)
    folders = (machines.many, machines.small, machines.large)
    write_benchmark(output, figures, config, [folder / COSTS for folder in folders])


def speed_figures(full: Bench, layer_wise: Bench, qps: float, samples: int) -> dict[str, BenchmarkResult]:
    """Return layer ends/s of one policy, decisions/s of another on its queries, and what the C core gains."""
    arrivals = full.arrivals(qps)
    events, decisions, gains = [], [], []
    for _ in range(samples):
        pace, in_python = full.run(arrivals), full.run(arrivals, core="python")
        if pace.records != in_python.records:
            raise RuntimeError("the simulator's cores in C and in Python differ: run tests/serving")
        events.append(1e6 / pace.event_us)
        gains.append(in_python.seconds / pace.seconds)
        fine = layer_wise.run(arrivals)
        decisions.append(fine.decisions / fine.seconds)
    blocks = pace.events / sum(record.blocks for record in pace.records)
    unit = f"layer ends/s, Veltair-FULL at {qps:.4g} QPS, {blocks:.1f} layers a block"
    return {
        "events_per_s": median_result(events, unit, COMMAND),
        "decisions_per_s": median_result(
            decisions, "decisions/s, LayerWise at the same rate, a layer end each", COMMAND
        ),
        "profile_python_vs_c": median_result(gains, "run in Python ÷ in C, equal records", COMMAND),
    }


def simpy_figures(
    scenario: Scenario, settings: SimulationSettings, samples: int
) -> dict[str, BenchmarkResult]:
    """Return how many times as fast as SimPy ours is on one first-come-first-served queue for cores.

    The queue has the scenario's models and noise, but neither interference nor costs of a start, since SimPy
    has none. Raises RuntimeError if the two do not agree on when each query ends, to the last bit.
    """
    bench = Bench(undisturbed(scenario), FCFS, replace(settings, costs=FREE))
    context = bench.scenario.context
    planned = services(bench)
    weights, cores = bench.scenario.weights, context.machine.cores
    core_s = sum(weights[name] * service.core_s for name, service in planned.items()) / sum(weights.values())
    arrivals = bench.arrivals(LOAD * cores / core_s)
    factors = list(service_factors(noise_of(bench.scenario, arrivals, SEED), context))
    ratios, events = [], 0
    for _ in range(samples):
        pace = bench.run(arrivals)
        start_s = time.perf_counter()
        ends_s = simpy_ends_s(arrivals, planned, factors, cores)
        ratios.append((time.perf_counter() - start_s) / pace.seconds)
        events = pace.events
        if ends_s != {record.query.id: record.end_s for record in pace.records}:
            raise RuntimeError("SimPy and the simulator disagree on when queries end: run tests/serving")
    return {
        "vs_simpy": median_result(
            ratios, f"SimPy's time ÷ ours, FcfsMin, {events} layer ends, equal ends", COMMAND
        )
    }


def undisturbed(scenario: Scenario) -> Scenario:
    """Return the scenario with layers that move no bytes and fill no cache: nobody slows anybody down."""
    context = scenario.context
    silent = context.costs.repeats.assign(traffic_bytes=0.0, footprint_bytes=0.0)
    return replace(
        scenario, context=replace(context, costs=CostTable(silent, context.costs.machine)), cost_model=None
    )


def services(bench: Bench) -> Mapping[str, Service]:
    """Return how a policy of whole models serves each: on the cores and in the versions of its allocation."""
    context, policy = bench.scenario.context, bench.make(bench.scenario.context)
    planned = {}
    for name, model in context.models.items():
        alone = Pending(Query(0, name, 0.0, model.qos_s), 0)
        (start,) = policy.allocate(Snapshot(0.0, context.machine.cores, 0.0, [alone], [], {}))
        if not isinstance(start, Allocation) or len(start.block) != len(model.layers):
            raise ValueError(
                f"{bench.policy} answers {start} for a whole {name}; give a policy of whole models"
            )
        index = context.costs.core_index(start.cores)
        seconds = context.costs.model(name).seconds[np.arange(len(start.block)), start.versions, index, 0]
        planned[name] = Service(start.cores, tuple(seconds.tolist()))
    return planned


def growth_figures(
    config: Config, machines: Machines, workload: str, settings: SimulationSettings, samples: int
) -> dict[str, BenchmarkResult]:
    """Return the time a layer end on 1024 cores over that on 8.

    Equal targets and as many times the rate as cores: so a query gets the same cores on both, and as large a
    part of them is busy.
    """
    small = Bench(scenario_of(config, read_tables(machines.small), workload), FULL, settings)
    tables, share = read_tables(machines.large), config.qos.satisfaction
    targets, weights = small.scenario.qos_s, small.scenario.weights
    large = Bench(make_scenario(tables, targets, config.qos.relax, workload, weights, share), FULL, settings)
    times = large.scenario.context.machine.cores / small.scenario.context.machine.cores
    qps = small.loaded_qps()
    few, many = small.arrivals(qps), large.arrivals(times * qps)
    ratios = [large.run(many).event_us / small.run(few).event_us for _ in range(samples)]
    cores = f"{large.scenario.context.machine.cores} cores ÷ on {small.scenario.context.machine.cores}"
    return {"growth_1024": median_result(ratios, f"time a layer end on {cores}, Veltair-FULL", COMMAND)}


def pending_figure(bench: Bench, pending: int, samples: int) -> BenchmarkResult:
    """Return the time a layer end while ten times as many queries wait, over that with `pending`."""
    qos_s = bench.scenario.qos_s
    models = share_samples(bench.scenario.weights)
    burst = [
        Query(number, models[number % len(models)], 0.0, qos_s[models[number % len(models)]])
        for number in range(10 * pending)
    ]
    ratios = [bench.run(burst).event_us / bench.run(burst[:pending]).event_us for _ in range(samples)]
    return median_result(
        ratios, f"time a layer end, {10 * pending} queries at once ÷ {pending}, Veltair-FULL", COMMAND
    )


def many_figures(served: MillionResult) -> dict[str, BenchmarkResult]:
    """Return time and memory of very many queries, from the trace to the table of records."""
    what = f"{served.queries} queries, Veltair-FULL, {100 * served.satisfaction:.1f} % on time"
    return {
        "million_queries_s": median_result([served.seconds], f"s, {what}", COMMAND),
        "million_queries_rss_mb": median_result([served.rss_mb], f"MiB at most, {what}", COMMAND),
    }

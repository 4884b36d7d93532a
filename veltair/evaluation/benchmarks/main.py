"""Our own speed, in the shape that every benchmark of this project has."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from veltair.config import Config
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult, write_benchmark
from veltair.evaluation.experiment.scenario import Scenario, policy_maker, scenario_of
from veltair.evaluation.loadgen.arrivals import server_queries, share_samples
from veltair.evaluation.simulation.run import simulate
from veltair.evaluation.simulation.steps import simulation_settings
from veltair.machine.costs.folder import derive, read_tables
from veltair.machine.topology.described import described
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.simulator.null import NullBackend

REPEATS = 3
MANY_CORES = "threadripper-3990x"
# A load that the machine carries: as a share of the rate that no policy passes.
LOAD = 0.2


def write_main(config: Config, tables: Path, oracles: Sequence[Path], output: Path) -> None:
    """Measure simulated layer ends per second and the dispatcher's time per event; gather oracle errors."""
    command = "snakemake --cores all benchmarks_main"
    workload = next(iter(config.workloads))
    here = scenario_of(config, read_tables(tables), workload)
    many = scenario_of(config, derive(read_tables(tables), described(MANY_CORES)), workload)
    figures: dict[str, BenchmarkResult] = {}
    for policy in config.policies:
        make = policy_maker(config, policy)
        events = _repeat(lambda make=make: _events_per_s(config, many, make))  # type: ignore[misc]
        figures[f"events_per_s_{policy}"] = BenchmarkResult(median(events), "layer ends/s", events, command)
        decisions = _repeat(lambda make=make: _event_us(config, here, make))  # type: ignore[misc]
        figures[f"event_us_{policy}"] = BenchmarkResult(median(decisions), "µs/event", decisions, command)
        print(
            f"{policy}: {median(events):,.0f} layer ends/s, {median(decisions):.1f} µs an event", flush=True
        )
    for path in oracles:
        worst = float(pd.read_csv(path)["relative_error"].max())
        figures[f"oracle_error_{path.stem}"] = BenchmarkResult(worst, "relative error", (worst,), command)
    write_benchmark(output, figures, config, [tables / "costs.parquet", *oracles])


def _repeat(sample: Callable[[], float]) -> tuple[float, ...]:
    return tuple(sample() for _ in range(REPEATS))


def _events_per_s(config: Config, scenario: Scenario, make: Callable[..., Any]) -> float:
    settings = simulation_settings(config)
    _, records, simulator = simulate(scenario, make, settings, LOAD * scenario.fluid_qps, seed=1)
    start_s = time.perf_counter()
    for _ in records:
        pass
    return simulator.events / (time.perf_counter() - start_s)


def _event_us(config: Config, scenario: Scenario, make: Callable[..., Any]) -> float:
    """Return the microseconds of policy and dispatcher for one event, on blocks that take no time."""
    arrivals = server_queries(
        LOAD * scenario.fluid_qps,
        min_duration_ms=1,
        min_query_count=config.simulated.queries,
        seed=1,
        sample_models=share_samples(scenario.weights),
        qos_s=scenario.qos_s,
    )
    backend = NullBackend(arrivals, drain_s=config.simulated.drain_qos * max(scenario.qos_s.values()))
    dispatcher = Dispatcher(make(scenario.context), scenario.context)
    start_s = time.perf_counter()
    blocks = sum(record.blocks for record in serve(dispatcher, backend))
    return 1e6 * (time.perf_counter() - start_s) / (blocks + len(arrivals))

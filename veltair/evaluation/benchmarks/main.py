"""Our own speed, in the shape that every benchmark of this project has."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from veltair.config import Config
from veltair.evaluation.loadgen.arrivals import server_queries, share_samples
from veltair.evaluation.simulation.steps import policy_maker, simulation_settings, site_of
from veltair.evaluation.simulation.run import Site, simulate
from veltair.machine.topology.described import described
from veltair.machine.costs.folder import derive, read_tables
from veltair.provenance import collect, write_json
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.simulator.null import NullBackend

REPEATS = 3
MANY_CORES = "threadripper-3990x"
# A load that the machine carries: as a share of the rate that no policy passes.
LOAD = 0.2


@dataclass(frozen=True, slots=True)
class Figure:
    """One number: the median of its samples, in a unit, and the command that measures it again."""

    value: float
    unit: str
    samples: tuple[float, ...]
    command: str


def write_benchmark(
    path: Path, figures: Mapping[str, Figure], config: Config, inputs: Sequence[Path]
) -> None:
    """Write {"figures": {name: {value, unit, samples, command}}, "provenance": ...}."""
    provenance = collect(config.model_dump(mode="json"), inputs=inputs)
    document = {
        "figures": {name: asdict(figure) for name, figure in figures.items()},
        "provenance": provenance.as_dict(),
    }
    write_json(path, document, provenance)


def write_main(config: Config, tables: Path, oracles: Sequence[Path], output: Path) -> None:
    """Measure simulated layer ends per second and the dispatcher's time per event; gather oracle errors."""
    command = "snakemake --cores all benchmarks_main"
    workload = next(iter(config.workloads))
    here = site_of(config, read_tables(tables), workload)
    many = site_of(config, derive(read_tables(tables), described(MANY_CORES)), workload)
    figures: dict[str, Figure] = {}
    for policy in config.policies:
        make = policy_maker(config, policy)
        events = _repeat(lambda make=make: _events_per_s(config, many, make))  # type: ignore[misc]
        figures[f"events_per_s_{policy}"] = Figure(median(events), "layer ends/s", events, command)
        decisions = _repeat(lambda make=make: _event_us(config, here, make))  # type: ignore[misc]
        figures[f"event_us_{policy}"] = Figure(median(decisions), "µs/event", decisions, command)
        print(
            f"{policy}: {median(events):,.0f} layer ends/s, {median(decisions):.1f} µs an event", flush=True
        )
    for path in oracles:
        worst = float(pd.read_csv(path)["relative_error"].max())
        figures[f"oracle_error_{path.stem}"] = Figure(worst, "relative error", (worst,), command)
    write_benchmark(output, figures, config, [tables / "costs.parquet", *oracles])


def _repeat(sample: Callable[[], float]) -> tuple[float, ...]:
    return tuple(sample() for _ in range(REPEATS))


def _events_per_s(config: Config, site: Site, make: Callable[..., Any]) -> float:
    settings = simulation_settings(config)
    _, records, simulator = simulate(site, make, settings, LOAD * site.fluid_qps, seed=1)
    start_s = time.perf_counter()
    for _ in records:
        pass
    return simulator.events / (time.perf_counter() - start_s)


def _event_us(config: Config, site: Site, make: Callable[..., Any]) -> float:
    """Return the microseconds of policy and dispatcher for one event, on blocks that take no time."""
    arrivals = server_queries(
        LOAD * site.fluid_qps,
        min_duration_ms=1,
        min_query_count=config.simulated.queries,
        seed=1,
        sample_models=share_samples(site.weights),
        qos_s=site.qos_s,
    )
    backend = NullBackend(arrivals, drain_s=config.simulated.drain_qos * max(site.qos_s.values()))
    dispatcher = Dispatcher(make(site.context), site.context)
    start_s = time.perf_counter()
    blocks = sum(record.blocks for record in serve(dispatcher, backend))
    return 1e6 * (time.perf_counter() - start_s) / (blocks + len(arrivals))

"""The step in real time: policies measured on this machine, on which nothing else is measured meanwhile."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

import pandas as pd

from veltair.config import Config
from veltair.evaluation.experiment.layout import CAPACITY, RECORDS, Layout
from veltair.evaluation.experiment.scenario import policy_maker, scenario_of
from veltair.evaluation.experiment.tables_io import provenance_of, read_csv, write_csv
from veltair.evaluation.measurement.interference_steps import started_source
from veltair.evaluation.measurement.run import (
    Measurement,
    MeasurementSettings,
    live_capacity_row,
    live_frame,
    load_models,
    make_samples,
    policy_verdicts,
    run_rows,
    search,
)
from veltair.evaluation.metrics.capacity import CapacitySearch
from veltair.evaluation.metrics.capacity_table import EQUAL_LOAD, reference_rates
from veltair.machine.costs.folder import COSTS, read_tables
from veltair.machine.models.model_memory import ModelMemory
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import Launch
from veltair.provenance import check_made_here, read_provenance, write_parquet

RUNS, VERDICTS = "runs.csv", "verdicts.csv"


def measure_policy(
    config: Config,
    tables: Path,
    builds: dict[str, Path],
    workload: str,
    policy: str,
    capacities: Sequence[Path],
    folder: Path,
    notes: Path | None = None,
) -> None:
    """Search a policy's QPS at 95 % QoS on this machine, from the simulated answers, and write all runs.

    `notes` is where the workers write what they are at, should the process crash.
    """
    scenario = scenario_of(config, read_tables(tables), workload)
    check_made_here(read_provenance(tables / COSTS))
    models, memory = load_models(builds, scenario.weights, memory_bytes(config))
    common_qps, estimate_qps = _first_rates(policy, capacities)
    settings, make = live_settings(config), policy_maker(config, policy)
    with started_source(config, scenario.context.machine) as (source, line):
        samples = make_samples(models, scenario, settings.seed, memory)
        launch = launch_of(config, notes)
        study = Measurement(scenario, policy, make, models, samples, settings, launch, source, memory)
        pooled, minimum, runs = search(
            study, live_search(config), common_qps, estimate_qps, folder / "loadgen"
        )
    if not runs:
        raise RuntimeError(f"{policy} on {workload}: no rate could be measured; see the lines above")
    print(f"measured here, {workload}, {policy}: {pooled.describe()}", flush=True)
    if memory is not None:
        print(_loads_text(memory), flush=True)
    fits = Layout(config).interference
    inputs = [tables / COSTS, *([fits] if fits.exists() else [])]
    provenance = provenance_of(config, inputs, seed=settings.seed, interference=line)
    row = live_capacity_row(scenario, policy, settings.seed, common_qps, pooled, minimum)
    write_parquet(folder / RECORDS, live_frame(study, runs), provenance)
    write_csv(folder / RUNS, pd.DataFrame(run_rows(policy, runs)), provenance)
    write_csv(folder / VERDICTS, pd.DataFrame(policy_verdicts(policy, runs)), provenance)
    write_csv(folder / CAPACITY, pd.DataFrame([row]), provenance)


def _loads_text(memory: ModelMemory) -> str:
    """Return how often models were loaded, and how long it took."""
    times = ", ".join(
        f"{name} {len(seconds)} x {1e3 * median(seconds):.1f} ms"
        for name, seconds in memory.load_seconds.items()
        if seconds
    )
    return f"model memory: {memory.counts.loads} loads (median: {times}), {memory.counts.evictions} evictions"


def _first_rates(policy: str, capacities: Sequence[Path]) -> tuple[float, float]:
    """Return the rate that all policies are measured at, and where the policy's search starts.

    The first is `EQUAL_LOAD` of the simulated reference rate, the second the policy's simulated capacity, or
    the reference rate where it serves nothing.
    """
    seeds = pd.concat([read_csv(path) for path in capacities], ignore_index=True)
    reference_qps = float(reference_rates(seeds)["reference_qps"].mean())
    answers = seeds.groupby("policy")["qps_at_95"].mean()
    return EQUAL_LOAD * reference_qps, float(answers[policy]) or reference_qps


def live_settings(config: Config) -> MeasurementSettings:
    """Return how one rate is measured."""
    measured = config.measured
    return MeasurementSettings(
        measured.seconds,
        measured.seed,
        config.simulated.drain_qos,
        measured.loadgen_per_model,
        measured.timeline,
        config.engine.placement,
    )


def launch_of(config: Config, notes: Path | None = None) -> Launch:
    """Return what starts the workers of an engine, which write what they are at to `notes`."""
    return partial(NativePool, build_dir=Layout(config).native, notes=notes)


def memory_bytes(config: Config) -> int | None:
    """Return the budget for the weights of loaded models, if there is one."""
    megabytes = config.engine.memory_mb
    return None if megabytes is None else int(megabytes * 1e6)


def live_search(config: Config) -> CapacitySearch:
    """Return how the highest rate is searched where rates are measured."""
    measured = config.measured
    return CapacitySearch(measured.resolution, max_rates=measured.max_rates, target=config.qos.satisfaction)

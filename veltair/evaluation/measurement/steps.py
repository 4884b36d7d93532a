"""The step in real time: policies measured on this machine, on which nothing else is measured meanwhile."""

import shutil
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from veltair.config import Config
from veltair.evaluation.experiment.layout import RECORDS, SLOTS, Layout
from veltair.evaluation.experiment.scenario import Scenario, policy_maker, policy_source, scenario_of
from veltair.evaluation.experiment.tables_io import provenance_of, write_csv
from veltair.evaluation.loadgen.logs import LOADGEN
from veltair.evaluation.loadgen.tenants import drawn_by
from veltair.evaluation.measurement.interference_steps import started_source
from veltair.evaluation.measurement.rounds import Attempt, Rounds, attempt_rows, kept_records
from veltair.evaluation.measurement.run import (
    PolicyServer,
    load_models,
    make_samples,
    open_engine,
)
from veltair.evaluation.measurement.slots import Grid
from veltair.evaluation.measurement.study import Measurement, MeasurementSettings
from veltair.evaluation.metrics.measured_tables import measured_workloads, slot_counts
from veltair.machine.costs.folder import COSTS, read_tables
from veltair.machine.models.model_memory import ModelMemory
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import Launch
from veltair.provenance import check_made_here, read_provenance, write_parquet

VERDICTS, LOGS = "verdicts.csv", "loadgen"


def measure_workload(
    config: Config,
    tables: Path,
    builds: dict[str, Path],
    workload: str,
    policies: list[str],
    folder: Path,
    notes: Path | None = None,
) -> None:
    """Measure all policies on this machine at the same rates in the same rounds, and write what was found.

    `notes` is where the workers write what they are at, should the process crash. Raises RuntimeError if no
    slot could be measured.
    """
    scenario = scenario_of(config, read_tables(tables), workload)
    check_made_here(read_provenance(tables / COSTS))
    models, memory = load_models(builds, scenario.weights, memory_bytes(config))
    # Runs of an earlier measurement, which may have had more rounds, would be drawn as this one's.
    shutil.rmtree(folder / LOGS, ignore_errors=True)
    settings, launch = live_settings(config), launch_of(config, notes)
    rounds = measured_rounds(config, scenario, folder / LOGS)
    with started_source(config, scenario.context.machine) as (source, line):
        samples = make_samples(models, scenario, settings.seed, memory)
        studies = [
            Measurement(
                *(scenario, policy, policy_maker(config, policy), models, samples),
                *(settings, launch, source, memory, policy_source(config, policy)),
            )
            for policy in policies
        ]
        with open_engine(studies[0]) as engine:
            attempts = rounds.measure({study.policy: PolicyServer(study, engine) for study in studies})
    if memory is not None:
        print(_loads_text(memory), flush=True)
    _write(config, tables, scenario, attempts, folder, interference=line)


def _write(
    config: Config, tables: Path, scenario: Scenario, attempts: list[Attempt], folder: Path, interference: str
) -> None:
    workload, records = scenario.workload, kept_records(attempts)
    slots = pd.DataFrame([{"workload": workload, **row} for row in attempt_rows(attempts)])
    verdicts = [
        {**row, "round": one.slot.round, "share": one.slot.share, "attempt": one.number}
        for one in attempts
        for row in one.served.verdicts
    ]
    fits = Layout(config).interference
    inputs = [tables / COSTS, *([fits] if fits.exists() else [])]
    provenance = provenance_of(
        config,
        inputs,
        seed=config.measured.seed,
        interference=interference,
        priorities=_priorities(slots),
        arrivals=drawn_by(scenario.senders),
    )
    write_parquet(folder / RECORDS, records, provenance)
    write_csv(folder / SLOTS, slots, provenance)
    write_csv(folder / VERDICTS, pd.DataFrame(verdicts), provenance)
    generator = np.random.default_rng(config.measured.seed)
    for found in measured_workloads(slot_counts(records, slots), config.qos.satisfaction, generator):
        for policy, number in found.crossings.items():
            print(f"measured here, {workload}, {policy}: {number.found} QPS", flush=True)


def _priorities(slots: pd.DataFrame) -> str:
    """Return who ran before whom in all slots."""
    ways = sorted({way for way in slots["loadgen_runs"] if way})
    clients = ", ".join(sorted({client for client in slots["client"] if client})) or LOADGEN
    return f"{clients}, and the thread that reads its socket: {', '.join(ways)}; kernels: like any program"


def _loads_text(memory: ModelMemory) -> str:
    """Return how often models were loaded, and how long it took."""
    times = ", ".join(
        f"{name} {len(seconds)} x {1e3 * median(seconds):.1f} ms"
        for name, seconds in memory.load_seconds.items()
        if seconds
    )
    return f"model memory: {memory.counts.loads} loads (median: {times}), {memory.counts.evictions} evictions"


def measured_rounds(config: Config, scenario: Scenario, folder: Path, times: float = 1.0) -> Rounds:
    """Return how long a workload is measured on which grid: `times` as long as the configuration says."""
    measured = config.measured
    grid = Grid(measured.shares, scenario.sequential_qps, measured.seed)
    return Rounds(grid, 60.0 * measured.minutes * times, folder)


def live_settings(config: Config) -> MeasurementSettings:
    """Return how one rate is measured."""
    measured = config.measured
    return MeasurementSettings(
        seconds=measured.seconds,
        seed=measured.seed,
        drain_qos=config.simulated.drain_qos,
        queries=measured.queries,
        loadgen_per_model=measured.loadgen_per_model,
        timeline=measured.timeline,
        placement=config.engine.placement,
    )


def launch_of(config: Config, notes: Path | None = None) -> Launch:
    """Return what starts the workers of an engine, which write what they are at to `notes`."""
    return partial(NativePool, build_dir=Layout(config).native, notes=notes, spins=config.engine.spin)


def memory_bytes(config: Config) -> int | None:
    """Return the budget for the weights of loaded models, if there is one."""
    megabytes = config.engine.memory_mb
    return None if megabytes is None else int(megabytes * 1e6)

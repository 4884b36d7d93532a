"""What a validation measures, a rule each: co-runs of models, and traces of policies."""

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from pathlib import Path

import pandas as pd

from veltair.config import Config
from veltair.evaluation.experiment.scenario import policy_maker, scenario_of
from veltair.evaluation.experiment.tables_io import write_csv
from veltair.evaluation.loadgen.logs import LoadGenError
from veltair.evaluation.measurement.interference_steps import started_source
from veltair.evaluation.measurement.rounds import REPEATS
from veltair.evaluation.measurement.run import (
    MeasuredRun,
    live_frame,
    load_models,
    make_samples,
    measure,
    open_engine,
    run_rows,
)
from veltair.evaluation.measurement.steps import launch_of, live_settings, memory_bytes
from veltair.evaluation.measurement.study import Measurement
from veltair.evaluation.validation.co_runs import draw_pairs, measure_pairs, tenants
from veltair.evaluation.validation.compared_traces import RUNS
from veltair.machine.costs.folder import COSTS, read_tables
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.placement import PLACEMENTS
from veltair.provenance import check_made_here, collect, read_provenance, write_parquet

# Shares of the sequential rate: policies neither idle nor drown.
TRACE_LOADS = (0.3, 0.6)
# Queries that count at each load, about, as a shorter trace cannot tell policies apart.
TRACE_QUERIES = 200
COUNTED_SHARE = 0.9  # the rest warms up: `capacity.warmup_s`


def measure_co_runs(
    config: Config, tables: Path, builds: Mapping[str, Path], output: Path, notes: Path | None = None
) -> None:
    """Time pairs of models beside each other on this machine, and write every sample.

    `notes` is where the workers write what they are at, should the process crash. Raises ProvenanceError if
    the tables are another machine's.
    """
    check_made_here(read_provenance(tables / COSTS))
    known = read_tables(tables)
    pairs = draw_pairs(tenants(known), known.machine.cores, config.measured.seed)
    models = {name: LoadedModel(path) for name, path in builds.items()}
    print(f"{len(pairs)} pairs beside each other, {known.machine.cores} cores", flush=True)
    pool = launch_of(config, notes)(known.machine.core_ids)
    try:
        samples = measure_pairs(pool, models, pairs, known.machine, PLACEMENTS[config.engine.placement])
    finally:
        pool.stop()
    plans = [folder / "plan.json" for folder in builds.values()]
    provenance = collect(
        config.model_dump(mode="json"), inputs=[tables / COSTS, *plans], seed=config.measured.seed
    )
    write_parquet(output, samples, provenance)


def measure_trace(
    config: Config,
    tables: Path,
    builds: Mapping[str, Path],
    workload: str,
    policy: str,
    output: Path,
    notes: Path | None = None,
) -> None:
    """Record what becomes of a trace under a policy on this machine, at two loads that all policies share.

    Writes the records by the engine's clock, and beside them how well LoadGen kept its schedule. `notes` are
    as of `measure_co_runs`. Raises RuntimeError if no rate could be measured.
    """
    check_made_here(read_provenance(tables / COSTS))
    scenario = scenario_of(config, read_tables(tables), workload)
    models, memory = load_models(builds, scenario.weights, memory_bytes(config))
    runs: list[MeasuredRun] = []
    with started_source(config, scenario.context.machine) as (source, line):
        given, make = live_settings(config), policy_maker(config, policy)
        samples = make_samples(models, scenario, given.seed, memory)
        for load in TRACE_LOADS:
            qps = load * scenario.sequential_qps
            settings = replace(given, seconds=max(given.seconds, TRACE_QUERIES / COUNTED_SHARE / qps))
            study = Measurement(
                scenario, policy, make, models, samples, settings, launch_of(config, notes), source, memory
            )
            run = recorded_run(study, qps, output.parent / "loadgen")
            runs += [] if run is None else [run]
    if not runs:
        raise RuntimeError(f"{policy} on {workload}: no rate could be measured; see the lines above")
    provenance = collect(
        config.model_dump(mode="json"), inputs=[tables / COSTS], seed=given.seed, interference=line
    )
    by_engine = [replace(run, records=run.engine_records) for run in runs]
    write_parquet(output, live_frame(study, by_engine), provenance)
    write_csv(output.parent / RUNS, pd.DataFrame(run_rows(policy, runs)), provenance)


def recorded_run(study: Measurement, qps: float, folder: Path) -> MeasuredRun | None:
    """Return the first run at a rate that was right and undisturbed; else the last, None where all failed.

    That LoadGen issued late spoils no trace: queries are replayed as they came. The pace of the machine is
    measured before and after each try.
    """
    run = None
    for attempt in range(1, 2 + REPEATS):
        try:
            with open_engine(study) as engine:
                before = engine.pace(study)
                run = measure(study, qps, folder / f"{qps:.4g}qps-{attempt}", engine)
                pace = sqrt(before * engine.pace(study))
        except LoadGenError as error:
            print(f"{study.policy} at {qps:.4g} QPS failed: {error}", flush=True)
            continue
        run = replace(run, load=replace(run.load, pace=pace))
        print(
            f"{study.policy} at {qps:.4g} QPS: {len(run.records)} queries {run.quality.problem}", flush=True
        )
        if not (run.wrong_answers or run.use.problem):
            break
    return run

"""The steps of a validation: measuring co-runs and traces, then comparing both with what is modelled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path

import pandas as pd

from veltair.config import Config
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult, write_benchmark
from veltair.evaluation.experiment.layout import SHIPPED_COSTS
from veltair.evaluation.experiment.scenario import Scenario, policy_maker, scenario_of
from veltair.evaluation.experiment.tables_io import read_csv, write_csv
from veltair.evaluation.loadgen.logs import LoadGenError
from veltair.evaluation.measurement.interference_steps import started_source
from veltair.evaluation.measurement.rounds import REPEATS
from veltair.evaluation.measurement.run import (
    MeasuredRun,
    live_frame,
    load_models,
    make_samples,
    measure,
    run_rows,
)
from veltair.evaluation.measurement.steps import launch_of, live_settings, memory_bytes
from veltair.evaluation.measurement.study import Measurement
from veltair.evaluation.metrics.records import read_records
from veltair.evaluation.simulation.run import SimulationSettings
from veltair.evaluation.simulation.steps import simulation_settings
from veltair.evaluation.simulation.validated import record_of, write_record
from veltair.evaluation.validation.anchors import (
    GOOGLENET,
    LAYER_WISE,
    RESNET,
    Anchor,
    AnchorStudy,
    anchors,
)
from veltair.evaluation.validation.co_run_errors import (
    co_run_table,
    fit_demand,
    held_out,
    measured_co_runs,
    predict_pairs,
    tenants_of,
)
from veltair.evaluation.validation.co_runs import draw_pairs, measure_pairs, tenants
from veltair.evaluation.validation.cost_model_errors import cost_errors
from veltair.evaluation.validation.goals import (
    GOALS,
    METRIC_OF,
    Finding,
    GoalStatus,
    by_policy,
    co_run_finding,
    cost_finding,
    may_be_validated,
    trace_findings,
)
from veltair.evaluation.validation.replay import replays, runs_of
from veltair.evaluation.validation.report import Evidence, validation_markdown, verdict_lines
from veltair.evaluation.validation.trace_errors import (
    PairOrder,
    TraceError,
    pair_orders,
    run_metrics,
    trace_errors,
)
from veltair.evaluation.validation.traffic_errors import traffic_figures
from veltair.machine.costs.folder import COSTS, Tables, derive, read_tables, table_files
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.placement import PLACEMENTS
from veltair.provenance import (
    check_made_here,
    collect,
    file_digest,
    read_provenance,
    write_atomically,
    write_parquet,
)

# Shares of the sequential rate: policies neither idle nor drown.
TRACE_LOADS = (0.3, 0.6)
RUNS = "runs.csv"  # how well each run could be measured, beside the records
# Queries that count at each load, about, as a shorter trace cannot tell policies apart.
TRACE_QUERIES = 200
COUNTED_SHARE = 0.9  # the rest warms up: `capacity.warmup_s`
ANCHOR_QOS_S = 0.015


@dataclass(frozen=True, slots=True)
class ValidationFiles:
    """What is compared: this machine's tables, its co-runs, records of measured runs by policy and workload.

    `described` are the tables of the machine that the published anchors are about, `traffic` the table of
    rule `traffic`; None leaves them out.
    """

    tables: Path
    co_runs: Path
    records: Sequence[Path]
    described: Path | None = None
    traffic: Path | None = None


@dataclass(frozen=True, slots=True)
class ValidationResults:
    """Where the outcome goes: numbers, report, the record that labels follow, and the tables' folder."""

    figures: Path
    report: Path
    record: Path
    written: Path


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

    That LoadGen issued late spoils no trace: queries are replayed as they came.
    """
    run = None
    for attempt in range(1, 2 + REPEATS):
        try:
            run = measure(study, qps, folder / f"{qps:.4g}qps-{attempt}")
        except LoadGenError as error:
            print(f"{study.policy} at {qps:.4g} QPS failed: {error}", flush=True)
            continue
        print(
            f"{study.policy} at {qps:.4g} QPS: {len(run.records)} queries {run.quality.problem}", flush=True
        )
        if not (run.wrong_answers or run.use.problem):
            break
    return run


def validate(config: Config, files: ValidationFiles, results: ValidationResults, command: str) -> None:
    """Write what `write_validation` writes, and print its verdicts."""
    print("\n".join(write_validation(config, files, results, command)), flush=True)


def write_validation(
    config: Config, files: ValidationFiles, results: ValidationResults, command: str
) -> list[str]:
    """Compare what was measured with what is modelled, write all of it, and return a verdict line a goal.

    Raises TraceError for runs that were measured with other tables, or cannot be replayed.
    """
    tables = read_tables(files.tables)
    cells = cost_errors(tables).assign(level=0.0)
    # On one core the cost model's input is the measured time itself.
    cells["held_out"] = cells["cores"] > 1
    co_runs, scale = compare_co_runs(config, tables, pd.read_parquet(files.co_runs))
    errors, pairs = compare_traces(config, files)
    found = Evidence(
        tables.machine.name,
        tables.machine.cores,
        [cost_finding(cells), co_run_finding(co_runs), *trace_findings(errors, pairs)],
        errors,
        by_policy(errors),
        pairs,
        co_runs,
        scale,
        _published(config, files.described),
        None if files.traffic is None else read_csv(files.traffic),
    )
    inputs = [*table_files(files.tables), files.co_runs, *files.records]
    inputs += [] if files.described is None else [files.described / COSTS, SHIPPED_COSTS / COSTS]
    inputs += [] if files.traffic is None else [files.traffic]
    provenance = collect(config.model_dump(mode="json"), inputs=inputs)
    allowed, why = may_be_validated(found.findings, found.cores)
    for name, table in (("cost_fit", cells), ("corun_fit", co_runs), ("fidelity", errors)):
        named = table.assign(machine=tables.machine.name, validated=allowed)
        write_csv(results.written / f"{name}.csv", named, provenance)
    write_record(
        results.record, record_of(tables, _replay_settings(config, tables), allowed, why), provenance
    )
    write_atomically({results.report: validation_markdown(found).encode()})
    figures = figures_of(found, command) | charged_figures(simulation_settings(config, tables), command)
    write_benchmark(results.figures, figures, config, inputs)
    label = [_label_line(results.record, found.machine)] if allowed else []
    return [*verdict_lines(found.findings), *label]


def _label_line(record: Path, machine: str) -> str:
    return (
        f"all goals are met: copy {record} and its provenance to veltair/data/validation/ as {machine}.json, "
        "and simulated runs on such a machine are labelled validated"
    )


def _replay_settings(config: Config, tables: Tables) -> SimulationSettings:
    """Return how traces are replayed: with the engine's placement, not that of other simulations."""
    return replace(simulation_settings(config, tables), placement=config.engine.placement)


def compare_co_runs(config: Config, tables: Tables, samples: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Return measured and predicted slowdowns, and the scale of demand fitted on every second pair."""
    measured, pairs = measured_co_runs(samples), tenants_of(samples, tables)
    placement = config.engine.placement

    def fitted_on(scale: float) -> Mapping[int, Sequence[float]]:
        return predict_pairs(tables, pairs, placement, scale, lambda corun: not held_out(corun))

    scale = fit_demand(measured, fitted_on)
    fitted, plain = (predict_pairs(tables, pairs, placement, value) for value in (scale, 1.0))
    return co_run_table(measured, pairs, fitted, plain), scale


def compare_traces(config: Config, files: ValidationFiles) -> tuple[pd.DataFrame, list[PairOrder]]:
    """Return the errors of every valid measured run, replayed, and all pairs of policies on one trace."""
    tables = read_tables(files.tables)
    settings = _replay_settings(config, tables)
    metrics: list[pd.DataFrame] = []
    frames: list[pd.DataFrame] = []
    simulated, flat = _Replays(), _Replays()
    for records in _valid_records(files):
        workload, policy = str(records["workload"].iloc[0]), str(records["policy"].iloc[0])
        if policy not in config.policies or workload not in config.workloads:
            raise TraceError(
                f"{policy} on {workload} was measured, but the configuration has no such policy or workload; "
                "validate with the configuration of the measurement"
            )
        scenario = scenario_of(config, tables, workload)
        frames.append(records)
        metrics.append(run_metrics(records, scenario.targets, scenario.context.machine.cores))
        for run in runs_of(records):
            again, null = replays(run, scenario, policy_maker(config, policy), settings)
            simulated.add(again, scenario)
            flat.add(null, scenario)
    measured = pd.concat(frames, ignore_index=True)
    errors = trace_errors(pd.concat(metrics, ignore_index=True), simulated.metrics(), flat.metrics())
    return errors, pair_orders(measured, simulated.records(), flat.records())


class _Replays:
    """The replays of many runs, by number: the first of each run together, the second, ..."""

    def __init__(self) -> None:
        self._records: dict[int, list[pd.DataFrame]] = {}
        self._metrics: dict[int, list[pd.DataFrame]] = {}

    def add(self, frames: Sequence[pd.DataFrame], scenario: Scenario) -> None:
        """Take the replays of one run."""
        for number, frame in enumerate(frames):
            self._records.setdefault(number, []).append(frame)
            row = run_metrics(frame, scenario.targets, scenario.context.machine.cores)
            self._metrics.setdefault(number, []).append(row)

    def records(self) -> list[pd.DataFrame]:
        """Return the records of all runs, a table a replay."""
        return [pd.concat(frames, ignore_index=True) for frames in self._records.values()]

    def metrics(self) -> list[pd.DataFrame]:
        """Return the metrics of all runs, a table a replay."""
        return [pd.concat(rows, ignore_index=True) for rows in self._metrics.values()]


def _valid_records(files: ValidationFiles) -> list[pd.DataFrame]:
    """Return the records of each file without the runs that a wrong answer spoilt."""
    tables, kept = file_digest(files.tables / COSTS), []
    for path in files.records:
        if tables not in read_provenance(path).inputs.values():
            raise TraceError(
                f"{path} was measured with other cost tables than those in {files.tables}; measure it again"
            )
        records = read_records(path)
        wrong = read_csv(path.parent / RUNS).set_index("qps")["wrong_answers"]
        spoilt = records["qps"].map(wrong).fillna(0) > 0
        for qps in sorted(records.loc[spoilt, "qps"].unique()):
            print(f"{path}: the run at {qps:.4g} QPS is left out: {wrong[qps]} wrong answers", flush=True)
        if not spoilt.all():
            kept.append(records[~spoilt].reset_index(drop=True))
    if not kept:
        raise TraceError("no measured run gave right answers; build the models anew (rule `build`)")
    return kept


def _published(config: Config, described: Path | None) -> list[Anchor]:
    if described is None:
        return []
    simulated, policy, tables = config.simulated, config.policies.get(LAYER_WISE), read_tables(described)
    settings: SimulationSettings = simulation_settings(config, tables)
    qos_s = config.models[RESNET].qos_ms / 1e3 if RESNET in config.models else ANCHOR_QOS_S
    make = None if policy is None else policy_maker(config, LAYER_WISE)
    study = AnchorStudy(make, settings, qos_s, config.qos.relax, simulated.resolution, simulated.seeds)
    return anchors(tables, study, _shipped(tables))


def _shipped(tables: Tables) -> Tables | None:
    """Return tables of the same machine from the shipped profile, if models of an anchor are missing."""
    if {RESNET, GOOGLENET} <= tables.layers.keys():
        return None
    return derive(read_tables(SHIPPED_COSTS), tables.machine)


def figures_of(found: Evidence, command: str) -> dict[str, BenchmarkResult]:
    """Return all numbers as a benchmark has them; those not computed are counted and named in one of them."""
    made: dict[str, BenchmarkResult] = {}
    for one in found.findings:
        made |= _finding_figures(one, command)
    for row in found.policies.to_dict("records"):
        for name in METRIC_OF:
            if not isnan(row[name]):
                unit = f"{GOALS[name].unit}; {row['policy']}, mean of {row['runs']} runs"
                made[f"{name}_{row['policy']}"] = BenchmarkResult(row[name], unit, (row[name],), command)
    for anchor in found.published:
        if anchor.value is not None:
            unit = f"{anchor.unit}; {anchor.statement}; published: {anchor.published:g}, not fitted to"
            made[f"anchor_{anchor.name}"] = BenchmarkResult(anchor.value, unit, (anchor.value,), command)
    made["corun_demand_scale"] = BenchmarkResult(
        found.demand_scale, "times the modelled demand; fitted", (found.demand_scale,), command
    )
    if found.traffic is not None:
        made |= traffic_figures(found.traffic, command)
    missing = {one.goal.name: one.note for one in found.findings if one.verdict is GoalStatus.NOT_COMPUTED}
    missing |= {anchor.name: anchor.reason for anchor in found.published if anchor.value is None}
    unit = f"numbers; {'; '.join(f'{name}: {why}' for name, why in missing.items()) or 'none'}"
    made["not_computed"] = BenchmarkResult(float(len(missing)), unit, (float(len(missing)),), command)
    allowed, why = may_be_validated(found.findings, found.cores)
    label = BenchmarkResult(
        float(allowed), f"1: may be labelled validated; {why or 'all goals met'}", (), command
    )
    return made | {"may_be_labelled_validated": label}


def charged_figures(settings: SimulationSettings, command: str) -> dict[str, BenchmarkResult]:
    """Return what the simulator of the traces charged for a block beside its kernels."""
    costs = settings.costs
    charged = {name: 1e6 * getattr(costs, f"{name}_s") for name in ("start", "resize", "grant", "join")}
    charged |= {f"start_{model}": 1e6 * start_s for model, start_s in costs.starts_s.items()}
    return {
        f"charged_{name}_us": BenchmarkResult(value, "µs, see `simulated.*_cost_us`", (value,), command)
        for name, value in charged.items()
    }


def _finding_figures(one: Finding, command: str) -> dict[str, BenchmarkResult]:
    if one.verdict is GoalStatus.NOT_COMPUTED:
        return {}
    name, unit = one.goal.name, one.goal.unit
    text = f"{unit}; {one.goal.meaning}; goal {one.goal.text}: {one.verdict}; samples: {one.of}"
    made = {name: BenchmarkResult(one.value, text, one.samples, command)}
    if not isnan(one.null):
        text = f"{unit}; the same of the null model without contention"
        made[f"{name}_null"] = BenchmarkResult(one.null, text, (one.null,), command)
    return made

"""The step of a validation that compares co-runs and traces, once measured, with what is modelled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path

import pandas as pd

from veltair.compiler.select.select import Selection
from veltair.config import Config
from veltair.evaluation.experiment.benchmark_file import BenchmarkResult, write_benchmark
from veltair.evaluation.experiment.layout import SHIPPED_COSTS
from veltair.evaluation.experiment.scenario import policy_maker
from veltair.evaluation.experiment.tables_io import read_csv, write_csv
from veltair.evaluation.simulation.assumptions import selection_of, with_assumed_noise
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
from veltair.evaluation.validation.compared_traces import compare_traces, replay_settings
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
from veltair.evaluation.validation.report import Evidence, validation_markdown, verdict_lines
from veltair.evaluation.validation.traffic_errors import traffic_figures
from veltair.machine.costs.described_versions import derive_described
from veltair.machine.costs.folder import COSTS, Tables, read_tables, table_files
from veltair.provenance import collect, write_atomically

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
    errors, pairs = compare_traces(config, files.tables, files.records)
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
    write_record(results.record, record_of(tables, replay_settings(config, tables), allowed, why), provenance)
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


def compare_co_runs(config: Config, tables: Tables, samples: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Return measured and predicted slowdowns, and the scale of demand fitted on every second pair."""
    measured, pairs = measured_co_runs(samples), tenants_of(samples, tables)
    placement = config.engine.placement

    def fitted_on(scale: float) -> Mapping[int, Sequence[float]]:
        return predict_pairs(tables, pairs, placement, scale, lambda corun: not held_out(corun))

    scale = fit_demand(measured, fitted_on)
    fitted, plain = (predict_pairs(tables, pairs, placement, value) for value in (scale, 1.0))
    return co_run_table(measured, pairs, fitted, plain), scale


def _published(config: Config, described: Path | None) -> list[Anchor]:
    if described is None:
        return []
    simulated, policy = config.simulated, config.policies.get(LAYER_WISE)
    tables = with_assumed_noise(read_tables(described), simulated)
    settings: SimulationSettings = simulation_settings(config, tables)
    qos_s = config.models[RESNET].qos_ms / 1e3 if RESNET in config.models else ANCHOR_QOS_S
    make = None if policy is None else policy_maker(config, LAYER_WISE)
    search = simulated.resolution, simulated.seeds
    study = AnchorStudy(make, settings, qos_s, config.qos.relax, *search, simulated.table_clock)
    return anchors(tables, study, _shipped(tables, selection_of(config)))


def _shipped(tables: Tables, selection: Selection) -> Tables | None:
    """Return tables of the same machine from the shipped profile, if models of an anchor are missing."""
    if {RESNET, GOOGLENET} <= tables.layers.keys():
        return None
    derived = derive_described(read_tables(SHIPPED_COSTS), tables.machine, selection)
    return replace(derived, costs=derived.costs.with_noise(tables.costs.kept))


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
    names = ("start", "resize", "grant", "join", "yield")
    charged = {name: 1e6 * getattr(costs, f"{name}_s") for name in names}
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

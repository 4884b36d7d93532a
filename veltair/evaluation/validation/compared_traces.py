"""Traces that were recorded, replayed by the simulator and compared with what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from math import isnan
from pathlib import Path

import pandas as pd

from veltair.config import Config
from veltair.config.study_keys import MEASURED
from veltair.evaluation.experiment.scenario import Scenario, policy_maker, scenario_of
from veltair.evaluation.experiment.tables_io import read_csv
from veltair.evaluation.measurement.engine_load import EngineLoad
from veltair.evaluation.metrics.records import read_records
from veltair.evaluation.simulation.run import SimulationSettings
from veltair.evaluation.simulation.steps import simulation_settings
from veltair.evaluation.validation.replay import replays, runs_of
from veltair.evaluation.validation.trace_errors import (
    PairOrder,
    TraceError,
    pair_orders,
    run_metrics,
    trace_errors,
)
from veltair.machine.costs.folder import COSTS, Tables, read_tables
from veltair.provenance import file_digest, read_provenance

LOAD = tuple(field.name for field in fields(EngineLoad))
RUNS = "runs.csv"  # how well each run could be measured, beside the records


def replay_settings(config: Config, tables: Tables) -> SimulationSettings:
    """Return how traces are replayed: with the engine's placement, not that of other simulations."""
    return replace(simulation_settings(config, tables), placement=config.engine.placement)


def compare_traces(
    config: Config, folder: Path, paths: Sequence[Path]
) -> tuple[pd.DataFrame, list[PairOrder]]:
    """Return the errors of every valid measured run, replayed, and all pairs of policies on one trace.

    `folder` is that of the tables, `paths` are the records of the runs. Raises TraceError for runs that were
    measured with other tables, or cannot be replayed.
    """
    tables = read_tables(folder)
    settings = replay_settings(config, tables)
    metrics: list[pd.DataFrame] = []
    frames: list[pd.DataFrame] = []
    simulated, flat = _Replays(), _Replays()
    for records, loads in _valid_records(folder, paths):
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
            own = with_load(config, settings, loads.get(float(run["qps"].iloc[0]), {}))
            again, null = replays(run, scenario, policy_maker(config, policy), own)
            simulated.add(again, scenario)
            flat.add(null, scenario)
    measured = pd.concat(frames, ignore_index=True)
    errors = trace_errors(pd.concat(metrics, ignore_index=True), simulated.metrics(), flat.metrics())
    return errors, pair_orders(measured, simulated.records(), flat.records())


def with_load(config: Config, settings: SimulationSettings, load: Mapping[str, float]) -> SimulationSettings:
    """Return how one run is replayed: at the pace, with decisions and LoadGen, that were measured with it.

    `load` has the columns of `EngineLoad`; what it lacks or does not know, as of earlier recordings, is not
    charged.
    """
    simulated = config.simulated
    known = {name: value for name, value in load.items() if not isnan(value)}
    if simulated.pace == MEASURED:
        settings = replace(settings, pace=known.get("pace", 1.0))
    if simulated.decision_us == MEASURED:
        costs = replace(settings.costs, decision_s=known.get("decision_s", 0.0))
        settings = replace(settings, costs=costs)
    if simulated.loadgen_cores == MEASURED:
        settings = replace(settings, loadgen_cores=known.get("loadgen_cores", 0.0))
    return settings


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


def _valid_records(
    folder: Path, paths: Sequence[Path]
) -> Sequence[tuple[pd.DataFrame, Mapping[float, Mapping[str, float]]]]:
    """Return the records of each file without the runs that a wrong answer spoilt, and the loads by rate."""
    tables, kept = file_digest(folder / COSTS), []
    for path in paths:
        if tables not in read_provenance(path).inputs.values():
            raise TraceError(
                f"{path} was measured with other cost tables than those in {folder}; measure it again"
            )
        records = read_records(path)
        runs = read_csv(path.parent / RUNS).set_index("qps")
        wrong = runs["wrong_answers"]
        spoilt = records["qps"].map(wrong).fillna(0) > 0
        for qps in sorted(records.loc[spoilt, "qps"].unique()):
            print(f"{path}: the run at {qps:.4g} QPS is left out: {wrong[qps]} wrong answers", flush=True)
        if not spoilt.all():
            loads = {
                float(str(qps)): {name: float(row[name]) for name in LOAD if name in row}
                for qps, row in runs.iterrows()
            }
            kept.append((records[~spoilt].reset_index(drop=True), loads))
    if not kept:
        raise TraceError("no measured run gave right answers; build the models anew (rule `build`)")
    return kept

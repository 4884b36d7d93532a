"""The steps of the many-core study, one a cell of its grids; each writes the rows of one table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from veltair.config import Config
from veltair.evaluation.experiment.layout import Layout
from veltair.evaluation.experiment.scenario import (
    Scenario,
    capacity_columns,
    scenario_columns,
    scenario_of,
)
from veltair.evaluation.experiment.tables_io import provenance_of, read_csv, write_csv
from veltair.evaluation.metrics.capacity_table import reference_rates
from veltair.evaluation.metrics.metrics import rates
from veltair.evaluation.metrics.policies_table import relaxed_changes
from veltair.evaluation.simulation.run import find_pooled_capacity, policy_records
from veltair.evaluation.simulation.steps import (
    read_assumed,
    simulated_policy_maker,
    simulated_search,
    simulation_settings,
)
from veltair.evaluation.simulation.study_tables import conflict_table, core_need_table, slowdown_table
from veltair.evaluation.simulation.validated import simulated_scenario
from veltair.machine.costs.folder import COSTS
from veltair.provenance import collect

CONFLICT_BINS = 100  # of equal length, that the run is cut into


def write_granularity(config: Config, policy: str, capacities: Sequence[Path], output: Path) -> None:
    """Write a policy's metrics at rates that all policies and seeds of the study share."""
    tables = Layout(config).tables(config.study.machine)
    scenario = _scenario(config)
    shared = [load * _reference_qps(capacities) for load in config.study.granularity.loads]
    make, settings = simulated_policy_maker(config, policy), simulation_settings(config)
    found = []
    for seed in config.simulated.seeds:
        records = policy_records(scenario, policy, make, settings, shared, seed)
        found.append(rates(records, scenario.targets, scenario.context.machine.cores))
        print(f"{scenario.workload}, {policy}, seed {seed}: {len(shared)} rates", flush=True)
    write_csv(
        output, pd.concat(found, ignore_index=True), provenance_of(config, [tables / COSTS, *capacities])
    )


def write_conflicts(config: Config, capacities: Sequence[Path], output: Path) -> None:
    """Write conflicts over time of one run of each policy, with the first seed, all at one rate."""
    scenario, asked = _scenario(config), config.study.conflicts
    qps = asked.load * _reference_qps(capacities)
    makers = {policy: simulated_policy_maker(config, policy) for policy in asked.policies}
    seed, settings = config.simulated.seeds[0], replace(simulation_settings(config), queries=asked.queries)
    table = conflict_table(scenario, makers, settings, qps, seed, CONFLICT_BINS)
    write_csv(output, table, provenance_of(config, capacities, seed))


def write_layer_tables(config: Config, folder: Path) -> None:
    """Write what each layer needs on the study's machine, and how pressure slows each version there."""
    path = Layout(config).tables(config.study.machine)
    tables, levels = read_assumed(config, path), config.study.levels
    needs = pd.concat(
        [core_need_table(scenario_of(config, tables, name), levels) for name in config.simulated.workloads]
    )
    provenance = provenance_of(config, [path / COSTS])
    write_csv(folder / "core_need.csv", needs.drop_duplicates(["model", "level", "layer"]), provenance)
    write_csv(folder / "slowdown.csv", slowdown_table(tables, levels), provenance)


def write_sensitivity(
    config: Config, variation: str, index: int, policies: Sequence[str], output: Path
) -> None:
    """Write the QPS at 95 % QoS of each policy under one value of one assumption, a row a policy and seed.

    `config` is that of the cell (`cell_config`), `variation` and `index` are its names.
    """
    scenario, rows = _scenario(config), []
    for policy in policies:
        for seed in config.simulated.seeds:
            rows.append(_pooled_row(config, scenario, policy, seed))
            print(
                f"{variation} {index}, {scenario.workload}, {policy}, seed {seed}: {rows[-1]['answer']}",
                flush=True,
            )
    inputs = [Layout(config).costs(config.study.machine)]
    write_csv(output, pd.DataFrame(rows), provenance_of(config, inputs))


def write_scale(config: Config, machine: str, policies: Sequence[str], output: Path) -> None:
    """Write the QPS at 95 % QoS of each policy on the study's machine with another number of cores.

    `config` has the study's grid (`study_grid`).
    """
    path = Layout(config).tables(machine)
    scenario, rows = _scenario_of(config, path), []
    cores = scenario.context.machine.cores
    family = {"machine": f"{config.study.machine}, scaled", "cores": cores, **_relaxation(scenario)}
    for policy in policies:
        for seed in config.simulated.seeds:
            row = _pooled_row(config, scenario, policy, seed)
            rows.append({**row, **family})
            print(f"{cores} cores, {policy}, seed {seed}: {row['answer']}", flush=True)
    write_csv(output, pd.DataFrame(rows), provenance_of(config, [path / COSTS]))


def gather(
    cells: Mapping[str, Sequence[Path]], assumptions: Sequence[Mapping[str, Any]], folder: Path
) -> None:
    """Write each table of the study from its cells, in their order.

    The cells of the sensitivity get the columns that `cell_columns` returns as `assumptions`.
    """
    for name, paths in cells.items():
        read = {path: read_csv(path) for path in paths}
        tables = _sensitivity(assumptions, read) if name == "sensitivity" else list(read.values())
        provenance = collect({"assumptions": assumptions}, inputs=paths)
        write_csv(folder / f"{name}.csv", pd.concat(tables, ignore_index=True), provenance)


def _sensitivity(
    assumptions: Sequence[Mapping[str, Any]], cells: Mapping[Path, pd.DataFrame]
) -> list[pd.DataFrame]:
    tables = []
    for one in assumptions:
        rows = cells[Path(one["path"])]
        tables.append(rows[rows["policy"].isin(one["policies"])].assign(**one["columns"]))
    return tables


def _scenario(config: Config) -> Scenario:
    """Return the study's workload on its machine."""
    return _scenario_of(config, Layout(config).tables(config.study.machine))


def _scenario_of(config: Config, folder: Path) -> Scenario:
    """Return the study's workload with the tables of a folder."""
    tables = read_assumed(config, folder)
    return simulated_scenario(config, tables, config.study.workload, simulation_settings(config))


def _pooled_row(config: Config, scenario: Scenario, policy: str, seed: int) -> dict[str, Any]:
    """Return a row of a capacity table without the capacity of the minimum over models."""
    make, settings = simulated_policy_maker(config, policy), simulation_settings(config)
    pooled = find_pooled_capacity(scenario, make, settings, simulated_search(config), seed)
    columns = capacity_columns(scenario, policy, seed, pooled, pooled)
    return {
        **scenario_columns(scenario, "simulator", scenario.simulator_validated),
        "models": ", ".join(scenario.weights),
        **columns,
        "qps_at_95_minimum": float("nan"),
    }


def _relaxation(scenario: Scenario) -> dict[str, Any]:
    """Return how many targets the machine could not meet, and each model's old and new one, in words."""
    relaxed = scenario.targets[scenario.targets["relaxed"].astype(bool)]
    return {"relaxed": len(relaxed), "relaxed_targets": ", ".join(relaxed_changes(relaxed))}


def _reference_qps(capacities: Sequence[Path]) -> float:
    """Return the reference rate for all seeds together: the mean of theirs."""
    table = pd.concat([read_csv(path) for path in capacities], ignore_index=True)
    return float(reference_rates(table)["reference_qps"].mean())

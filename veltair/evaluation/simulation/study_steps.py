"""The steps of the many-core study, one a cell of its grids; each writes the rows of one table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from veltair.config import Config
from veltair.config.vary import assume, is_baseline
from veltair.evaluation.experiment.layout import BASELINE, Layout
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
from veltair.evaluation.simulation.run import SIMULATOR_VALIDATED, find_pooled_capacity, policy_records
from veltair.evaluation.simulation.sensitivity_cells import Cell, at_workload, sensitivity_cells
from veltair.evaluation.simulation.steps import (
    read_assumed,
    simulated_policy_maker,
    simulated_search,
    simulation_settings,
)
from veltair.evaluation.simulation.study_tables import conflict_table, core_need_table, slowdown_table
from veltair.machine.costs.folder import COSTS


def write_granularity(config: Config, policy: str, capacities: Sequence[Path], output: Path) -> None:
    """Write a policy's metrics at rates that all policies and seeds of the study share."""
    tables = Layout(config).tables(config.study.machine)
    scenario = _scenario(config, config)
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
    scenario, asked = _scenario(config, config), config.study.conflicts
    qps = asked.load * _reference_qps(capacities)
    makers = {policy: simulated_policy_maker(config, policy) for policy in asked.policies}
    seed, settings = config.simulated.seeds[0], replace(simulation_settings(config), queries=asked.queries)
    table = conflict_table(scenario, makers, settings, qps, seed, asked.bins)
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


def write_sensitivity(config: Config, name: str, index: int, output: Path) -> None:
    """Write the QPS at 95 % QoS of each policy under one value of one assumption, a row a policy and seed.

    `name` is that of the cell's folder: an assumption, and after `@` the workload if it is not the study's.
    The assumption `BASELINE` is none: the run as it is.
    """
    name, config = at_workload(config, name)
    varied, policies = _study_grid(config), config.study.policies
    if name != BASELINE:
        policies = config.sensitivity[name].policies or policies
        varied = assume(varied, name, index)
    scenario, rows = _scenario(varied, config), []
    for policy in policies:
        for seed in varied.simulated.seeds:
            rows.append(_pooled_row(varied, scenario, policy, seed))
            print(
                f"{name} {index}, {scenario.workload}, {policy}, seed {seed}: {rows[-1]['answer']}",
                flush=True,
            )
    inputs = [Layout(config).costs(varied.study.machine)]
    write_csv(output, pd.DataFrame(rows), provenance_of(varied, inputs))


def write_scale(config: Config, machine: str, output: Path) -> None:
    """Write the QPS at 95 % QoS of each policy on the study's machine with another number of cores."""
    varied, path = _study_grid(config), Layout(config).tables(machine)
    scenario, rows = scenario_of(varied, read_assumed(varied, path), config.study.workload), []
    cores = scenario.context.machine.cores
    family = {"machine": f"{config.study.machine}, scaled", "cores": cores, **_relaxation(scenario)}
    for policy in config.study.policies:
        for seed in varied.simulated.seeds:
            row = _pooled_row(varied, scenario, policy, seed)
            rows.append({**row, **family})
            print(f"{cores} cores, {policy}, seed {seed}: {row['answer']}", flush=True)
    write_csv(output, pd.DataFrame(rows), provenance_of(varied, [path / COSTS]))


def gather(config: Config, parts: Mapping[str, Sequence[Path]], folder: Path) -> None:
    """Write each table of the study from its cells, in their order."""
    for name, paths in parts.items():
        cells = {path: read_csv(path) for path in paths}
        tables = _sensitivity(config, cells) if name == "sensitivity" else list(cells.values())
        write_csv(folder / f"{name}.csv", pd.concat(tables, ignore_index=True), provenance_of(config, paths))


def _sensitivity(config: Config, cells: Mapping[Path, pd.DataFrame]) -> list[pd.DataFrame]:
    """Return the cells with the columns that say which value of which assumption each is.

    These are `assumption` and `unit` as printed, `kind` (number or category), `value` (of a category its
    place), `label`, `is_default` and `plausible`.
    """
    tables = []
    for cell, path in sensitivity_cells(config).items():
        policies = config.sensitivity[cell.assumption].policies or config.study.policies
        rows = cells[path]
        tables.append(rows[rows["policy"].isin(policies)].assign(**_assumption(config, cell)))
    return tables


def _assumption(config: Config, cell: Cell) -> dict[str, Any]:
    variation, index = config.sensitivity[cell.assumption], cell.value_index
    value = variation.values[index]
    return {
        "assumption": variation.title,
        "unit": variation.unit,
        "kind": "number" if variation.is_numeric else "category",
        "value": float(str(value)) if variation.is_numeric else float(index),
        "label": variation.labels[index] if variation.labels else str(value),
        "is_default": is_baseline(config, cell.assumption, index),
        "plausible": variation.plausible is None or value in variation.plausible,
    }


def _scenario(config: Config, unvaried: Config) -> Scenario:
    """Return the study's workload on its machine; a varied configuration finds the tables of the run."""
    study = config.study
    tables = read_assumed(config, Layout(unvaried).tables(study.machine))
    return scenario_of(config, tables, study.workload)


def _study_grid(config: Config) -> Config:
    """Return the configuration with the study's own grid in place of that of the policies' comparison."""
    study = config.study
    asked = {"queries": study.queries, "seeds": study.seeds, "resolution": study.resolution}
    given = {name: value for name, value in asked.items() if value is not None}
    return config.model_copy(update={"simulated": config.simulated.model_copy(update=given)})


def _pooled_row(config: Config, scenario: Scenario, policy: str, seed: int) -> dict[str, Any]:
    """Return a row of a capacity table without the capacity of the minimum over models."""
    make, settings = simulated_policy_maker(config, policy), simulation_settings(config)
    pooled = find_pooled_capacity(scenario, make, settings, simulated_search(config), seed)
    columns = capacity_columns(scenario, policy, seed, pooled, pooled)
    return {
        **scenario_columns(scenario, "simulator", SIMULATOR_VALIDATED),
        "models": ", ".join(scenario.weights),
        **columns,
        "qps_at_95_minimum": float("nan"),
    }


def _relaxation(scenario: Scenario) -> dict[str, Any]:
    """Return how many targets the machine could not meet, and each model's old and new one, in words."""
    relaxed = scenario.targets[scenario.targets["relaxed"].astype(bool)]
    return {"relaxed": len(relaxed), "relaxed_targets": ", ".join(relaxed_changes(relaxed))}


def _reference_qps(capacities: Sequence[Path]) -> float:
    """Return the rate that loads are shares of, for all seeds: the mean of the seeds' reference rates."""
    table = pd.concat([read_csv(path) for path in capacities], ignore_index=True)
    return float(reference_rates(table)["reference_qps"].mean())

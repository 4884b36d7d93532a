"""The steps in virtual time, one a rule; and what a configuration says of a run."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from veltair.config import Config
from veltair.config.study_keys import MEASURED, Simulated
from veltair.evaluation.experiment.layout import HOST, Layout
from veltair.evaluation.experiment.scenario import MakePolicy, policy_maker
from veltair.evaluation.experiment.tables_io import provenance_of, read_csv, write_csv
from veltair.evaluation.loadgen.tenants import drawn_by
from veltair.evaluation.metrics.capacity import CapacitySearch
from veltair.evaluation.simulation.assumptions import (
    assumed_options,
    changes_machine,
    derive_assumed,
    selection_of,
    with_assumed_noise,
    with_fewer_versions,
)
from veltair.evaluation.simulation.run import (
    SimulationSettings,
    capacity_row,
    find_policy_capacity,
    offered_rates,
    policy_records,
)
from veltair.evaluation.simulation.validated import simulated_scenario
from veltair.machine.costs.block_costs import RECORDED, BlockCosts, recorded_block_costs
from veltair.machine.costs.described_versions import own_versions
from veltair.machine.costs.folder import BLOCKS, Tables, read_tables, table_files
from veltair.machine.costs.oversubscription import RECORDED as SHARED
from veltair.machine.costs.oversubscription import recorded_oversubscription, scaled
from veltair.machine.topology.described import described
from veltair.provenance import write_parquet

# Of the keys `simulated.*_cost_us`.
BLOCK_COSTS = ("start", "resize", "grant", "join", "yield")


def simulated_policy_maker(config: Config, policy: str) -> MakePolicy:
    """Return what makes a fresh policy for a simulated run, under the assumptions of the configuration."""
    return policy_maker(config, policy, partial(assumed_options, config, policy))


def simulation_settings(config: Config, tables: Tables | None = None) -> SimulationSettings:
    """Return how one rate is simulated on the machine of some tables.

    Costs of blocks that are to be the measured ones are those of the machine of the tables, and where nobody
    measured them, as on described machines, those recorded of the engine whose loop is in C.
    """
    simulated, is_measured = config.simulated, tables is not None and tables.cost_model is None
    costs = _charged_costs(simulated, None if tables is None else tables.block_costs)
    shared = scaled(recorded_oversubscription(), simulated.oversubscription)
    costs = replace(costs, oversubscription=shared)
    if is_measured:
        costs = replace(costs, decision_s=1e-6 * _given(simulated.decision_us))
    return SimulationSettings(
        queries=simulated.queries,
        drain_qos=simulated.drain_qos,
        costs=costs,
        placement=simulated.placement,
        contention=simulated.contention,
        sensor_levels=simulated.proxy_error,
        loadgen_cores=_given(simulated.loadgen_cores) if is_measured else 0.0,
        pace=1.0 if simulated.pace == MEASURED or not is_measured else simulated.pace,
    )


def _charged_costs(simulated: Simulated, measured: BlockCosts | None) -> BlockCosts:
    """Return what the simulator charges for blocks; `measured` is what the tables have of that."""
    given_us = {name: getattr(simulated, f"{name}_cost_us") for name in BLOCK_COSTS}
    given_s = {f"{name}_s": 1e-6 * value for name, value in given_us.items() if value != MEASURED}
    if len(given_s) == len(BLOCK_COSTS):
        return BlockCosts(**given_s)
    known = recorded_block_costs() if measured is None else measured
    values = {f"{name}_s": getattr(known, f"{name}_s") for name in BLOCK_COSTS}
    starts_s = {} if "start_s" in given_s else known.starts_s
    return BlockCosts(**values | given_s, starts_s=starts_s)


def charged_files(folder: Path) -> list[Path]:
    """Return the files that what the simulator charges comes from: tables, and what blocks cost."""
    files = table_files(folder)
    return [*files, SHARED] if folder / BLOCKS in files else [*files, RECORDED, SHARED]


def _given(value: str | float) -> float:
    """Return what the configuration gives; of what is measured with each run, nothing."""
    return 0.0 if value == MEASURED else float(value)


def simulated_search(config: Config) -> CapacitySearch:
    """Return how the highest rate is searched where rates are simulated."""
    return CapacitySearch(config.simulated.resolution, target=config.qos.satisfaction)


def read_assumed(config: Config, folder: Path) -> Tables:
    """Return the tables of a folder under the assumptions of the configuration.

    What was derived for a described machine is derived anew where an assumption is about the machine itself.
    Raises LookupError if there are no tables.
    """
    tables, simulated = read_tables(folder), config.simulated
    if tables.cost_model is not None and changes_machine(simulated):
        machine = described(tables.machine.name)
        host = own_versions(read_tables(Layout(config).tables(HOST)), machine, selection_of(config))
        tables = derive_assumed(host, machine, simulated)
    tables = with_assumed_noise(tables, simulated)
    return tables if simulated.versions is None else with_fewer_versions(tables, simulated.versions)


def simulate_capacity(config: Config, tables: Path, workload: str, policy: str, output: Path) -> None:
    """Write the QPS at 95 % QoS of a policy on a machine, a row a seed."""
    known = read_assumed(config, tables)
    settings = simulation_settings(config, known)
    scenario = simulated_scenario(config, known, workload, settings)
    rows = []
    for seed in config.simulated.seeds:
        pooled, minimum = find_policy_capacity(
            scenario, simulated_policy_maker(config, policy), settings, simulated_search(config), seed
        )
        rows.append(capacity_row(scenario, policy, seed, pooled, minimum))
        print(
            f"{scenario.context.machine.name}, {workload}, {policy}, seed {seed}: {pooled.describe()}",
            flush=True,
        )
    provenance = provenance_of(config, charged_files(tables), arrivals=drawn_by(scenario.senders))
    write_csv(output, pd.DataFrame(rows), provenance)


def simulate_loads(
    config: Config, tables: Path, workload: str, policy: str, capacities: Sequence[Path], output: Path
) -> None:
    """Write the records of a policy at loads that all policies share, and at its own capacity.

    Also at the rate that the workload's tenants ask for, if they have rates.
    """
    known = read_assumed(config, tables)
    make, settings = simulated_policy_maker(config, policy), simulation_settings(config, known)
    scenario = simulated_scenario(config, known, workload, settings)
    capacity = pd.concat([read_csv(path) for path in capacities], ignore_index=True)
    frames = []
    for seed, rows in capacity.groupby("seed"):
        offered = {*offered_rates(rows, policy, scenario.fluid_qps, config.simulated.loads)}
        offered |= {scenario.nominal_qps} if scenario.nominal_qps else set()
        frames.append(policy_records(scenario, policy, make, settings, sorted(offered), int(str(seed))))
    provenance = provenance_of(config, capacities, arrivals=drawn_by(scenario.senders))
    write_parquet(output, pd.concat(frames, ignore_index=True), provenance)

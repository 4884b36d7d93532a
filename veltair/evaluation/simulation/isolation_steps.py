"""The steps about tenants beside each other, and about one rule for late queries: a policy each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from veltair.config import Config
from veltair.config.vary import vary
from veltair.evaluation.experiment.layout import Layout
from veltair.evaluation.experiment.scenario import MakePolicy, Scenario, scenario_columns
from veltair.evaluation.experiment.tables_io import provenance_of, read_csv, write_csv
from veltair.evaluation.loadgen.tenants import OURS, TenantLoad, queries_until
from veltair.evaluation.metrics.capacity_table import reference_rates
from veltair.evaluation.metrics.metrics import tenant_rates
from veltair.evaluation.metrics.records import Run, to_frame
from veltair.evaluation.simulation.run import (
    LEAST_RUN_QOS,
    SimulationSettings,
    capacity_row,
    count_from_s,
    find_policy_capacity,
    simulate_arrivals,
)
from veltair.evaluation.simulation.steps import (
    charged_files,
    read_assumed,
    simulated_policy_maker,
    simulated_search,
    simulation_settings,
)
from veltair.evaluation.simulation.validated import simulated_scenario
from veltair.serving.policies.presets import shared_options

DROP_LATE = "drop_late"


def write_noisy_neighbour(config: Config, policy: str, capacities: Sequence[Path], output: Path) -> None:
    """Write what each tenant got of a policy while one sent ever more, a row a factor, seed and tenant."""
    study, asked = config.study, config.study.noisy_neighbour
    tables = Layout(config).tables(study.machine)
    known = read_assumed(config, tables)
    settings = simulation_settings(config, known)
    scenario = simulated_scenario(config, known, study.neighbours, settings)
    references = reference_rates(pd.concat([read_csv(path) for path in capacities], ignore_index=True))
    qps = asked.load * float(references["reference_qps"].mean())
    make, found = simulated_policy_maker(config, policy), []
    for seed in config.simulated.seeds:
        for factor in asked.factors:
            rates = neighbour_rates(scenario.senders, str(asked.aggressor), qps, factor)
            records = neighbour_records(scenario, policy, make, settings, rates, qps, seed)
            rows = tenant_rates(records, scenario.sender_targets)
            found.append(rows.assign(load=asked.load, factor=factor, aggressor=asked.aggressor))
        print(f"{scenario.workload}, {policy}, seed {seed}: {len(asked.factors)} factors", flush=True)
    provenance = provenance_of(config, [*charged_files(tables), *capacities], arrivals=OURS)
    write_csv(output, pd.concat(found, ignore_index=True), provenance)


def neighbour_rates(
    tenants: Sequence[TenantLoad], aggressor: str, qps: float, factor: float
) -> dict[str, float]:
    """Return each tenant's rate, in queries/s: together `qps`, but that of one is `factor` times its own."""
    total = sum(tenant.offered for tenant in tenants)
    return {
        tenant.name: qps * tenant.offered / total * (factor if tenant.name == aggressor else 1.0)
        for tenant in tenants
    }


def neighbour_records(
    scenario: Scenario,
    policy: str,
    make: MakePolicy,
    settings: SimulationSettings,
    rates: dict[str, float],
    qps: float,
    seed: int,
) -> pd.DataFrame:
    """Return the records of a run in which each tenant sends at a rate of its own.

    The run lasts as long as `settings.queries` take at `qps`, the tenants' rate at their shares, whatever one
    of them sends beyond: so the others' queries are the same ones.
    """
    longest_s = max(scenario.qos_s.values())
    end_s = max(LEAST_RUN_QOS * longest_s, settings.queries / qps)
    arrivals = queries_until(scenario.senders, [rates[one.name] for one in scenario.senders], end_s, seed)
    records, _ = simulate_arrivals(scenario, make, settings, arrivals, seed)
    columns = scenario_columns(scenario, "simulator", scenario.simulator_validated)
    run = Run(**columns, policy=policy, qps=sum(rates.values()), seed=seed)
    return to_frame(records, run, count_from_s(arrivals, scenario.qos_s))


def dropping(config: Config, policy: str) -> Config:
    """Return the configuration with the one rule for late queries, for a policy that has the option."""
    served = config.policies[policy]
    taken = shared_options(served.path, served.preset or config.preset, served.options)
    if DROP_LATE not in taken:
        return config
    return vary(config, f"policies.{policy}.options.{DROP_LATE}", config.study.equal_drops.drop_late)


def write_equal_drops(config: Config, workload: str, policy: str, output: Path) -> None:
    """Write the QPS at 95 % QoS of a policy under the one rule for late queries, a row a seed.

    `config` is that of `dropping`. The column `drop_late` is the policy's rule, empty where it has no such
    option.
    """
    tables = Layout(config).tables(config.study.machine)
    known = read_assumed(config, tables)
    settings = simulation_settings(config, known)
    scenario = simulated_scenario(config, known, workload, settings)
    make, search = simulated_policy_maker(config, policy), simulated_search(config)
    rows: list[dict[str, Any]] = []
    for seed in config.simulated.seeds:
        found = find_policy_capacity(scenario, make, settings, search, seed)
        rule = str(config.policies[policy].options.get(DROP_LATE, ""))
        rows.append({**capacity_row(scenario, policy, seed, *found), DROP_LATE: rule})
        by = f"drop_late {rule}" if rule else "its own rule"
        print(f"{workload}, {policy}, {by}, seed {seed}: {found[0].describe()}", flush=True)
    write_csv(output, pd.DataFrame(rows), provenance_of(config, charged_files(tables)))

"""Readings of a policy's paper: what it leaves open, in every combination, beside another policy.

Each reading stands beside the other policy under the reading's own order, conflict and dropping rules, so
that a ratio never shows what a rule does that both could have. Runs of the other policy are made once for
each combination of these.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from veltair.config import Config, ConfigError
from veltair.evaluation.experiment.scenario import MakePolicy, Scenario, scenario_columns
from veltair.evaluation.experiment.tables_io import provenance_of, read_csv, write_csv
from veltair.evaluation.metrics.capacity import Capacity
from veltair.evaluation.simulation.run import SimulationSettings, find_pooled_capacity
from veltair.evaluation.simulation.steps import (
    charged_files,
    read_assumed,
    simulated_search,
    simulation_settings,
)
from veltair.evaluation.simulation.validated import simulated_scenario
from veltair.provenance import collect
from veltair.serving.loop.policy import Context, Policy
from veltair.serving.policies.presets import PAPER, check_policy, make_policy, preset_options

# What every policy with a queue has, and a ratio must not show.
EQUAL = ("order", "conflict", "drop_late")
Options = Mapping[str, Any]


def readings(config: Config) -> list[Options]:
    """Return the options of each reading: every combination of the values, those listed first before."""
    options = config.readings.options
    if not options:
        return []
    return [dict(zip(options, values, strict=True)) for values in product(*options.values())]


def equal_options(config: Config) -> list[Options]:
    """Return the combinations of those options that the other policy takes over, each once."""
    found: list[Options] = []
    for reading in readings(config):
        shared = _shared(reading)
        if shared not in found:
            found.append(shared)
    return found


def check_readings(config: Config) -> None:
    """Raise ConfigError for an option or a value that the policy does not take, or the other one does not."""
    asked = config.readings
    for name, values in asked.options.items():
        policies = [asked.policy, *([asked.against] if name in EQUAL else [])]
        for policy, value in product(policies, values):
            served = config.policies[policy]
            try:
                check_policy(served.path, {**served.options, name: value}, served.preset or config.preset)
            except ValueError as error:
                raise ConfigError(f"readings.options.{name}: {value!r}: {error}") from error


def write_readings(config: Config, tables: Path, workload: str, index: int, output: Path) -> None:
    """Write the QPS at 95 % QoS of all readings with some `equal_options`, a row a reading and seed."""
    known = read_assumed(config, tables)
    settings = simulation_settings(config, known)
    scenario = simulated_scenario(config, known, workload, settings)
    asked, shared = config.readings, equal_options(config)[index]
    rows = []
    for seed in config.simulated.seeds:
        against = _capacity(config, scenario, settings, asked.against, shared, seed)
        for reading in readings(config):
            if _shared(reading) != shared:
                continue
            found = _capacity(config, scenario, settings, asked.policy, reading, seed)
            rows.append(
                {
                    **scenario_columns(scenario, "simulator", scenario.simulator_validated),
                    "policy": asked.policy,
                    "against": asked.against,
                    "seed": seed,
                    "queries": found.queries,
                    "qps": found.qps,
                    "against_qps": against.qps,
                    "is_paper": _is_paper(config, reading),
                    **reading,
                }
            )
        print(f"{workload}, {shared}, seed {seed}: {asked.against} {against.describe()}", flush=True)
    write_csv(output, pd.DataFrame(rows), provenance_of(config, charged_files(tables)))


def gather_readings(cells: Sequence[Path], output: Path) -> None:
    """Write the table of all readings from its cells, in their order."""
    table = pd.concat([read_csv(path) for path in cells], ignore_index=True)
    write_csv(output, table, collect(inputs=cells))


def _shared(reading: Options) -> Options:
    return {name: value for name, value in reading.items() if name in EQUAL}


def _capacity(
    config: Config,
    scenario: Scenario,
    settings: SimulationSettings,
    policy: str,
    options: Options,
    seed: int,
) -> Capacity:
    make = _maker(config, policy, options)
    return find_pooled_capacity(scenario, make, settings, simulated_search(config), seed)


def _maker(config: Config, policy: str, options: Options) -> MakePolicy:
    served = config.policies[policy]

    def make(context: Context) -> Policy:
        preset = served.preset or config.preset
        return make_policy(served.path, context, preset, {**served.options, **options})

    return make


def _is_paper(config: Config, reading: Options) -> bool:
    """Return whether a reading is that of preset `paper`, which verdicts are about."""
    served = config.policies[config.readings.policy]
    paper = {**preset_options(served.path, PAPER), **served.options}
    return all(paper.get(name) == value for name, value in reading.items())

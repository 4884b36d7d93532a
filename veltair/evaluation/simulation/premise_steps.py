"""The step that asks what choosing versions by pressure gains on the study's machine, whatever is assumed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from veltair.config import Config
from veltair.evaluation.experiment.layout import HOST, Layout
from veltair.evaluation.experiment.tables_io import provenance_of, write_csv
from veltair.evaluation.simulation.assumptions import derive_assumed, selection_of
from veltair.evaluation.simulation.sensitivity_cells import value_columns
from veltair.evaluation.simulation.version_choice import choice_table, layer_table, policy_costs
from veltair.machine.costs.described_versions import own_versions
from veltair.machine.costs.folder import Tables, read_tables
from veltair.machine.topology.described import described

# Far from what the machine is described with: how far it would have to be for versions to matter.
SUPPOSED_MACHINES = {
    "bandwidth of DRAM": ("dram_bytes_per_s", (0.5, 0.25, 0.125)),
    "L3": ("l3_bytes", (0.5, 0.25)),
}
SUPPOSED_STEEPNESS = (2.0, 3.0)
AS_DESCRIBED = "as described"
# Assumptions about the machine that change what layers take on a given count of cores, its clock apart.
ABOUT_TIMES = ("steepness", "links", "link_bandwidth", "residency", "warm_weights")


class Supposed(NamedTuple):
    """A machine as it is supposed to be: what tables say of that, and which keys and numbers differ.

    `simulated` are keys of the configuration with their values, `machine` fields of the machine with the
    factors that they are multiplied by.
    """

    columns: Mapping[str, Any]
    simulated: Mapping[str, Any]
    machine: Mapping[str, float]


def supposed_machines(config: Config) -> list[Supposed]:
    """Return the study's machine as described, under each assumption about it, and far from all of these.

    The assumptions are those of `sensitivity` that change what layers take there. `columns` are `assumption`,
    `label`, `is_default` and `plausible`.
    """
    found = [Supposed(_columns(AS_DESCRIBED, "", is_default=True, plausible=True), {}, {})]
    for name, variation in config.sensitivity.items():
        key = variation.key.removeprefix("simulated.")
        for index, value in enumerate(variation.values if key in ABOUT_TIMES else ()):
            told = value_columns(config, name, index)
            if not told["is_default"]:
                found.append(Supposed({one: told[one] for one in found[0].columns}, {key: value}, {}))
    for title, (field, factors) in SUPPOSED_MACHINES.items():
        found += [Supposed(_columns(title, f"{factor:g} times"), {}, {field: factor}) for factor in factors]
    for value in SUPPOSED_STEEPNESS:
        columns = _columns("steepness of the traffic curve", f"{value:g}")
        found.append(Supposed(columns, {"steepness": value}, {}))
    return found


def _columns(title: str, label: str, is_default: bool = False, plausible: bool = False) -> dict[str, Any]:
    return {"assumption": title, "label": label, "is_default": is_default, "plausible": plausible}


def write_version_choice(config: Config, supposed: Sequence[Supposed], folder: Path) -> None:
    """Write `version_choice.csv`, of each supposed machine, and `version_layers.csv`, of that described.

    The classes of the latter are the workloads of `simulated` other than the study's.
    """
    choices = []
    for one in supposed:
        tables = _tables(config, one)
        choices.append(choice_table(policy_costs(tables)).assign(**one.columns))
        if one.columns["is_default"]:
            classes = {
                name: list(config.workloads[name])
                for name in config.simulated.workloads
                if name != config.study.workload
            }
            layers = layer_table(tables, classes)
        print(f"{one.columns['assumption']} {one.columns['label']}", flush=True)
    about: dict[str, Any] = {"machine": tables.machine.name, "validated": tables.machine.validated}
    provenance = provenance_of(config, [Layout(config).costs(HOST)])
    for name, table in (("version_choice", pd.concat(choices)), ("version_layers", layers)):
        write_csv(folder / f"{name}.csv", table.assign(**about), provenance)


def _tables(config: Config, supposed: Supposed) -> Tables:
    """Return the tables of a supposed machine, in the versions that it would choose."""
    machine = described(config.study.machine)
    fields = {name: factor * getattr(machine, name) for name, factor in supposed.machine.items()}
    machine = replace(
        machine,
        core_dram_bytes_per_s=min(
            machine.core_dram_bytes_per_s, fields.get("dram_bytes_per_s", machine.dram_bytes_per_s)
        ),
        **{name: type(getattr(machine, name))(one) for name, one in fields.items()},
    )
    host = own_versions(read_tables(Layout(config).tables(HOST)), machine, selection_of(config))
    return derive_assumed(host, machine, config.simulated.model_copy(update=dict(supposed.simulated)))

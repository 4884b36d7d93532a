"""Whether simulated runs count as validated: by the record of a validation on a machine of the same kind.

Rule `validate_machine` writes the record. It counts once it lies among the shipped data, where it is reviewed
as any other change: as `veltair/data/validation/MACHINE.json`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from veltair.config import Config
from veltair.data import shipped
from veltair.evaluation.experiment.code_digest import CodeGraph
from veltair.evaluation.experiment.scenario import Scenario, scenario_of
from veltair.evaluation.simulation.batches import batched_tables
from veltair.evaluation.simulation.memory_limits import memory_limits
from veltair.evaluation.simulation.run import SimulationSettings
from veltair.machine.costs.folder import Tables
from veltair.machine.topology.topology import Machine
from veltair.provenance import Provenance, write_json

FOLDER = shipped("validation")
# The code that a validation is about: all that a simulated run goes through, but for the policy.
SIMULATOR = "veltair.evaluation.simulation.run:simulate"


@dataclass(frozen=True, slots=True)
class ValidationRecord:
    """The outcome of a validation: for machines of one kind, one simulator and one set of assumptions.

    `passed` is whether all goals were met, `why` says which were not.
    """

    machine: Mapping[str, Any]
    simulator: str
    assumptions: Mapping[str, Any]
    passed: bool
    why: str

    def unlike(self, other: "ValidationRecord") -> list[str]:
        """Return in what two records are about different things."""
        parts = ("machine", "simulator", "assumptions")
        return [part for part in parts if getattr(self, part) != getattr(other, part)]


def record_of(tables: Tables, settings: SimulationSettings, passed: bool, why: str) -> ValidationRecord:
    """Return the record of a validation of this simulator with the tables of a machine."""
    machine, assumptions = _kind(tables.machine), _assumptions(tables, settings)
    return ValidationRecord(machine, _simulator_digest(), assumptions, passed, why)


def write_record(path: Path, record: ValidationRecord, provenance: Provenance) -> None:
    """Write a record as JSON, with the provenance beside."""
    write_json(path, asdict(record), provenance)


def unvalidated_because(tables: Tables, settings: SimulationSettings) -> str:
    """Return why simulated runs with these tables are not validated; empty if they are.

    Raises ValueError for a file that is no record.
    """
    path = FOLDER / f"{tables.machine.name}.json"
    if not path.exists():
        return f"no validation of {tables.machine.name} is recorded"
    try:
        record = TypeAdapter(ValidationRecord).validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(
            f"{path} is no record of a validation: {error}; run rule `validate_machine`"
        ) from error
    if not record.passed:
        return f"the validation of {tables.machine.name} did not pass: {record.why}"
    # What a record holds has been through JSON, which knows no tuples.
    here = record_of(tables, settings, passed=True, why="")
    unlike = record.unlike(TypeAdapter(ValidationRecord).validate_json(json.dumps(asdict(here))))
    return f"the recorded validation is of another kind: {', '.join(unlike)}" if unlike else ""


def simulated_scenario(
    config: Config, tables: Tables, workload: str, settings: SimulationSettings
) -> Scenario:
    """Return a workload on the machine of some tables, and whether simulated runs of it are validated.

    Runs with costs of several queries at once are not: the engine serves one, so nothing compares them.
    """
    tables_of_all, batches = batched_tables(config, tables, workload)
    validated = not batches and not unvalidated_because(tables, settings)
    scenario = scenario_of(config, tables_of_all, workload, batches)
    context = replace(scenario.context, memory=memory_limits(config.simulated, scenario.context))
    clock = config.simulated.table_clock
    return replace(scenario, context=context, simulator_validated=validated, policies_read=clock)


def _kind(machine: Machine) -> dict[str, Any]:
    """Return what machines of one kind have in common: all but which core has which number."""
    described = asdict(machine)
    groups = described.pop("cache_groups")
    measured = ("core_peak_flops", "dram_bytes_per_s", "core_dram_bytes_per_s", "clock_factors")
    for quantity in (*measured, "launch_s", "join_s", "validated"):
        del described[quantity]
    known = {key: value for key, value in described.items() if value != inf}  # which JSON cannot hold
    return {**known, "cache_groups": len(groups), "cores": machine.cores}


def _assumptions(tables: Tables, settings: SimulationSettings) -> dict[str, Any]:
    """Return what a simulation assumes; costs of blocks that were measured with the tables are called so."""
    assumed = asdict(settings)
    for size in ("queries", "drain_qos"):
        del assumed[size]
    if settings.costs == tables.block_costs:
        assumed["costs"] = "measured"
    return {**assumed, "modelled_costs": tables.cost_model is not None}


@cache
def _simulator_digest() -> str:
    return CodeGraph().digest([SIMULATOR])

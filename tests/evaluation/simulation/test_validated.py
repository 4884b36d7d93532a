"""The label UNVALIDATED follows from a record of a validation, and from nothing else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.evaluation.claim_tables import capacity_ratio, claim
from tests.support.table_builders import make_config, make_tables
from veltair.config import Config
from veltair.evaluation.claims.rules import Source
from veltair.evaluation.claims.values import ClaimTables, judge_from_tables
from veltair.evaluation.metrics.policies_table import source_name
from veltair.evaluation.metrics.records import read_records
from veltair.evaluation.simulation import validated as module
from veltair.evaluation.simulation.steps import simulate_capacity, simulate_loads, simulation_settings
from veltair.evaluation.simulation.validated import record_of, unvalidated_because, write_record
from veltair.machine.costs.folder import Tables, write_tables
from veltair.provenance import collect


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of shipped records."""
    monkeypatch.setattr(module, "FOLDER", tmp_path / "shipped")
    (tmp_path / "shipped").mkdir()
    return tmp_path / "shipped"


def here() -> Tables:
    """Tables that were measured on a machine."""
    tables = make_tables()
    return replace(tables, machine=replace(tables.machine, validated=True))


def ship(folder: Path, passed: bool = True, **changes: Any) -> None:
    """Ship a record of a validation with the tables of `here`."""
    tables = here()
    record = record_of(
        tables, simulation_settings(make_config(), tables), passed, "" if passed else "missed: qps"
    )
    write_record(folder / f"{tables.machine.name}.json", replace(record, **changes), collect({}))


def reason(config: Config, tables: Tables) -> str:
    return unvalidated_because(tables, simulation_settings(config, tables))


def test_without_a_record_nothing_is_validated(shipped: Path) -> None:
    assert reason(make_config(), here()) == f"no validation of {here().machine.name} is recorded"


def test_a_passed_record_of_this_machine_and_simulator_validates(shipped: Path) -> None:
    ship(shipped)
    assert reason(make_config(), here()) == ""


def test_a_failed_record_does_not(shipped: Path) -> None:
    ship(shipped, passed=False)
    assert reason(make_config(), here()).endswith("did not pass: missed: qps")


def test_a_record_of_another_simulator_does_not(shipped: Path) -> None:
    ship(shipped, simulator="0" * 64)
    assert reason(make_config(), here()).endswith("of another kind: simulator")


def test_a_record_of_another_kind_of_machine_does_not(shipped: Path) -> None:
    ship(shipped)
    larger = here()
    larger = replace(larger, machine=replace(larger.machine, l3_bytes=2 * larger.machine.l3_bytes))
    assert reason(make_config(), larger).endswith("of another kind: machine")


def test_core_numbers_and_probed_speeds_do_not_make_another_kind_of_machine(shipped: Path) -> None:
    ship(shipped)
    tables = here()
    groups = tuple(tuple(core + 8 for core in group) for group in tables.machine.cache_groups)
    machine = replace(tables.machine, cache_groups=groups, dram_bytes_per_s=1.5e11, core_peak_flops=9e10)
    assert reason(make_config(), replace(tables, machine=machine)) == ""


@pytest.mark.parametrize("assumed", [{"contention": 0.5}, {"placement": "pinned"}, {"start_cost_us": 1.0}])
def test_a_record_does_not_speak_for_other_assumptions(shipped: Path, assumed: dict[str, Any]) -> None:
    ship(shipped)
    config = make_config(simulated={"machines": ["host"], "workloads": ["mix"], **assumed})
    assert reason(config, here()).endswith("of another kind: assumptions")


def test_a_file_that_is_no_record_is_an_error_that_names_it(shipped: Path) -> None:
    path = shipped / f"{here().machine.name}.json"
    ship(shipped)
    path.write_text(json.dumps({**json.loads(path.read_text()), "passed": 7.5}))
    with pytest.raises(ValueError, match=rf"{path} is no record of a validation"):
        reason(make_config(), here())


@pytest.mark.parametrize("passed", [True, False])
def test_capacities_records_titles_and_claims_follow_the_record(
    shipped: Path, tmp_path: Path, passed: bool
) -> None:
    ship(shipped, passed)
    config, source, records = make_config(), tmp_path / "tables", tmp_path / "records.parquet"
    source.mkdir()
    write_tables(source, here(), collect({}))
    paths = [tmp_path / f"{policy}.csv" for policy in config.policies]
    for policy, path in zip(config.policies, paths, strict=True):
        simulate_capacity(config, source, "mix", policy, path)
    simulate_loads(config, source, "mix", "Planaria", paths, records)
    capacity = pd.concat(map(pd.read_csv, paths), ignore_index=True)
    assert set(capacity["validated"]) == set(read_records(records)["validated"]) == {passed}
    machine = here().machine.name
    assert source_name(("simulator", machine), capacity).endswith(": UNVALIDATED") is not passed
    metric = capacity_ratio(policy="FcfsMin", to="Planaria")
    found = judge_from_tables(
        claim(metric=metric), Source(backend="simulator", machine=machine), ClaimTables(capacity)
    )
    assert found.validated is passed

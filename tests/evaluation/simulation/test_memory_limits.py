"""Batches and bounded memory of simulated runs, from keys to contexts."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support.table_builders import make_config, make_tables
from veltair.evaluation.simulation import validated
from veltair.evaluation.simulation.memory_limits import memory_limits
from veltair.evaluation.simulation.run import simulate
from veltair.evaluation.simulation.steps import simulated_policy_maker, simulation_settings
from veltair.evaluation.simulation.validated import simulated_scenario
from veltair.machine.costs.folder import Tables

MODELS = {"builder": "models.resnet50:resnet50"}
POLICIES = {
    "Clockwork": {"path": "baselines.clockwork:Clockwork", "options": {"executors": 2, "page_mib": 0.5}},
    "Packrat": {"path": "baselines.packrat:Packrat"},
    "FcfsMin": {"path": "baselines.fcfs_min:FcfsMin"},
}
SIMULATED = {"machines": ["host"], "workloads": ["mix"], "queries": 200, "start_cost_us": 55}


def tables_of(weight_bytes: int | None) -> Tables:
    """Return tables in which each layer has so many bytes of weights: small has 2 of them, large 3."""
    tables = make_tables()
    layers = {
        name: tuple(replace(layer, weight_bytes=weight_bytes) for layer in group)
        for name, group in tables.layers.items()
    }
    return replace(tables, layers=layers)


def config(batches: list[int] | None = None, **simulated: Any) -> Any:
    sizes = {"batches": batches} if batches else {}
    models = {"small": {**MODELS, "qos_ms": 20, **sizes}, "large": {**MODELS, "qos_ms": 40}}
    return make_config(models=models, policies=POLICIES, simulated={**SIMULATED, **simulated})


def scenario(tables: Tables, given: Any) -> Any:
    return simulated_scenario(given, tables, "mix", simulation_settings(given, tables))


def test_a_load_takes_the_bytes_of_the_weights_at_the_bandwidth() -> None:
    limits = scenario(tables_of(1_000_000), config(memory_mb=3.5, load_mb_per_s=200)).context.memory
    assert limits.budget_bytes == 3_500_000
    assert limits.model_bytes == {"small": 2_000_000, "large": 3_000_000}
    assert limits.load_s == pytest.approx({"small": 0.010, "large": 0.015})


def test_the_bandwidth_of_loads_is_that_of_one_core_unless_given() -> None:
    tables = tables_of(1_000_000)
    tables = replace(tables, machine=replace(tables.machine, core_dram_bytes_per_s=1e9))
    assert scenario(tables, config(memory_mb=3)).context.memory.load_s["large"] == pytest.approx(0.003)


def test_unless_memory_is_bounded_there_are_no_limits() -> None:
    given = config()
    assert memory_limits(given.simulated, scenario(tables_of(None), given).context) is None


def test_a_model_that_is_larger_than_the_memory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"simulated.memory_mb is 2.5: large has 3.0 MB of weights, more"):
        scenario(tables_of(1_000_000), config(memory_mb=2.5))


def test_bounded_memory_needs_tables_that_know_the_weights() -> None:
    with pytest.raises(LookupError, match=r"simulated.memory_mb is 3, but the tables .* weights small"):
        scenario(tables_of(None), config(memory_mb=3))


def test_batches_are_in_the_context_and_their_runs_are_not_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validated, "unvalidated_because", lambda *_: "")
    assert scenario(tables_of(1000), config()).simulator_validated
    found = scenario(tables_of(1000), config([1, 2, 4]))
    assert found.context.batches == {"small": {2: "small x2", 4: "small x4"}}
    assert set(found.context.costs.models) == {"small", "large", "small x2", "small x4"}
    assert not found.simulator_validated
    assert list(found.context.models) == ["small", "large"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("qps", [100.0, 2000.0])
def test_runs_with_batches_and_bounded_memory_are_checked_as_others_are(policy: str, qps: float) -> None:
    given = config([1, 2, 4], memory_mb=3.5, load_mb_per_s=500)
    tables = tables_of(1_000_000)
    settings = simulation_settings(given, tables)
    made = simulated_policy_maker(given, policy)
    _, records, _ = simulate(scenario(tables, given), made, settings, qps, seed=1)
    largest = max(record.batch for record in records)
    assert largest == 1 or policy != "FcfsMin"
    assert largest > 1 or policy != "Packrat" or qps < 1000

"""Tenants in simulated runs, the noisy neighbour, and the comparison with one rule for late queries."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.table_builders import make_config, make_tables, write_made_up_tables
from veltair.config import Config
from veltair.evaluation.experiment import layout as layout_module
from veltair.evaluation.experiment.layout import CAPACITY, RECORDS
from veltair.evaluation.experiment.scenario import Scenario, scenario_of
from veltair.evaluation.experiment.tables_io import read_csv
from veltair.evaluation.loadgen.tenants import LOADGEN_SERVER, OURS
from veltair.evaluation.metrics.neighbour_table import neighbour_shares
from veltair.evaluation.metrics.records import read_records
from veltair.evaluation.reports.steps import write_metrics
from veltair.evaluation.simulation.isolation_steps import (
    dropping,
    neighbour_rates,
    write_equal_drops,
    write_noisy_neighbour,
)
from veltair.evaluation.simulation.steps import simulate_capacity, simulate_loads
from veltair.provenance import read_provenance

TENANTS = {
    "shop": {"model": "small", "share": 2, "weight": 3},
    "batch": {"model": "small", "share": 1, "arrivals": "gamma", "cv": 3, "qos_ms": 80},
    "cam": {"model": "large", "share": 1},
}
NEIGHBOUR = {"workload": "shared", "aggressor": "batch", "policies": ["Planaria"], "factors": [0, 1, 10]}
POLICIES = {
    "FcfsMin": {"path": "baselines.fcfs_min:FcfsMin"},
    "Planaria": {"path": "baselines.planaria:Planaria"},
    "Guarded": {"path": "baselines.planaria:Planaria", "options": {"admission": "protect_shares"}},
    "Own": {"path": "docs.example_policy:Greedy"},
}
SIMULATED = {
    "machines": ["host"],
    "workloads": ["mix"],
    "queries": 300,
    "resolution": 0.2,
    "loads": [0.5],
    "seeds": [1, 2],
    "start_cost_us": 0,
}


def config_of(tenants: dict[str, Any] | None = None, **study: Any) -> Config:
    found = {"enabled": True, "machine": "host", "noisy_neighbour": NEIGHBOUR, **study}
    return make_config(
        tenants={"shared": tenants or TENANTS}, policies=POLICIES, simulated=SIMULATED, study=found
    )


@pytest.fixture(scope="module", autouse=True)
def tables(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = write_made_up_tables(tmp_path_factory.mktemp("tables"), slowdown=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout_module, "SHIPPED_COSTS", folder)
        yield folder


def shared(**changes: Any) -> Scenario:
    tenants = {name: {**tenant, **changes.get(name, {})} for name, tenant in TENANTS.items()}
    return scenario_of(config_of(tenants), make_tables(), "shared")


def test_a_model_has_the_share_of_all_its_tenants_and_the_target_of_the_tightest() -> None:
    scenario = shared()
    assert scenario.weights == {"small": 3.0, "large": 1.0}
    assert scenario.qos_s == pytest.approx({"shop": 0.02, "batch": 0.08, "cam": 0.04})
    assert scenario.context.models["small"].qos_s == pytest.approx(0.02)
    assert scenario.context.tenants == {"shop": 3.0, "batch": 1.0, "cam": 1.0}


def test_a_tenants_target_too_is_raised_to_what_the_machine_can_meet() -> None:
    # Alone on 4 cores a large one takes 3 ms: 2.3 times that is 6.9.
    scenario = shared(cam={"qos_ms": 1})
    assert scenario.qos_s["cam"] == pytest.approx(0.0069)
    target = scenario.sender_targets.set_index("tenant").loc["cam"]
    assert target["relaxed"] and target["qos_table_s"] == pytest.approx(0.001)


def test_the_fluid_bound_counts_each_tenant_s_queries() -> None:
    # 3/4 of 3 ms of work, 1/4 of 12 ms, of which 5 % of all queries may be shed.
    assert shared().fluid_qps == pytest.approx(4 / (0.75 * 0.003 + 0.20 * 0.012))


def test_without_tenants_each_model_is_its_own() -> None:
    scenario = scenario_of(config_of(), make_tables(), "mix")
    assert [(one.name, one.model) for one in scenario.senders] == [("small", "small"), ("large", "large")]
    assert scenario.tenants == () and scenario.context.tenants == {}


@pytest.fixture(scope="module")
def runs(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, config = tmp_path_factory.mktemp("runs"), config_of()
    simulate_capacity(config, tables, "shared", "Planaria", folder / CAPACITY)
    simulate_loads(config, tables, "shared", "Planaria", [folder / CAPACITY], folder / RECORDS)
    return folder


def test_records_carry_the_tenant_and_its_own_target(runs: Path) -> None:
    records = read_records(runs / RECORDS)
    found = records.groupby("tenant")[["model", "qos_s"]].first()
    assert found["model"].to_dict() == {"shop": "small", "batch": "small", "cam": "large"}
    assert found["qos_s"].to_dict() == pytest.approx({"shop": 0.02, "batch": 0.08, "cam": 0.04})


def test_the_provenance_says_who_drew_the_arrivals(runs: Path, tables: Path, tmp_path: Path) -> None:
    assert read_provenance(runs / RECORDS).details["arrivals"] == OURS
    simulate_capacity(config_of(), tables, "mix", "Planaria", tmp_path / CAPACITY)
    assert read_provenance(tmp_path / CAPACITY).details["arrivals"] == LOADGEN_SERVER


def test_metrics_are_taken_over_the_tenants(runs: Path, tables: Path, tmp_path: Path) -> None:
    write_metrics(config_of(), [tables], [runs], [], tmp_path)
    rates, by_tenant = read_csv(tmp_path / "rates.csv"), read_csv(tmp_path / "tenant_rates.csv")
    assert set(by_tenant["tenant"]) == set(TENANTS) and len(by_tenant) == 3 * len(rates)
    assert set(rates["worst_tenant"]) <= set(TENANTS)
    least = by_tenant.groupby(["qps", "seed"])["satisfaction"].min().to_numpy()
    assert sorted(rates["satisfaction_minimum"]) == pytest.approx(sorted(least))
    assert list(read_csv(tmp_path / "targets.csv")["model"]) == ["small", "large"]


def test_tenants_with_rates_are_served_at_these_too(tables: Path, tmp_path: Path) -> None:
    rated = {"shop": {"model": "small", "rate": 60}, "cam": {"model": "large", "rate": 25.5}}
    config = config_of(rated, noisy_neighbour={})
    simulate_capacity(config, tables, "shared", "Planaria", tmp_path / CAPACITY)
    simulate_loads(config, tables, "shared", "Planaria", [tmp_path / CAPACITY], tmp_path / RECORDS)
    assert 85.5 in set(read_records(tmp_path / RECORDS)["qps"])


def test_one_tenant_sends_a_multiple_of_its_share_and_the_others_theirs() -> None:
    found = neighbour_rates(shared().senders, "batch", 80.0, 10.0)
    assert found == {"shop": 40.0, "batch": 200.0, "cam": 20.0}


@pytest.fixture(scope="module")
def neighbours(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    folder, found = tmp_path_factory.mktemp("neighbours"), {}
    for policy in ("Planaria", "Guarded"):
        write_noisy_neighbour(config_of(), policy, [runs / CAPACITY], folder / f"{policy}.csv")
        found[policy] = read_csv(folder / f"{policy}.csv")
    return found


def test_the_others_send_the_same_queries_whatever_one_sends(neighbours: dict[str, pd.DataFrame]) -> None:
    table = neighbours["Planaria"]
    others = table[table["tenant"] != "batch"]
    sent = others.groupby(["tenant", "seed"])["queries"].agg(["min", "max"])
    # Counting begins after a tenth of the run, which ends with the last arrival of anybody.
    assert (sent["max"] - sent["min"] <= 2).all()
    loud = table[table["tenant"] == "batch"].groupby("factor")["queries"].sum()
    assert 0.0 not in loud.index and loud[10.0] > 5 * loud[1.0]


def test_satisfaction_falls_with_what_the_neighbour_sends_and_less_where_parts_are_protected(
    neighbours: dict[str, pd.DataFrame],
) -> None:
    others = {
        policy: neighbour_shares(table).groupby("factor")["others"].mean()
        for policy, table in neighbours.items()
    }
    assert others["Planaria"][10.0] < others["Planaria"][1.0] - 0.2
    assert others["Guarded"][10.0] > others["Planaria"][10.0] + 0.1


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        ("Planaria", {"drop_late": "when_doomed"}),
        ("Guarded", {"admission": "protect_shares", "drop_late": "when_doomed"}),
        ("Own", {}),
    ],
)
def test_every_policy_that_can_gives_up_late_queries_by_the_one_rule(policy: str, options: dict) -> None:
    assert dropping(config_of(), policy).policies[policy].options == options


def test_a_row_says_by_which_rule_late_queries_were_given_up(tmp_path: Path) -> None:
    for policy, rule in (("FcfsMin", "when_doomed"), ("Own", "")):
        write_equal_drops(dropping(config_of(), policy), "mix", policy, tmp_path / f"{policy}.csv")
        table = read_csv(tmp_path / f"{policy}.csv")
        assert table["drop_late"].tolist() == [rule] * 2
        assert (table["qps_at_95"] > 0).all()

import functools
import sys
from dataclasses import replace
from math import inf
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.table_builders import make_tables, noisy
from veltair.evaluation.experiment.scenario import MakePolicy, Scenario, make_scenario
from veltair.evaluation.metrics.capacity import Capacity, CapacitySearch
from veltair.evaluation.metrics.records import DTYPES
from veltair.evaluation.simulation.run import (
    SimulationSettings,
    capacity_row,
    count_from_s,
    find_policy_capacity,
    offered_rates,
    policy_records,
    simulate,
)
from veltair.machine.costs.block_costs import BlockCosts
from veltair.machine.costs.derivation import derive
from veltair.machine.costs.folder import Tables
from veltair.machine.topology.topology import Machine
from veltair.serving.policies.presets import make_policy

ROOT = Path(__file__).parents[3]
LOADS = (0.3, 0.5, 0.7, 0.9, 1.1)
QOS_S = {"small": 0.020, "large": 0.040}
SHARES = {"small": 1, "large": 1}
SETTINGS = SimulationSettings(queries=200, drain_qos=10.0)
POLICIES = {
    "FcfsMin": "baselines.fcfs_min:FcfsMin",
    "Planaria": "baselines.planaria:Planaria",
    "Veltair-FULL": "veltair.serving.policies.adaptive:VeltairFULL",
    "Greedy": "docs.example_policy:Greedy",
}


def scenario_of(tables: Tables | None = None, relax: float = 1.0) -> Scenario:
    return make_scenario(tables or make_tables(), QOS_S, relax, "mix", SHARES)


def maker(path: str) -> MakePolicy:
    return lambda context: make_policy(path, context, "paper", {})


FCFS_MIN, PLANARIA = maker(POLICIES["FcfsMin"]), maker(POLICIES["Planaria"])


def records_of(scenario: Scenario, path: str, qps: float, seed: int = 1):
    arrivals, records, _ = simulate(scenario, maker(path), SETTINGS, qps, seed)
    return arrivals, list(records)


def capacities(**qps: float) -> pd.DataFrame:
    return pd.DataFrame({"policy": list(qps), "qps_at_95": list(qps.values())})


def test_a_target_that_the_machine_cannot_meet_is_raised_and_another_is_kept() -> None:
    # Alone on 4 cores: 3 ms / 4 and 12 ms / 4; 10 times 3 ms is below 40 ms, 20 times is above.
    assert scenario_of(relax=10.0).qos_s == QOS_S
    assert scenario_of(relax=20.0).qos_s == pytest.approx({"small": 0.020, "large": 0.060})


def test_the_models_that_policies_see_have_the_raised_targets() -> None:
    assert scenario_of(relax=20.0).context.models["large"].qos_s == pytest.approx(0.060)


def test_a_model_without_tables_is_named_with_what_to_do() -> None:
    with pytest.raises(LookupError, match=r"toy lack vgg \(they have small, large\); profile here"):
        make_scenario(make_tables(), QOS_S | {"vgg": 1.0}, 1.0, "mix", {"small": 1, "vgg": 1})


def test_a_workload_has_its_own_models_only() -> None:
    scenario = make_scenario(make_tables(), QOS_S, 1.0, "light", {"small": 1})
    assert list(scenario.context.models) == ["small"]
    assert scenario.context.costs.models == ("small",)


def test_the_fluid_bound_is_all_cores_over_the_least_work_of_the_cheapest_95_percent() -> None:
    # Half the queries take 3 ms of one core, 45 % take 12 ms, 5 % are shed: 4 / 6.9 ms = 579.7 QPS.
    assert scenario_of().fluid_qps == pytest.approx(4 / (0.5 * 0.003 + 0.45 * 0.012))


def test_the_fluid_bound_follows_the_shares_of_the_workload() -> None:
    # 3 : 1, and 5 % of the queries, all large, are shed.
    scenario = make_scenario(make_tables(), QOS_S, 1.0, "mix", {"small": 3, "large": 1})
    assert scenario.fluid_qps == pytest.approx(4 / (0.75 * 0.003 + 0.20 * 0.012))


@pytest.mark.parametrize("path", POLICIES.values(), ids=POLICIES)
def test_a_run_is_the_same_to_the_last_bit_each_time(path: str) -> None:
    scenario = scenario_of(make_tables(noise=noisy()))
    assert records_of(scenario, path, 300.0) == records_of(scenario, path, 300.0)


def test_all_policies_meet_the_same_arrivals() -> None:
    scenario = scenario_of(make_tables(noise=noisy()))
    arrivals = [records_of(scenario, path, 300.0)[0] for path in POLICIES.values()]
    assert arrivals == [arrivals[0]] * len(arrivals)


def test_another_seed_gives_other_arrivals() -> None:
    first, second = (records_of(scenario_of(), POLICIES["FcfsMin"], 300.0, seed)[0] for seed in (1, 2))
    assert [query.arrival_s for query in first] != [query.arrival_s for query in second]


def test_the_same_seed_at_twice_the_rate_has_the_same_path_at_half_the_times() -> None:
    slow, fast = (records_of(scenario_of(), POLICIES["FcfsMin"], qps)[0] for qps in (100.0, 200.0))
    assert [query.model for query in slow] == [query.model for query in fast]
    # LoadGen cuts each gap to whole nanoseconds.
    assert [query.arrival_s for query in slow] == pytest.approx(
        [2 * query.arrival_s for query in fast], abs=1e-6
    )


def test_every_arrival_has_one_record() -> None:
    arrivals, records = records_of(scenario_of(), POLICIES["Planaria"], 2000.0)
    assert sorted(record.query.id for record in records) == [query.id for query in arrivals]


@pytest.mark.parametrize("path", POLICIES.values(), ids=POLICIES)
@settings(max_examples=8)
@given(load=st.floats(0.05, 3.0), seed=st.integers(0, 2**32 - 1))
def test_no_run_is_better_than_the_fluid_bound_of_its_own_queries(path: str, load: float, seed: int) -> None:
    # Without noise or pressure: what the on-time queries need at least fits into cores x time.
    scenario = scenario_of()
    arrivals, records = records_of(scenario, path, load * scenario.fluid_qps, seed)
    least = dict(zip(scenario.targets["model"], scenario.targets["work_optimal_core_s"], strict=True))
    needed = sum(least[record.query.model] for record in records if record.on_time)
    available = scenario.context.machine.cores * (arrivals[-1].arrival_s + max(scenario.qos_s.values()))
    assert needed <= available * (1 + 1e-9)


@functools.cache
def boosted_scenario(links: float, placement_l3: int) -> Scenario:
    """Return a described machine whose few busy cores are faster, and whose memory is shared."""
    host = make_tables(noise=noisy(), traffic=50_000.0)
    machine = Machine(
        "boosted", 1, ((0, 1), (2, 3)), 2**14, placement_l3, host.machine.core_peak_flops, 1e8, False,
        clock_factors=((1, 1.8), (2, 1.5), (4, 1.0)),
        link_groups=1,
        link_bytes_per_s=links,
        core_dram_bytes_per_s=8e7,
        launch_s=1e-5,
    )  # fmt: skip
    tables = derive(host, machine)
    return replace(scenario_of(tables), policies_read="busy")


@pytest.mark.parametrize("path", POLICIES.values(), ids=POLICIES)
@settings(max_examples=10)
@given(
    load=st.floats(0.05, 3.0),
    seed=st.integers(0, 2**32 - 1),
    links=st.sampled_from((6e7, inf)),
    l3_bytes=st.sampled_from((2**14, 2**18)),
    placement=st.sampled_from(("spread", "pinned")),
    contention=st.sampled_from((0.0, 1.0)),
)
def test_no_run_beats_the_fluid_bound_at_the_clock_of_all_cores(
    path: str, load: float, seed: int, links: float, l3_bytes: int, placement: str, contention: float
) -> None:
    scenario = boosted_scenario(links, l3_bytes)
    asked = SimulationSettings(150, 10.0, placement=placement, contention=contention)
    arrivals, records, _ = simulate(scenario, maker(path), asked, load * scenario.fluid_qps, seed)
    # `simulate` raises InvariantError otherwise.
    assert len(list(records)) == len(arrivals)


@pytest.mark.parametrize("path", POLICIES.values(), ids=POLICIES)
def test_no_policy_serves_95_percent_at_twice_the_fluid_bound(path: str) -> None:
    # Twice as much work arrives as can be done, over a window of hundreds of latencies.
    scenario = scenario_of()
    settings_of_long = SimulationSettings(2000, 10.0)
    _, records, _ = simulate(scenario, maker(path), settings_of_long, 2 * scenario.fluid_qps, 1)
    on_time = [record.on_time for record in records]
    assert sum(on_time) / len(on_time) < 0.95


def test_starts_and_resizes_cost_what_the_settings_say() -> None:
    # One block a query: at a rate without queues each latency grows by the cost of one start.
    scenario, costly = scenario_of(), SimulationSettings(50, 10.0, BlockCosts(start_s=0.001))
    free = SimulationSettings(50, 10.0)

    def latencies(chosen: SimulationSettings) -> list[float]:
        _, records, _ = simulate(scenario, maker(POLICIES["FcfsMin"]), chosen, 1.0, 1)
        return [record.latency_s for record in sorted(records, key=lambda one: one.query.id)]

    assert latencies(costly) == pytest.approx([latency + 0.001 for latency in latencies(free)])


@functools.cache
def found_capacity(make: MakePolicy) -> tuple[Capacity, Capacity]:
    return find_policy_capacity(scenario_of(), make, SETTINGS, CapacitySearch(0.1), 1)


def test_a_capacity_is_a_rate_that_passes_below_one_that_does_not() -> None:
    pooled, minimum = found_capacity(FCFS_MIN)
    assert 0 < minimum.qps <= pooled.qps < pooled.high_qps
    passed = {trial.qps: trial.satisfaction.pooled for trial in pooled.trials}
    assert passed[pooled.qps] >= 0.95 > passed[pooled.high_qps]


def test_a_row_of_the_capacity_table_says_where_and_how_sure() -> None:
    scenario, (pooled, minimum) = scenario_of(), found_capacity(PLANARIA)
    row = capacity_row(scenario, "Planaria", 7, pooled, minimum)
    wanted = {
        "backend": "simulator",
        "machine": "toy",
        "validated": False,
        "workload": "mix",
        "policy": "Planaria",
        "seed": 7,
        "queries": pooled.queries,
        "fluid_qps": scenario.fluid_qps,
        "qps_at_95": pooled.qps,
        "high_qps": pooled.high_qps,
        "qps_at_95_minimum": minimum.qps,
        "resolution": pooled.high_qps / pooled.qps - 1,
        "cut": False,
        "unservable": False,
        "invalid": "",
        "answer": pooled.describe(),
    }
    assert row == wanted


def test_a_policy_that_no_rate_suits_is_unservable() -> None:
    # The start alone takes 100 ms, the targets are 20 and 40 ms.
    scenario = scenario_of()
    slow = SimulationSettings(200, drain_qos=10.0, costs=BlockCosts(start_s=0.1))
    pooled, minimum = find_policy_capacity(scenario, FCFS_MIN, slow, CapacitySearch(0.1), 1)
    row = capacity_row(scenario, "FcfsMin", 1, pooled, minimum)
    assert (row["qps_at_95"], row["unservable"]) == (0.0, True)


def test_loads_are_shares_of_planaria_s_capacity_and_one_s_own() -> None:
    rates = offered_rates(capacities(FcfsMin=255.0, Planaria=100.0), "FcfsMin", 900.0, LOADS)
    assert rates == pytest.approx([30, 50, 70, 90, 110, 255])


def test_without_planaria_loads_are_shares_of_the_best_capacity() -> None:
    rates = offered_rates(capacities(FcfsMin=10.0, LayerWise=40.0), "FcfsMin", 900.0, LOADS)
    assert rates == pytest.approx(sorted([*(40 * load for load in LOADS), 10.0]))


@pytest.mark.parametrize("others", [{}, {"LayerWise": 40.0}])
def test_where_planaria_serves_nothing_loads_do_not_depend_on_who_else_is_compared(
    others: dict[str, float],
) -> None:
    rates = offered_rates(capacities(Planaria=0.0, **others), "Planaria", 900.0, LOADS)
    assert rates == pytest.approx([90 * load for load in LOADS])


def test_where_nobody_serves_anything_loads_are_shares_of_a_tenth_of_the_fluid_bound() -> None:
    rates = offered_rates(capacities(Planaria=0.0, LayerWise=0.0), "LayerWise", 900.0, LOADS)
    assert rates == pytest.approx([90 * load for load in LOADS])


def test_records_of_a_policy_have_the_declared_columns_and_a_run_for_each_rate() -> None:
    frame = policy_records(scenario_of(), "FcfsMin", FCFS_MIN, SETTINGS, [50.0, 80.0], 3)
    assert list(frame.columns) == list(DTYPES)
    assert list(frame["qps"].drop_duplicates()) == [50.0, 80.0]
    assert frame[["backend", "machine", "policy", "seed"]].drop_duplicates().values.tolist() == [
        ["simulator", "toy", "FcfsMin", 3]
    ]


def test_queries_of_the_warm_up_are_kept_but_not_counted() -> None:
    scenario = scenario_of()
    frame = policy_records(scenario, "FcfsMin", FCFS_MIN, SETTINGS, [50.0], 3)
    from_s = count_from_s(simulate(scenario, FCFS_MIN, SETTINGS, 50.0, 3)[0], scenario.qos_s)
    assert from_s > 0
    assert list(frame["counted"]) == list(frame["arrival_s"] >= from_s)


@pytest.mark.parametrize(("folder", "path"), [("docs", "example_policy:Greedy"), (".", POLICIES["Greedy"])])
def test_the_policy_of_the_documentation_is_a_file_that_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, folder: str, path: str
) -> None:
    monkeypatch.chdir(ROOT / folder)
    _, records = records_of(scenario_of(), path, 100.0)
    assert len(records) == SETTINGS.queries
    assert all(record.blocks == 1 for record in records)
    # It serves the oldest first: starts are in the order of arrivals.
    starts = [record.start_s for record in sorted(records, key=lambda record: record.query.id)]
    assert starts == sorted(starts)
    sys.modules.pop("example_policy", None)


def test_the_policy_of_the_documentation_fits_on_a_page() -> None:
    assert len((ROOT / "docs" / "example_policy.py").read_text().splitlines()) <= 22


def test_the_readme_shows_the_policy_of_the_documentation() -> None:
    example = (ROOT / "docs" / "example_policy.py").read_text().strip()
    assert f"```python\n{example}\n```" in (ROOT / "README.md").read_text()

import math
from typing import Any

import pandas as pd
import pytest

from tests.support.plot_tables import ENGINE, rate_table, seed_table, unservable
from veltair.evaluation.metrics.confidence import at_load, capacities, ratios, shares_of_bound

POLICIES = ["LayerWise", "Planaria", "Veltair-FULL"]


def table(**answers: list[float]) -> pd.DataFrame:
    """Return seeds 1, 2, … with these answers by policy (underscores for dashes)."""
    names = {name.replace("_", "-"): values for name, values in answers.items()}
    made = seed_table(list(names), range(1, 1 + len(next(iter(names.values())))), ["mix"])
    made["qps_at_95"] = [value for values in names.values() for value in values]
    made["high_qps"] = 1.01 * made["qps_at_95"]
    return made


def test_a_capacity_is_the_mean_over_seeds() -> None:
    found = capacities(table(Planaria=[10.0, 14.0])).iloc[0]
    assert (found["mean"], found["count"], found["note"]) == (12.0, 2, "")


def test_ratios_are_paired_by_seed() -> None:
    found = ratios(table(Planaria=[10.0, 20.0], Veltair_FULL=[15.0, 40.0])).set_index("policy")
    # 1.5 and 2; the ratio of the means would be 55 / 30 = 1.83.
    assert found["mean"].to_dict() == {"Planaria": 1.0, "Veltair-FULL": 1.75}


def test_a_policy_unservable_with_some_seeds_has_no_number_and_says_with_how_many() -> None:
    made = seed_table(POLICIES, workloads=["mix"])
    made = unservable(made, (made["policy"] == "LayerWise") & (made["seed"] < 3))
    for estimate in (capacities, ratios, shares_of_bound):
        row = estimate(made).set_index("policy").loc["LayerWise"]
        assert math.isnan(row["mean"]) and row["note"] == "unservable, 2 of 5 seeds"


def test_an_unservable_reference_leaves_no_ratio_rather_than_an_infinite_one() -> None:
    made = seed_table(POLICIES, workloads=["mix"])
    row = ratios(unservable(made, made["policy"] == "Planaria")).set_index("policy").loc["Veltair-FULL"]
    assert math.isnan(row["mean"]) and row["note"] == "no Planaria"


@pytest.mark.parametrize(
    "changed",
    [{"high_qps": math.inf}, {"cut": True}, {"invalid": "late"}],
    ids=["open", "cut short", "invalid"],
)
def test_an_open_search_is_a_lower_bound_and_nothing_is_compared_with_it(changed: dict[str, Any]) -> None:
    made = seed_table(POLICIES, workloads=["mix"])
    made.loc[made["policy"] == "Planaria", list(changed)] = list(changed.values())
    found = ratios(made).set_index("policy")
    assert found.loc["Planaria", "bound"] and not found.loc["Veltair-FULL", "bound"]
    assert set(found["note"]) == {"Planaria: a lower bound"} and found["mean"].isna().all()


def test_the_share_of_the_fluid_bound_is_that_of_each_seed() -> None:
    made = table(Planaria=[10.0, 30.0]).assign(fluid_qps=[20.0, 40.0])
    assert shares_of_bound(made)["mean"].iloc[0] == 0.625


def test_a_load_is_a_share_of_planarias_capacity_with_the_same_seed() -> None:
    made = table(Planaria=[10.0, 20.0], Veltair_FULL=[15.0, 40.0])
    rates = rate_table(made, (0.5, 0.7)).assign(latency_mean_s=lambda rows: rows["qps"])
    found = at_load(rates, made, "latency_mean_s", 0.5).set_index("policy")
    assert found["mean"].to_dict() == {"Planaria": 7.5, "Veltair-FULL": 7.5}


def test_latencies_are_compared_seed_by_seed() -> None:
    made = table(Planaria=[10.0, 20.0], Veltair_FULL=[15.0, 40.0])
    rates = rate_table(made, (0.5,))
    rates["latency_mean_s"] = [0.1, 0.2, 0.05, 0.06]
    found = at_load(rates, made, "latency_mean_s", 0.5, "Planaria").set_index("policy")
    assert found.loc["Veltair-FULL", "mean"] == pytest.approx((0.5 + 0.3) / 2)


def test_measured_policies_are_compared_at_the_rate_that_they_shared() -> None:
    made = seed_table(["LayerWise"], [1], ["mix"], [ENGINE]).assign(common_qps=7.0)
    rates = rate_table(made, (1.0,)).assign(qps=7.0)
    assert len(at_load(rates, made, "cpu_efficiency", 0.7)) == 1


def test_the_load_that_a_run_names_stands_in_where_planaria_has_no_capacity() -> None:
    made = seed_table(["LayerWise"], [1], ["mix"])
    rates = rate_table(made, (0.5,)).assign(load=0.5)
    assert len(at_load(rates, made, "cpu_efficiency", 0.5)) == 1
    assert at_load(rates.drop(columns="load"), made, "cpu_efficiency", 0.5).empty


def test_invalid_runs_are_left_out() -> None:
    made = seed_table(["Planaria"], [1, 2], ["mix"])
    rates = rate_table(made, (0.7,)).assign(invalid=["issued late", ""])
    assert at_load(rates, made, "cpu_efficiency", 0.7)["count"].iloc[0] == 1


def test_missing_columns_are_named() -> None:
    made = seed_table(POLICIES, [1])
    with pytest.raises(ValueError, match=r"capacity_seeds: columns \['fluid_qps'\]"):
        ratios(made.drop(columns="fluid_qps"))
    with pytest.raises(ValueError, match=r"rates: columns \['cpu_efficiency'\]"):
        at_load(rate_table(made).drop(columns="cpu_efficiency"), made, "cpu_efficiency", 0.7)


def test_two_rows_of_a_seed_are_refused() -> None:
    made = seed_table(["Planaria"], [1, 1], ["mix"])
    with pytest.raises(ValueError, match=r"two rows for Planaria on mix .* with seed 1"):
        capacities(made)

import math

import pandas as pd
import pytest

from veltair.evaluation.metrics.metrics import RATE_COLUMNS
from veltair.evaluation.metrics.policies_table import (
    at_loads,
    capacity_text,
    check_capacity,
    equal_load,
    notes,
    number,
    order_policies,
    ratio_to,
    site_name,
    sites,
    span,
    valid_runs,
)

SITE = ("simulator", "bench")


def capacity(**qps: float) -> pd.DataFrame:
    rows = [
        {
            "backend": "simulator",
            "machine": "bench",
            "validated": True,
            "workload": "mix",
            "policy": policy,
            "qps_at_95": value,
            "qps_at_95_minimum": 0.9 * value,
            "resolution": 0.05,
            "cut": False,
            "unservable": value == 0,
        }
        for policy, value in qps.items()
    ]
    return check_capacity(pd.DataFrame(rows))


def runs(policy: str, *points: tuple[float, int, float]) -> pd.DataFrame:
    """Runs of (qps, seed, mean latency)."""
    same = {
        "backend": "simulator",
        "machine": "bench",
        "validated": True,
        "workload": "mix",
        "policy": policy,
    }
    rows = [same | {"qps": qps, "seed": seed, "latency_mean_s": latency} for qps, seed, latency in points]
    return pd.DataFrame(rows, columns=list(RATE_COLUMNS))


def test_policies_come_in_the_papers_order_and_others_after_them() -> None:
    names = ["Mine", "Veltair-FULL", "FcfsMin", "Planaria", "Mine", "Yours"]
    assert order_policies(names) == ["FcfsMin", "Planaria", "Veltair-FULL", "Mine", "Yours"]


def test_ratios_are_to_the_reference_of_the_same_site() -> None:
    here = capacity(Planaria=10, LayerWise=8, FcfsMin=0)
    there = capacity(Planaria=100, LayerWise=150).assign(machine="other")
    ratios = ratio_to(pd.concat([here, there], ignore_index=True))
    assert ratios[[0, 1, 3, 4]].tolist() == [1, 0.8, 1, 1.5]
    assert math.isnan(ratios[2])


def test_there_is_no_ratio_to_a_reference_that_is_missing_unservable_a_lower_bound_or_cut_short() -> None:
    assert ratio_to(capacity(LayerWise=8)).isna().all()
    assert ratio_to(capacity(LayerWise=8, Planaria=0)).isna().all()
    assert ratio_to(capacity(LayerWise=8, Planaria=10).assign(high_qps=math.inf)).isna().all()
    assert ratio_to(capacity(LayerWise=8, Planaria=10).assign(cut=[False, True])).isna().all()
    assert ratio_to(capacity(LayerWise=8, Planaria=10).assign(invalid=["", "late"])).isna().all()
    assert ratio_to(capacity(LayerWise=8, Planaria=10).assign(cut=[True, False]))[0] == 0.8


def test_equal_load_is_a_share_of_the_references_capacity() -> None:
    assert equal_load(capacity(Planaria=10, FcfsMin=4), share=0.5) == {(*SITE, "mix"): 5}


def test_without_a_reference_equal_load_goes_by_the_lowest_servable_policy() -> None:
    assert equal_load(capacity(FcfsMin=0, LayerWise=4, Mine=6), share=0.5) == {(*SITE, "mix"): 2}


def test_where_nothing_can_be_served_there_is_no_equal_load() -> None:
    assert equal_load(capacity(FcfsMin=0, Planaria=0)) == {}
    assert at_loads(runs("FcfsMin", (1, 1, 9)), capacity(FcfsMin=0, Planaria=0)).empty


def test_loads_pick_the_nearest_rate_and_average_its_seeds() -> None:
    rates = runs("Planaria", (6.0, 1, 0.1), (7.1, 1, 0.2), (7.1, 2, 0.4), (10.0, 1, 0.8))
    picked = at_loads(rates, capacity(Planaria=10)).set_index("load")
    assert picked.loc["equal", ["wanted_qps", "qps"]].tolist() == pytest.approx([7.0, 7.1])
    assert picked["latency_mean_s"].to_dict() == pytest.approx({"equal": 0.3, "own": 0.8})


def test_a_rate_too_far_from_the_wanted_one_does_not_stand_for_it() -> None:
    picked = at_loads(runs("Planaria", (10.0, 1, 0.8)), capacity(Planaria=10))
    assert picked["load"].tolist() == ["own"]


def test_invalid_runs_are_left_out() -> None:
    rates = runs("Planaria", (7.0, 1, 0.1), (10.0, 1, 0.8)).assign(invalid=["", "issued late"])
    assert valid_runs(rates)["qps"].tolist() == [7.0]
    assert at_loads(rates, capacity(Planaria=10))["load"].tolist() == ["equal"]


def test_measured_sites_come_first() -> None:
    frame = pd.DataFrame({"backend": ["simulator", "engine", "simulator"], "machine": ["big", "host", "big"]})
    assert sites(frame) == [("engine", "host"), ("simulator", "big")]


def test_a_site_says_whether_it_is_measured_and_whether_it_is_validated() -> None:
    assert site_name(SITE, capacity(Planaria=1)) == "bench, simulated"
    assert site_name(SITE, capacity(Planaria=1).assign(validated=False)) == "bench, simulated: UNVALIDATED"
    assert (
        site_name(("engine", "bench"), capacity(Planaria=1).assign(backend="engine"))
        == "bench, measured here"
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, "10"),
        ({"cut": True}, "10†"),
        ({"high_qps": math.inf, "cut": True}, "≥ 10†"),
        ({"invalid": "issued late"}, "≥ 10"),
        ({"unservable": True}, "unservable"),
        ({"qps_at_95": 0.0, "high_qps": 3.0, "cut": True}, "< 3†"),
        ({"qps_at_95": 0.0, "high_qps": math.inf, "invalid": "issued late"}, "no valid run"),
    ],
)
def test_a_capacity_says_how_it_is_known(change: dict[str, object], text: str) -> None:
    row = capacity(Planaria=10.0).iloc[0].to_dict() | change
    assert capacity_text(row) == text


def test_a_policy_without_a_row_was_not_run() -> None:
    assert capacity_text(None) == "not run"


def test_notes_name_relaxed_targets_cut_searches_and_what_was_invalid_and_why() -> None:
    table = capacity(Planaria=10, FcfsMin=0, LayerWise=8, Mine=5)
    table["cut"] = [True, False, False, False]
    table["invalid"] = ["", "", "issued late", ""]
    targets = pd.DataFrame(
        {"machine": ["bench"], "model": ["bert"], "relaxed": [True], "qos_table_s": [0.13], "qos_s": [0.5]}
    )
    text = " ".join(notes(SITE, table, runs("Planaria", (7, 1, 0.1)), targets))
    for part in (
        "bert 130 to 500 ms",
        "† Planaria on mix: search cut short, at a resolution of 5 %.",
        "FcfsMin on mix is unservable",
        "LayerWise on mix: a run of the search was invalid (issued late).",
    ):
        assert part in text
    assert "Mine" not in text


def test_two_capacities_of_one_policy_are_refused() -> None:
    with pytest.raises(ValueError, match="two rows for Planaria on mix"):
        check_capacity(pd.concat([capacity(Planaria=1), capacity(Planaria=2)]))


def test_a_capacity_table_without_a_column_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match="resolution"):
        check_capacity(capacity(Planaria=1).drop(columns="resolution"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1299.4, "1299"),
        (12.345, "12.3"),
        (10.0, "10"),
        (0.05, "0.05"),
        (0.012345, "0.0123"),
        (100, "100"),
    ],
)
def test_numbers_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert number(value) == text


def test_what_is_no_number_is_a_dash() -> None:
    assert number(math.nan) == "\N{EN DASH}"
    assert number(math.inf) == "inf"


def test_a_span_of_equal_numbers_is_one_number() -> None:
    assert (span([1.0, 1.0001]), span([2, math.nan, 1]), span([])) == ("1", "1\N{EN DASH}2", "?")


def test_a_rate_that_all_policies_were_run_at_is_the_equal_load() -> None:
    table = capacity(Planaria=100.0, FcfsMin=50.0)
    assert set(equal_load(table.assign(common_qps=60.0)).values()) == {60.0}


def test_a_common_rate_is_only_used_where_one_is_named() -> None:
    table = capacity(Planaria=100.0, FcfsMin=50.0)
    assert set(equal_load(table.assign(common_qps=float("nan"))).values()) == {70.0}

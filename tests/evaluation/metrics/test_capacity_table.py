import math
from typing import Any

import pandas as pd
import pytest

from tests.support.evaluation.plot_tables import seed_table, unservable
from veltair.evaluation.metrics.capacity_table import (
    FLUID,
    PairedRatio,
    capacities,
    capacity_ratio,
    capacity_text,
    over_seeds,
    quotient,
    ratio_text,
    ratios,
    reference_rate,
    reference_rates,
    shares_of_bound,
)

POLICIES = ["LayerWise", "Planaria", "Veltair-FULL"]
OPEN = {"high_qps": math.inf}
CUT = {"cut": True}
INVALID = {"invalid": "issued late"}


def table(**answers: list[float]) -> pd.DataFrame:
    """Return seeds 1, 2, … with these answers by policy (underscores for dashes); 0 is unservable."""
    names = {name.replace("_", "-"): values for name, values in answers.items()}
    made = seed_table(list(names), range(1, 1 + len(next(iter(names.values())))), ["mix"])
    made["qps_at_95"] = [value for values in names.values() for value in values]
    made["high_qps"] = 1.01 * made["qps_at_95"]
    return unservable(made, made["qps_at_95"] == 0)


def changed(made: pd.DataFrame, policy: str, **changes: Any) -> pd.DataFrame:
    return made.assign(
        **{name: made[name].mask(made["policy"] == policy, value) for name, value in changes.items()}
    )


def ratio(made: pd.DataFrame, column: str = "qps_at_95") -> PairedRatio:
    """Return the ratio of Veltair-FULL to Planaria."""
    own, of_reference = (made[made["policy"] == policy] for policy in ("Veltair-FULL", "Planaria"))
    return capacity_ratio(own, of_reference, "Planaria", column)


def test_a_capacity_is_the_mean_over_seeds() -> None:
    found = capacities(table(Planaria=[10.0, 14.0])).iloc[0]
    assert (found["mean"], found["count"], found["note"]) == (12.0, 2, "")


def test_ratios_are_paired_by_seed() -> None:
    found = ratios(table(Planaria=[10.0, 20.0], Veltair_FULL=[15.0, 40.0])).set_index("policy")
    # 1.5 and 2; the ratio of the means would be 55 / 30 = 1.83.
    assert found["mean"].to_dict() == {"Planaria": 1.0, "Veltair-FULL": 1.75}


def test_a_seed_in_which_a_policy_is_unservable_counts_0_in_its_ratio_and_is_told() -> None:
    found = ratio(table(Planaria=[10.0, 20.0], Veltair_FULL=[0.0, 40.0]))
    assert found == PairedRatio({1: 0.0, 2: 2.0}, "unservable, 1 of 2 seeds")


def test_a_policy_that_is_never_servable_has_ratio_0() -> None:
    found = ratio(table(Planaria=[10.0, 20.0], Veltair_FULL=[0.0, 0.0]))
    assert found == PairedRatio({1: 0.0, 2: 0.0}, "unservable")


def test_a_reference_that_is_unservable_with_one_seed_leaves_no_ratio() -> None:
    assert ratio(table(Planaria=[0.0, 20.0], Veltair_FULL=[15.0, 40.0])) == PairedRatio(note="no Planaria")


def test_a_reference_that_was_not_run_leaves_no_ratio() -> None:
    assert ratio(table(Veltair_FULL=[15.0])) == PairedRatio(note="no Planaria")


@pytest.mark.parametrize("change", [OPEN, CUT, INVALID], ids=["open", "cut", "invalid"])
def test_nothing_is_divided_by_a_lower_bound(change: dict[str, Any]) -> None:
    made = changed(table(Planaria=[10.0], Veltair_FULL=[15.0]), "Planaria", **change)
    assert ratio(made) == PairedRatio(note="Planaria: a lower bound")


@pytest.mark.parametrize("change", [OPEN, CUT, INVALID], ids=["open", "cut", "invalid"])
def test_a_lower_bound_over_a_closed_answer_is_a_lower_bound(change: dict[str, Any]) -> None:
    made = changed(table(Planaria=[10.0], Veltair_FULL=[15.0]), "Veltair-FULL", **change)
    assert ratio(made) == PairedRatio({1: 1.5}, at_least=True)


def test_a_search_that_found_no_rate_and_no_end_gives_no_ratio() -> None:
    made = table(Planaria=[10.0, 20.0], Veltair_FULL=[15.0, 40.0])
    unknown = (made["policy"] == "Veltair-FULL") & (made["seed"] == 1)
    made.loc[unknown, ["qps_at_95", "high_qps", "cut"]] = [0.0, 3.0, True]
    assert ratio(made) == PairedRatio(note="no valid run")


def test_only_seeds_that_both_were_run_with_are_paired() -> None:
    made = table(Planaria=[10.0, 20.0], Veltair_FULL=[15.0, 40.0])
    assert ratio(made[(made["policy"] == "Planaria") | (made["seed"] == 2)]).by_seed == {2: 2.0}


def test_a_worst_model_that_is_never_on_time_has_ratio_0_and_as_a_reference_none() -> None:
    made = table(Planaria=[10.0], Veltair_FULL=[15.0])
    worst = "qps_at_95_minimum"
    assert ratio(changed(made, "Veltair-FULL", **{worst: 0.0}), worst).by_seed == {1: 0.0}
    assert ratio(changed(made, "Planaria", **{worst: 0.0}), worst).note == "no Planaria"


@pytest.mark.parametrize(
    ("other", "note"),
    [
        (PairedRatio({1: 2.0}, at_least=True), "over a lower bound"),
        (PairedRatio({1: 0.0}, "unservable"), "unservable"),
        (PairedRatio(note="no Planaria"), "no Planaria"),
        (PairedRatio({2: 2.0}), "no seed in common"),
    ],
)
def test_what_a_ratio_cannot_be_divided_by(other: PairedRatio, note: str) -> None:
    assert quotient(PairedRatio({1: 1.5}), other) == PairedRatio(note=note)


def test_a_quotient_is_taken_seed_by_seed_and_keeps_what_is_said_of_the_first() -> None:
    first = PairedRatio({1: 0.0, 2: 3.0}, "unservable, 1 of 2 seeds", at_least=True)
    assert quotient(first, PairedRatio({1: 2.0, 2: 2.0})) == PairedRatio(
        {1: 0.0, 2: 1.5}, "unservable, 1 of 2 seeds", at_least=True
    )


def test_a_policy_unservable_with_some_seeds_has_no_capacity_over_seeds_and_says_with_how_many() -> None:
    made = seed_table(POLICIES, workloads=["mix"])
    made = unservable(made, (made["policy"] == "LayerWise") & (made["seed"] < 3))
    for estimate in (capacities, shares_of_bound):
        row = estimate(made).set_index("policy").loc["LayerWise"]
        assert math.isnan(row["mean"]) and row["note"] == "unservable, 2 of 5 seeds"


def test_the_share_of_the_fluid_bound_is_that_of_each_seed() -> None:
    made = table(Planaria=[10.0, 30.0]).assign(fluid_qps=[20.0, 40.0])
    assert shares_of_bound(made)["mean"].iloc[0] == 0.625


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"note": "no Planaria", "count": 0}, "no Planaria"),
        ({"note": "", "count": 0}, "no valid run"),
        ({"note": "", "count": 1, "mean": 1.5, "low": math.nan, "high": math.nan, "bound": False}, "1.5"),
        ({"note": "", "count": 1, "mean": 1.5, "low": math.nan, "high": math.nan, "bound": True}, "≥ 1.5"),
        ({"note": "", "count": 2, "mean": 1.5, "low": 1.4, "high": 1.6, "bound": False}, "1.5 [1.4, 1.6]"),
    ],
)
def test_a_ratio_says_how_it_is_known(row: dict[str, Any], text: str) -> None:
    assert ratio_text(row) == text


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
    row = over_seeds(table(Planaria=[10.0]).assign(answer="")).iloc[0].to_dict() | change
    assert capacity_text(row) == text


def test_a_policy_without_a_row_was_not_run() -> None:
    assert capacity_text(None) == "not run"


def test_over_seeds_means_are_means_and_brackets_the_widest() -> None:
    made = table(Planaria=[100.0, 104.0]).assign(
        high_qps=[110.0, 106.0],
        resolution=[0.1, 0.02],
        cut=[False, True],
        unservable=[True, False],
        answer="",
    )
    row = over_seeds(made).iloc[0]
    assert (row["qps_at_95"], row["high_qps"], row["resolution"], row["seeds"]) == (102.0, 110.0, 0.1, 2)
    # The sample's: sqrt((2^2 + 2^2) / (2 - 1)).
    assert row["qps_at_95_std"] == pytest.approx(8**0.5)
    assert (row["cut"], row["unservable"]) == (True, False)


def test_over_seeds_keeps_policies_and_machines_apart_and_in_order() -> None:
    made = table(Z=[1.0, 2.0], A=[1.0, 2.0]).assign(answer="")
    merged = over_seeds(pd.concat([made.assign(machine=machine) for machine in ("b", "a")]))
    assert list(zip(merged["machine"], merged["policy"], strict=True)) == [
        ("b", "Z"),
        ("b", "A"),
        ("a", "Z"),
        ("a", "A"),
    ]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"FcfsMin": 255.0, "Planaria": 100.0}, (100.0, "Planaria")),
        ({"FcfsMin": 10.0, "LayerWise": 40.0}, (40.0, "LayerWise")),
        ({"Planaria": 0.0, "LayerWise": 40.0}, (90.0, FLUID)),
        ({"Planaria": 0.0, "LayerWise": 0.0}, (90.0, FLUID)),
    ],
)
def test_loads_are_shares_of_planarias_capacity_or_of_the_best_without_it_or_of_a_part_of_the_bound(
    answers: dict[str, float], expected: tuple[float, str]
) -> None:
    assert reference_rate(answers, 900.0) == expected


def test_each_seed_has_a_reference_rate_of_its_own() -> None:
    seeds = table(Planaria=[10.0, 0.0], Veltair_FULL=[15.0, 40.0])
    found, fluid_qps = reference_rates(seeds), float(seeds["fluid_qps"].iloc[0])
    assert found[["seed", "reference_qps", "of"]].values.tolist() == [
        [1, 10.0, "Planaria"],
        [2, pytest.approx(fluid_qps / 10), FLUID],
    ]


def test_missing_columns_are_named() -> None:
    with pytest.raises(ValueError, match=r"capacity_seeds: columns \['fluid_qps'\]"):
        ratios(seed_table(POLICIES, [1]).drop(columns="fluid_qps"))


def test_two_rows_of_a_seed_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two rows for Planaria on mix .* with seed 1"):
        capacities(seed_table(["Planaria"], [1, 1], ["mix"]))


def test_without_a_first_ratio_there_is_no_quotient_and_its_note_is_kept() -> None:
    assert quotient(PairedRatio(note="no Planaria"), PairedRatio({1: 2.0})) == PairedRatio(note="no Planaria")

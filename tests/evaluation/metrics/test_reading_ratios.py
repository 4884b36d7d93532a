"""Two options of two values each, on two workloads, by hand."""

import math
from typing import Any

import pandas as pd
import pytest

from veltair.evaluation.metrics.reading_ratios import (
    option_means,
    ranked,
    reading_options,
    reading_ratios,
    variance_shares,
)

OPTIONS = ["alpha", "growth"]
# QPS by (alpha, growth) on `light`: alpha doubles it, growth adds nothing; on `heavy` growth decides alone.
LIGHT = {(1.0, False): 10.0, (1.0, True): 10.0, (0.5, False): 20.0, (0.5, True): 20.0}
HEAVY = {(1.0, False): 0.0, (1.0, True): 3.0, (0.5, False): 0.0, (0.5, True): 3.0}


def row(workload: str, reading: tuple[float, bool], qps: float, **changes: Any) -> dict[str, Any]:
    values = {"backend": "simulator", "machine": "toy", "validated": False, "workload": workload}
    values |= {"policy": "FULL", "against": "Planaria", "seed": 1, "queries": 100, "qps": qps}
    values |= {"against_qps": 10.0 if workload == "light" else 2.0, "is_paper": reading == (1.0, False)}
    return {**values, "alpha": reading[0], "growth": reading[1], **changes}


def table() -> pd.DataFrame:
    rows = [row("light", reading, qps) for reading, qps in LIGHT.items()]
    return pd.DataFrame(rows + [row("heavy", reading, qps) for reading, qps in HEAVY.items()])


def test_options_are_the_columns_that_say_nothing_else() -> None:
    assert reading_options(table()) == OPTIONS


def test_the_best_reading_is_that_of_the_largest_geometric_mean() -> None:
    found = ranked(reading_ratios(table()))
    assert found[OPTIONS].iloc[0].tolist() == [0.5, True]
    best = found.iloc[0]
    # 20 of 10 and 3 of 2: sqrt(2 x 1.5).
    assert (best["light"], best["heavy"], best["all"]) == pytest.approx((2.0, 1.5, math.sqrt(3.0)))
    assert found["is_paper"].sum() == 1


def test_a_reading_that_serves_nobody_counts_as_nothing() -> None:
    found = reading_ratios(table())
    paper = found[found["is_paper"]].iloc[0]
    assert (paper["light"], paper["heavy"], paper["all"]) == (1.0, 0.0, 0.0)


def test_ratios_are_means_over_seeds_and_those_without_a_number_below_are_left_out() -> None:
    reading = (1.0, False)
    seeds = [(1, 10.0, 10.0), (2, 30.0, 10.0), (3, 5.0, 0.0)]
    rows = [row("light", reading, qps, seed=seed, against_qps=other) for seed, qps, other in seeds]
    assert reading_ratios(pd.DataFrame(rows))["light"].tolist() == [2.0]


def test_the_mean_of_a_value_is_over_all_readings_that_have_it() -> None:
    means = option_means(reading_ratios(table()), OPTIONS).set_index(["option", "value"])
    # alpha 0.5: 2 on light; 0 and 1.5 on heavy.
    assert means.loc[("alpha", 0.5), ["light", "heavy", "all"]].tolist() == [2.0, 0.75, 1.375]
    assert means.loc[("growth", True), ["light", "heavy", "all"]].tolist() == [1.5, 1.5, 1.5]


def test_an_option_explains_the_variance_that_its_values_make() -> None:
    # alpha explains all of light and none of heavy, growth the other way round.
    shares = variance_shares(reading_ratios(table()), OPTIONS)
    assert shares.to_dict() == pytest.approx({"alpha": 0.5, "growth": 0.5})
    light = table()[lambda rows: rows["workload"] == "light"]
    assert variance_shares(reading_ratios(light), OPTIONS).to_dict() == {"alpha": 1.0, "growth": 0.0}


def test_where_all_ratios_are_equal_nothing_explains_anything() -> None:
    rows = [row("light", reading, 10.0) for reading in LIGHT]
    assert variance_shares(reading_ratios(pd.DataFrame(rows)), OPTIONS).tolist() == [0.0, 0.0]


def test_a_table_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="readings"):
        reading_options(pd.DataFrame({"qps": [1.0]}))

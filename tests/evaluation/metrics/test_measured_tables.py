from math import inf, isnan

import numpy as np
import pandas as pd
import pytest

from tests.support.measured_tables import FASTER, count_table
from veltair.evaluation.metrics.measured_tables import (
    COUNT_COLUMNS,
    CURVE_COLUMNS,
    MEASURED_COLUMNS,
    RATIO_COLUMNS,
    MeasuredWorkload,
    measured_workloads,
    slot_counts,
)

SHARES = {10.0: 0.15, 20.0: 0.3, 30.0: 0.45, 40.0: 0.6}


def workload(table: pd.DataFrame) -> MeasuredWorkload:
    (found,) = measured_workloads(table, 0.95, np.random.default_rng(1))
    return found


def by_policy(rows: pd.DataFrame) -> dict[str, dict[str, object]]:
    return {row["policy"]: row for row in rows.to_dict("records")}


def test_a_policy_that_falls_on_the_grid_has_a_capacity_with_an_interval() -> None:
    rows = pd.DataFrame(workload(count_table()).capacity_rows(fluid_qps=50.0, seed=1))
    assert list(rows.columns) == list(MEASURED_COLUMNS)
    own = by_policy(rows)["Planaria"]
    assert own["at_least_qps"] == own["at_most_qps"]
    assert 20.0 < own["low_qps"] < own["at_least_qps"] < own["high_qps"] < 30.0  # type: ignore[operator]
    assert (own["rounds"], own["queries"], own["fluid_qps"]) == (5, 500, 50.0)


def test_a_policy_beyond_the_grid_is_bounded_by_its_ends() -> None:
    rows = by_policy(pd.DataFrame(workload(count_table()).capacity_rows(50.0, 1)))
    assert (rows["Bad"]["at_least_qps"], rows["Bad"]["at_most_qps"]) == (0.0, 10.0)
    assert (rows["Good"]["at_least_qps"], rows["Good"]["at_most_qps"]) == (40.0, inf)


def test_the_worst_model_crosses_before_all_queries_together() -> None:
    rows = by_policy(pd.DataFrame(workload(count_table()).capacity_rows(50.0, 1)))
    planaria = rows["Planaria"]
    assert planaria["minimum_at_least_qps"] < planaria["at_least_qps"]  # type: ignore[operator]


def test_ratios_are_paired_by_round() -> None:
    rows = pd.DataFrame(workload(count_table()).ratio_rows())
    assert list(rows.columns) == list(RATIO_COLUMNS)
    assert set(rows["reference"]) == {"Planaria"}
    found = by_policy(rows)
    # Rounds differ far more than the policies do within one.
    faster = found["Faster"]
    assert faster["at_least"] == faster["at_most"] == pytest.approx(FASTER, rel=0.05)
    own = by_policy(pd.DataFrame(workload(count_table()).capacity_rows(50.0, 1)))["Planaria"]
    spread = own["high_qps"] / own["low_qps"]  # type: ignore[operator]
    assert faster["high"] / faster["low"] < spread  # type: ignore[operator]
    assert (found["Bad"]["at_least"], found["Good"]["at_most"]) == (0.0, inf)
    assert (found["Planaria"]["low"], found["Planaria"]["high"]) == (1.0, 1.0)


def test_one_round_gives_numbers_without_intervals() -> None:
    one = count_table()
    rows = by_policy(pd.DataFrame(workload(one[one["round"] == 0]).capacity_rows(50.0, 1)))
    assert isnan(rows["Planaria"]["low_qps"])  # type: ignore[arg-type]


def test_a_curve_has_a_row_a_policy_and_rate_with_its_band() -> None:
    rows = pd.DataFrame(workload(count_table()).curve_rows(SHARES, seed=4))
    assert list(rows.columns) == list(CURVE_COLUMNS)
    own = rows[rows["policy"] == "Planaria"]
    assert own["qps"].tolist() == [10.0, 20.0, 30.0, 40.0]
    assert own["share"].tolist() == [0.15, 0.3, 0.45, 0.6]
    assert (own["low"] <= own["fitted"]).all()
    assert (own["fitted"] <= own["high"]).all()
    assert own["fitted"].is_monotonic_decreasing
    assert (own["queries"] == 500).all()


def test_each_workload_is_resampled_by_its_own_rounds() -> None:
    light = count_table().assign(workload="light")
    found = measured_workloads(pd.concat([count_table(), light]), 0.95, np.random.default_rng(1))
    assert [one.scenario["workload"] for one in found] == ["mix", "light"]


def test_queries_are_counted_by_round_rate_and_model_and_warm_up_is_not() -> None:
    records = pd.DataFrame(
        [
            ("A", 10.0, 7, "small", True, True),
            ("A", 10.0, 7, "small", True, False),
            ("A", 10.0, 7, "large", True, True),
            ("A", 10.0, 7, "small", False, True),
            ("A", 10.0, 8, "small", True, True),
            ("A", 20.0, 9, "small", True, True),
        ],
        columns=["policy", "qps", "seed", "tenant", "counted", "on_time"],
    ).assign(backend="engine", machine="box", validated=True, workload="mix")
    slots = pd.DataFrame(
        [(0, 0.15, 10.0, 7, True), (1, 0.15, 10.0, 8, True), (0, 0.3, 20.0, 9, False)],
        columns=["round", "share", "qps", "seed", "kept"],
    ).assign(workload="mix")
    found = slot_counts(records, slots)
    assert list(found.columns) == list(COUNT_COLUMNS)
    assert found[["round", "share", "qps", "tenant", "counted", "on_time"]].to_numpy().tolist() == [
        [0, 0.15, 10.0, "small", 2, 1],
        [0, 0.15, 10.0, "large", 1, 1],
        [1, 0.15, 10.0, "small", 1, 1],
    ]

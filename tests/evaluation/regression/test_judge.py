from math import nan

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from veltair.evaluation.regression.judge import (
    LEAST_PAIRS,
    Better,
    Change,
    ChangeKind,
    Quantity,
    better_of,
    compare_exactly,
    judge,
)

LATENCY = Quantity("box, mix, Planaria", "latency_mean_s", "lower")
QPS = Quantity("box, mix, Planaria", "qps_at_95", "higher")
TRIALS = 200


def changed(before: list[float], after: list[float], quantity: Quantity = LATENCY) -> Change:
    (found,) = judge({quantity: (before, after)})
    return found


def noisy_pairs(
    random: np.random.Generator, pairs: int, noise: float, slower: float = 1.0, drift: float = 0.0
) -> tuple[list[float], list[float]]:
    """Return latencies of pairs of runs; the machine's drift moves both runs of a pair alike."""
    machine = random.uniform(1 - drift, 1 + drift, pairs) if drift else np.ones(pairs)

    def side(factor: float) -> NDArray[np.float64]:
        return factor * machine * np.exp(noise * random.standard_normal(pairs))

    return side(1.0).tolist(), side(slower).tolist()


def alarm_rate(pairs: int, noise: float, slower: float = 1.0, drift: float = 0.0) -> float:
    """Return the share of trials with an alarm, with fixed seeds."""
    random = np.random.default_rng([pairs, round(1e4 * noise), round(1e4 * slower), round(1e4 * drift)])
    found = [changed(*noisy_pairs(random, pairs, noise, slower, drift)) for _ in range(TRIALS)]
    return sum(change.alarm for change in found) / TRIALS


@pytest.mark.parametrize(("pairs", "noise"), [(6, 0.01), (12, 0.02)])
def test_a_planted_slow_down_of_5_percent_is_found(pairs: int, noise: float) -> None:
    assert alarm_rate(pairs, noise, slower=1.05) >= 0.95


@pytest.mark.parametrize(("pairs", "noise", "most"), [(6, 0.01, 0.01), (6, 0.02, 0.05), (12, 0.04, 0.05)])
def test_noise_alone_raises_hardly_an_alarm(pairs: int, noise: float, most: float) -> None:
    assert alarm_rate(pairs, noise) <= most


def test_a_drift_of_the_machine_that_both_runs_of_a_pair_share_is_no_alarm() -> None:
    assert alarm_rate(6, 0.01, drift=0.1) <= 0.01


def test_a_slow_down_is_found_through_a_drift_of_the_machine() -> None:
    assert alarm_rate(6, 0.01, slower=1.05, drift=0.1) >= 0.95


def test_a_slow_down_below_3_percent_is_no_alarm_however_sure_it_is() -> None:
    assert changed([1.0] * 8, [1.03] * 8).outcome is ChangeKind.NO_CHANGE


@pytest.mark.parametrize(
    ("better", "factor", "outcome"),
    [
        ("lower", 1.05, ChangeKind.REGRESSION),
        ("lower", 0.95, ChangeKind.IMPROVEMENT),
        ("higher", 0.95, ChangeKind.REGRESSION),
        ("higher", 1.05, ChangeKind.IMPROVEMENT),
        ("neither", 1.05, ChangeKind.CHANGED),
    ],
)
def test_which_direction_is_worse_is_the_quantity_s(
    better: Better, factor: float, outcome: ChangeKind
) -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    found = changed(values, [factor * value for value in values], Quantity("box", "x", better))
    assert found.outcome is outcome


def test_an_interval_that_holds_1_is_no_alarm_however_large_the_change() -> None:
    found = changed([1.0] * 6, [0.5, 0.6, 1.2, 1.3, 1.4, 1.5])
    assert found.ratio == pytest.approx(1.25)
    assert found.low < 1 < found.high
    assert found.outcome is ChangeKind.NO_CHANGE


def test_the_ratio_is_the_median_of_the_pairs_not_that_of_the_medians() -> None:
    found = changed([1, 2, 4, 8, 16, 32], [2, 4, 8, 16, 32, 64])
    assert (found.ratio, found.low, found.high) == (2.0, 2.0, 2.0)


def test_five_pairs_are_not_judged_and_six_are() -> None:
    few, enough = ([1.0] * count for count in (LEAST_PAIRS - 1, LEAST_PAIRS))
    assert changed(few, [2.0] * len(few)).outcome is ChangeKind.NOT_JUDGED
    assert changed(enough, [2.0] * len(enough)).outcome is ChangeKind.REGRESSION


def test_runs_that_were_not_made_in_turns_are_not_judged() -> None:
    (found,) = judge({LATENCY: ([1.0] * 6, [2.0] * 6)}, interleaved=False)
    assert found.outcome is ChangeKind.NOT_JUDGED
    assert "in turns" in found.reason


def test_pairs_without_a_ratio_are_left_out() -> None:
    found = changed([1.0] * 6 + [0.0, nan], [2.0] * 6 + [1.0, 1.0])
    assert (found.pairs, found.outcome) == (6, ChangeKind.REGRESSION)


def test_a_policy_that_serves_nothing_any_more_is_a_regression() -> None:
    assert changed([5.0] * 6, [0.0] * 6, QPS).outcome is ChangeKind.REGRESSION


def test_nothing_but_pairs_without_a_ratio_is_not_judged() -> None:
    assert changed([0.0] * 6, [1.0] * 6).outcome is ChangeKind.NOT_JUDGED


def test_unlike_numbers_of_values_are_refused() -> None:
    with pytest.raises(ValueError, match="3 values before and 2 after"):
        changed([1.0, 1.0, 1.0], [1.0, 1.0])


def test_intervals_are_wider_the_more_quantities_are_judged_together() -> None:
    random = np.random.default_rng(1)
    before, after = noisy_pairs(random, 20, 0.05)
    alone = changed(before, after)
    many = judge({Quantity("box", str(number), "lower"): (before, after) for number in range(40)})
    assert many[0].high - many[0].low > alone.high - alone.low


@settings(max_examples=25)  # each bootstraps
@given(st.lists(st.floats(0.5, 2.0), min_size=6, max_size=10))
def test_equal_runs_are_never_an_alarm(values: list[float]) -> None:
    assert not changed(values, values).alarm


@settings(max_examples=25)  # each bootstraps
@given(st.lists(st.floats(0.5, 2.0), min_size=6, max_size=8), st.floats(0.1, 10.0))
def test_the_unit_of_a_quantity_does_not_matter(after: list[float], unit: float) -> None:
    before = [1.0] * len(after)
    one = changed(before, after)
    other = changed([unit * value for value in before], [unit * value for value in after])
    assert one.ratio == pytest.approx(other.ratio)


def simulated(qps: str = "417.2", policy: str = "Planaria") -> pd.DataFrame:
    row = {"backend": "simulator", "machine": "box", "workload": "mix", "policy": policy, "qps_at_95": qps}
    return pd.DataFrame([row, {**row, "policy": "Other", "qps_at_95": "1.0"}])


def test_simulated_tables_that_are_equal_are_told_equal_by_policy() -> None:
    found = compare_exactly("capacity.csv", simulated(), simulated())
    assert [change.outcome for change in found] == [ChangeKind.EQUAL, ChangeKind.EQUAL]


def test_the_last_digit_of_a_simulated_result_that_differs_is_an_alarm_of_its_policy() -> None:
    found = compare_exactly("capacity.csv", simulated("417.2"), simulated("417.20000000000005"))
    assert [change.outcome for change in found] == [ChangeKind.DIFFERS, ChangeKind.EQUAL]
    assert "qps_at_95 was 417.2, is 417.20000000000005" in found[0].reason
    assert found[0].alarm


def test_a_policy_that_only_one_table_has_differs() -> None:
    found = compare_exactly("capacity.csv", simulated(), simulated(policy="New"))
    reasons = {change.quantity.subject.rpartition(" ")[2]: change.reason for change in found}
    assert reasons["Planaria"] == "1 rows before, 0 after"
    assert reasons["New"] == "0 rows before, 1 after"


def test_a_column_that_only_one_table_has_differs_and_is_named() -> None:
    (found,) = compare_exactly("capacity.csv", simulated(), simulated().assign(extra="1"))
    assert found.alarm
    assert "extra" in found.reason


@pytest.mark.parametrize(
    ("name", "unit", "better"),
    [
        ("events_per_s_Planaria", "layer ends/s", "higher"),
        ("event_us_Planaria", "µs/event", "lower"),
        ("import_s", "s, longest of models", "lower"),
        ("oracle_error_net", "relative error", "lower"),
        ("kernel_ratio_one_geomean", "ONNX Runtime ÷ ours", "higher"),
        ("vs_simpy", "times", "higher"),
        ("growth_1024", "times", "lower"),
        ("million_queries_rss_mb", "MB", "lower"),
        ("ratio_self_one", "ours ÷ ours, median of rounds", "neither"),
    ],
)
def test_which_direction_of_a_benchmark_is_better(name: str, unit: str, better: Better) -> None:
    assert better_of(name, unit) == better

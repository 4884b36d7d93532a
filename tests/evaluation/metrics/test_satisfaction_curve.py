from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.evaluation.metrics.bounds import Bounds
from veltair.evaluation.metrics.satisfaction_curve import crossing, non_rising

QPS = np.array([10.0, 20.0, 30.0])
SHARES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8)


def test_a_curve_that_rises_becomes_the_mean_of_what_rises_weighted_by_queries() -> None:
    # 0.90 of 100 queries, then 0.96 of 200: together 0.94.
    fitted = non_rising(np.array([1.0, 0.90, 0.96, 0.5]), np.array([50.0, 100.0, 200.0, 10.0]))
    assert fitted.tolist() == pytest.approx([1.0, 0.94, 0.94, 0.5])


def test_a_run_that_pulls_what_is_before_it_below_is_merged_with_that_too() -> None:
    # 0.9 and 1.0 become 0.95, which is above 0.94; that one and 0.98 become 0.96: all four 0.955.
    fitted = non_rising(np.array([0.9, 1.0, 0.94, 0.98]), np.ones(4))
    assert fitted.tolist() == pytest.approx([0.955] * 4)


def test_a_curve_that_does_not_rise_stays_as_it_is() -> None:
    shares = np.array([1.0, 0.97, 0.97, 0.2])
    fitted = non_rising(shares, np.array([3.0, 1.0, 2.0, 9.0]))
    assert fitted.tolist() == pytest.approx(shares.tolist())


@given(SHARES)
def test_a_fitted_curve_never_rises_and_keeps_the_mean(shares: list[float]) -> None:
    fitted = non_rising(np.array(shares), np.ones(len(shares)))
    assert (np.diff(fitted) <= 1e-12).all()
    assert fitted.mean() == pytest.approx(np.mean(shares))


def test_the_crossing_lies_on_the_line_between_two_rates() -> None:
    # From 0.99 at 10 to 0.91 at 20 the target lies halfway.
    found = crossing(QPS, np.array([0.99, 0.91, 0.5]), 0.95)
    assert found.at_least == found.at_most == pytest.approx(15.0)


def test_a_rate_that_just_meets_the_target_is_the_crossing() -> None:
    assert crossing(QPS, np.array([1.0, 0.95, 0.0]), 0.95) == Bounds(20.0, 20.0)


def test_the_last_bit_of_a_mean_decides_nothing() -> None:
    assert crossing(QPS, np.array([1.0, 0.95 - 1e-16, 0.0]), 0.95) == Bounds(20.0, 20.0)


def test_a_curve_that_meets_the_target_nowhere_is_crossed_below_the_lowest_rate() -> None:
    assert crossing(QPS, np.array([0.94, 0.9, 0.9]), 0.95) == Bounds(0.0, 10.0)


def test_a_curve_that_meets_the_target_everywhere_is_crossed_above_the_highest_rate() -> None:
    assert crossing(QPS, np.array([1.0, 1.0, 0.95]), 0.95) == Bounds(30.0, inf)


@given(SHARES, st.floats(0.01, 1.0))
def test_the_crossing_lies_between_a_rate_that_meets_the_target_and_one_that_misses(
    shares: list[float], target: float
) -> None:
    curve = np.array(sorted(shares, reverse=True))
    qps = np.arange(1.0, 1.0 + len(curve))
    found = crossing(qps, curve, target)
    assert (curve[qps < found.at_least - 1e-9] >= target - 1e-9).all()
    assert (curve[qps > found.at_most + 1e-9] < target).all()


@pytest.mark.parametrize("qps", [[], [1.0], [2.0, 1.0], [1.0, 1.0]])
def test_rates_that_do_not_ascend_are_refused(qps: list[float]) -> None:
    with pytest.raises(ValueError, match="give ascending ones"):
        crossing(np.array(qps), np.array([1.0, 0.9]), 0.95)

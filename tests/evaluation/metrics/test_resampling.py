from math import inf, isnan

import numpy as np
import pytest

from veltair.evaluation.metrics.bounds import Bounds
from veltair.evaluation.metrics.resampling import Resampled, best, resamples, share_interval


def known(*values: float, found: float = 1.0, rounds: int = 3) -> Resampled:
    """Return a number that is known in all resamples."""
    array = np.array(values)
    return Resampled(Bounds(found, found), array, array, rounds)


def test_a_resample_draws_as_many_rounds_as_there_are() -> None:
    times = resamples(4, np.random.default_rng(1), count=50)
    assert times.shape == (50, 4)
    assert (times.sum(axis=1) == 4).all()
    assert len({tuple(row) for row in times}) > 10


def test_equal_seeds_draw_equal_resamples() -> None:
    one, other = (resamples(5, np.random.default_rng(7)) for _ in range(2))
    assert (one == other).all()


def test_a_quotient_is_taken_resample_by_resample() -> None:
    # What a round does to both cancels: the numbers vary by half, their quotient not at all.
    quotient = known(4.0, 6.0, 8.0, found=6.0).over(known(2.0, 3.0, 4.0, found=3.0)).estimate
    assert quotient.found == Bounds(2.0, 2.0)
    assert (quotient.low, quotient.high) == (2.0, 2.0)


def test_a_quotient_by_what_may_be_nothing_has_no_upper_end() -> None:
    below = Resampled(Bounds(2.0, 2.0), np.array([0.0, 2.0]), np.array([1.0, 2.0]), 2)
    quotient = known(4.0, 4.0, found=4.0, rounds=2).over(below)
    assert quotient.at_least.tolist() == [4.0, 2.0]
    assert quotient.at_most.tolist() == [inf, 2.0]


def test_a_quotient_by_what_may_be_above_all_has_no_lower_end_but_0() -> None:
    above = Resampled(Bounds(2.0, 2.0), np.array([8.0, 2.0]), np.array([inf, 2.0]), 2)
    quotient = known(4.0, 4.0, found=4.0, rounds=2).over(above)
    assert quotient.at_least.tolist() == [0.0, 2.0]
    assert quotient.at_most.tolist() == [0.5, 2.0]


def test_one_round_has_no_interval() -> None:
    one = known(3.0, 3.0, found=3.0, rounds=1).estimate
    assert one.found == Bounds(3.0, 3.0)
    assert isnan(one.low)
    assert isnan(one.high)


def test_an_interval_reaches_to_what_bounds_the_lowest_and_the_highest_resample() -> None:
    # A hundredth of the resamples lies below the grid and another above it, and three rounds are few.
    at_least = np.array([0.0] * 10 + [7.0] * 980 + [9.0] * 10)
    at_most = np.array([5.0] * 10 + [7.0] * 980 + [inf] * 10)
    found = Resampled(Bounds(7.0, 7.0), at_least, at_most, 3).estimate
    assert (found.low, found.high) == (0.0, inf)


@pytest.mark.parametrize(("rounds", "low", "high"), [(4, 0.0, 1000.0), (8, 4.0, 995.0), (1000, 24.0, 975.0)])
def test_an_interval_of_few_rounds_is_taken_further_out(rounds: int, low: float, high: float) -> None:
    # Of 0, 1, ... 1000. By Student: the tail of 8 rounds is that of sqrt(8 / 7) x 2.365 = 2.528 deviations,
    # 0.57 %; of 4 that of 3.67, 0.012 %; of 1000 it is nearly 2.5 %.
    found = known(*range(1001), found=500.0, rounds=rounds).estimate
    assert found.low == pytest.approx(low, abs=1.0)
    assert found.high == pytest.approx(high, abs=1.0)


def test_the_interval_over_rounds_holds_the_truth_about_as_often_as_it_says() -> None:
    generator, truth, held = np.random.default_rng(3), 10.0, 0
    for _ in range(300):
        rounds = truth + generator.standard_normal(5)
        means = resamples(5, generator, count=400) @ rounds / 5
        found = known(*means, found=float(rounds.mean()), rounds=5).estimate
        held += found.low <= truth <= found.high
    # Plain percentiles of five values hold it in about 83 % of the trials.
    assert 0.90 <= held / 300 <= 0.99


def test_the_best_of_several_is_the_largest_in_each_resample() -> None:
    top = best([known(1.0, 5.0, found=3.0), known(4.0, 2.0, found=2.5)])
    assert top.found == Bounds(3.0, 3.0)
    assert top.at_least.tolist() == top.at_most.tolist() == [4.0, 5.0]


def test_the_best_may_be_one_that_is_above_all_rates() -> None:
    above = Resampled(Bounds(9.0, inf), np.array([0.0, 9.0]), np.array([1.0, inf]), 3)
    top = best([known(5.0, 5.0, found=5.0), above])
    assert top.found == Bounds(9.0, inf)
    assert (top.at_least.tolist(), top.at_most.tolist()) == ([5.0, 9.0], [5.0, inf])


def test_each_of_several_shares_has_an_interval_of_its_own() -> None:
    low, high = share_interval(np.array([[0.9, 0.5], [1.0, 0.4]]), rounds=2)
    assert (low.tolist(), high.tolist()) == ([0.9, 0.4], [1.0, 0.5])

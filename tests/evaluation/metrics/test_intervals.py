import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.evaluation.metrics.intervals import Interval, mean_interval, paired_ratio


def test_the_interval_of_three_values_is_students() -> None:
    # Mean 2, standard deviation 1, t of 2 degrees of freedom 4.3027: 4.3027 / sqrt(3) = 2.4841.
    found = mean_interval([1.0, 2.0, 3.0])
    assert (found.mean, found.count) == (2.0, 3)
    assert (found.low, found.high) == (pytest.approx(-0.4841, abs=1e-4), pytest.approx(4.4841, abs=1e-4))


def test_one_value_has_a_mean_and_no_interval() -> None:
    found = mean_interval([7.0])
    assert found.mean == 7.0 and math.isnan(found.low) and math.isnan(found.high)


def test_no_value_has_neither() -> None:
    found = mean_interval([])
    assert found.count == 0 and math.isnan(found.mean)


def test_a_seed_without_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="leave out seeds"):
        mean_interval([1.0, math.nan])


def test_equal_gains_with_every_seed_have_a_sure_ratio_however_much_the_seeds_differ() -> None:
    found = paired_ratio({1: 20.0, 2: 2.0, 3: 200.0}, {1: 10.0, 2: 1.0, 3: 100.0})
    assert (found.mean, found.low, found.high) == (2.0, 2.0, 2.0)


def test_only_seeds_of_both_sides_are_compared() -> None:
    found = paired_ratio({1: 4.0, 2: 9.0, 3: 1.0, 5: 1.0}, {1: 2.0, 2: 3.0, 4: 1.0, 5: 0.0})
    assert (found.mean, found.count) == (2.5, 2)


def test_an_interval_that_does_not_hold_its_mean_is_refused() -> None:
    with pytest.raises(ValueError, match="low <= mean <= high"):
        Interval(1.0, 2.0, 3.0, 2)


@given(st.lists(st.floats(0.1, 1e6), min_size=2, max_size=20), st.floats(0.1, 100))
def test_an_interval_scales_with_its_values(values: list[float], factor: float) -> None:
    once, scaled = mean_interval(values), mean_interval(factor * value for value in values)
    assert scaled.high - scaled.low == pytest.approx(factor * (once.high - once.low), rel=1e-6, abs=1e-6)

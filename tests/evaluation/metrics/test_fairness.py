import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.evaluation.metrics.fairness import antt, jain_index, minimum_satisfaction, stp

SHARES = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=12)
TURNAROUNDS = st.lists(st.floats(1.0, 1e3), min_size=1, max_size=12)


def test_the_worst_tenant_is_the_first_of_those_with_the_least_share() -> None:
    assert minimum_satisfaction([0.9, 0.5, 0.5]) == (1, 0.5)


def test_nobody_fares_worst_where_nobody_is_counted() -> None:
    with pytest.raises(ValueError, match="no tenant has a counted query"):
        minimum_satisfaction([])


def test_jains_index_by_hand() -> None:
    assert jain_index([0.5, 0.5, 0.5]) == pytest.approx(1)
    assert jain_index([1.0, 0, 0, 0]) == pytest.approx(1 / 4)
    # (1 + 0.5)^2 / (2 x (1 + 0.25)) = 2.25 / 2.5
    assert jain_index([1.0, 0.5]) == pytest.approx(0.9)
    assert math.isnan(jain_index(np.zeros(3))) and math.isnan(jain_index([]))


def test_antt_and_stp_by_hand() -> None:
    # One tenant twice as slow as alone, another four times: 3 on average, 1/2 + 1/4 of a machine's progress.
    assert antt([2.0, 4.0]) == 3.0
    assert stp([2.0, 4.0]) == 0.75


def test_a_tenant_that_was_never_served_adds_no_progress_and_no_latency() -> None:
    assert (antt([2.0, math.nan]), stp([2.0, math.nan])) == (2.0, 0.5)
    assert math.isnan(antt([math.nan])) and stp([math.nan]) == 0.0


@given(SHARES, st.floats(0.1, 10.0), st.randoms(use_true_random=False))
def test_jains_index_lies_between_a_favourite_and_equals_in_any_unit_and_order(shares, unit, rng) -> None:
    found = jain_index(shares)
    assert 1 / len(shares) - 1e-9 <= found <= 1 + 1e-9
    shuffled = [unit * share for share in rng.sample(shares, len(shares))]
    assert jain_index(shuffled) == pytest.approx(found)
    assert jain_index([shares[0]] * len(shares)) == pytest.approx(1)


@given(SHARES)
def test_taking_from_the_worst_makes_it_no_more_even(shares) -> None:
    worst, least = minimum_satisfaction(shares)
    robbed = [*shares[:worst], least / 2, *shares[worst + 1 :]]
    assert jain_index(robbed) <= jain_index(shares) + 1e-9
    assert least <= sum(shares) / len(shares) + 1e-9


@given(TURNAROUNDS)
def test_progress_is_at_most_one_a_tenant_and_at_least_what_antt_allows(turnarounds) -> None:
    # The harmonic mean of turnarounds is at most their arithmetic one, so STP >= n / ANTT.
    count = len(turnarounds)
    assert count / antt(turnarounds) <= stp(turnarounds) * (1 + 1e-9)
    assert stp(turnarounds) <= count and antt(turnarounds) >= 1

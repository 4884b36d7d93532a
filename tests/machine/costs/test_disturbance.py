import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.machine.costs.disturbance import (
    AWAY,
    AWAY_LIMIT,
    UNWATCHED_LIMIT,
    away_shares,
    disturbance_note,
    disturbed,
    noise_factors,
)

NAN = float("nan")


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_a_watched_repeat_is_disturbed_if_it_lost_more_than_a_twentieth_of_its_core() -> None:
    # The second is slow without having lost its core: that is the layer's own noise.
    factors, away = array(1.0, 9.0, 1.1, 1.2), array(0.0, 0.05, 0.06, 1.0)
    assert disturbed(factors, away).tolist() == [False, False, True, True]


def test_of_repeats_that_nobody_watched_those_over_one_and_a_half_medians_are_taken_for_disturbed() -> None:
    factors = array(0.5, 1.0, 1.5, 1.6, 97.0)
    assert disturbed(factors, np.full(5, NAN)).tolist() == [False, False, False, True, True]


def test_watched_and_unwatched_repeats_may_stand_in_one_table() -> None:
    assert disturbed(array(2.0, 2.0, 1.0), array(NAN, 0.0, 0.5)).tolist() == [True, False, True]


def test_where_every_repeat_lost_its_core_they_are_judged_as_if_nobody_had_watched() -> None:
    assert disturbed(array(1.0, 3.0, 0.9), array(0.1, 0.2, 0.3)).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("kept", "expected"), [("all", [1.0, 9.0, 0.9]), ("undisturbed", [1.0, 0.9]), ("none", [1.0])]
)
def test_noise_is_of_the_repeats_that_are_kept(kept, expected) -> None:
    assert noise_factors(array(1.0, 9.0, 0.9), array(0.0, 0.3, 0.0), kept).tolist() == expected


@given(
    pairs=st.lists(
        st.tuples(st.floats(0.1, 100.0), st.one_of(st.just(NAN), st.floats(0.0, 1.0))),
        min_size=1,
        max_size=12,
    )
)
def test_the_least_repeat_of_a_cell_is_left_whatever_happened_or_one_that_was_undisturbed(pairs) -> None:
    factors, away = (array(*values) for values in zip(*pairs, strict=True))
    factors = factors / np.median(factors)
    left = noise_factors(factors, away, "undisturbed")
    assert 1 <= len(left) <= len(factors)
    watched = factors[~np.isnan(away) & (away <= AWAY_LIMIT)]
    assert set(watched) <= set(left)
    if np.isnan(away).all():
        assert left.max() <= UNWATCHED_LIMIT


def test_tables_of_an_earlier_program_are_unmarked_and_said_to_be() -> None:
    repeats = pd.DataFrame({"seconds": [1.0, 2.0]})
    assert np.isnan(away_shares(repeats)).all()
    assert "unmarked" in disturbance_note(repeats)


def test_the_note_says_what_part_of_the_watched_repeats_was_disturbed() -> None:
    repeats = pd.DataFrame({AWAY: [0.0, 0.2, 0.0, NAN, 0.0]})
    assert disturbance_note(repeats).startswith("25.0% of its repeats")


@pytest.mark.parametrize("away", [-0.1, 1.1])
def test_what_is_no_share_is_refused(away) -> None:
    with pytest.raises(ValueError, match=r"shares lie in \[0, 1\]"):
        away_shares(pd.DataFrame({AWAY: [0.0, away]}))

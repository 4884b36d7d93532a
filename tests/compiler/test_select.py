from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.compiler.select import Selection, pareto_front, select
from veltair.compiler.tiling import Tiling
from veltair.compiler.version import Candidate


def candidate(index: int, parallelism: int, blocking_bytes: int, seconds: float | None) -> Candidate:
    """Return a candidate that took `seconds`, or did not run."""
    times = () if seconds is None else (seconds,)
    return Candidate("conv", index, Tiling(parallelism, blocking_bytes, 10**6), times, None)


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    """Draw candidates of few distinct values, so that ties happen; at least one of them ran."""
    values = st.tuples(
        st.sampled_from([1, 2, 4, 8, 16, 32]),
        st.sampled_from([0, 1, 10, 100, 1000, 10_000]),
        st.sampled_from([None, 1.0, 1.1, 1.3, 1.5, 2.0]),
    )
    drawn = draw(st.lists(values, min_size=1, max_size=30))
    ran = (draw(st.sampled_from([1, 4])), draw(st.sampled_from([1, 100])), draw(st.sampled_from([1.0, 1.2])))
    return [candidate(index, *value) for index, value in enumerate([*drawn, ran])]


SELECTIONS = st.builds(Selection, st.sampled_from([1.0, 1.2, 1.5, 3.0]), st.integers(1, 8))


def dominates(one: Candidate, other: Candidate) -> bool:
    a, b = one.tiling, other.tiling
    at_least = a.parallelism >= b.parallelism and a.blocking_bytes >= b.blocking_bytes
    return at_least and (a.parallelism, a.blocking_bytes) != (b.parallelism, b.blocking_bytes)


@given(candidates(), SELECTIONS)
def test_some_are_chosen_and_never_more_than_asked_for(found: list[Candidate], selection: Selection) -> None:
    chosen = select(found, selection)
    assert 1 <= len(chosen) <= selection.count
    assert len({one.index for one in chosen}) == len(chosen)


@given(candidates(), SELECTIONS)
def test_the_fastest_is_always_chosen(found: list[Candidate], selection: Selection) -> None:
    least = min(one.median_seconds for one in found)
    assert least in [one.median_seconds for one in select(found, selection)]


@given(candidates(), SELECTIONS)
def test_all_chosen_are_within_the_slack(found: list[Candidate], selection: Selection) -> None:
    least = min(one.median_seconds for one in found)
    assert all(one.median_seconds <= selection.slack * least for one in select(found, selection))


@given(candidates(), SELECTIONS)
def test_none_but_the_fastest_is_beaten_in_both_metrics(found: list[Candidate], selection: Selection) -> None:
    least = min(one.median_seconds for one in found)
    kept = [one for one in found if one.median_seconds <= selection.slack * least]
    for one in select(found, selection):
        assert one.median_seconds == least or not any(dominates(other, one) for other in kept)


@given(candidates(), SELECTIONS)
def test_the_most_local_comes_first(found: list[Candidate], selection: Selection) -> None:
    blocking = [one.tiling.blocking_bytes for one in select(found, selection)]
    assert blocking == sorted(blocking, reverse=True)


@given(candidates(), SELECTIONS, st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_does_not_matter(
    found: list[Candidate], selection: Selection, random: Random
) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)
    assert select(shuffled, selection) == select(found, selection)


@given(candidates(), SELECTIONS)
def test_a_front_that_fits_is_chosen_whole(found: list[Candidate], selection: Selection) -> None:
    least = min(one.median_seconds for one in found)
    front = pareto_front([one for one in found if one.median_seconds <= selection.slack * least])
    if len(front) < selection.count:
        assert set(map(index_of, front)) <= set(map(index_of, select(found, selection)))


def index_of(one: Candidate) -> int:
    return one.index


# A front of 7 whose blocking bytes are 1000 e^-k for k = 0, 1, 2, 2.9, 4, 5, 6, rounded: parallelism grows
# as blocking shrinks. All take 1.0 s but number 3, the fastest.
FRONT = [
    candidate(0, 1, 1000, 1.0),
    candidate(1, 2, 368, 1.0),
    candidate(2, 4, 135, 1.0),
    candidate(3, 8, 55, 0.9),
    candidate(4, 16, 18, 1.0),
    candidate(5, 32, 7, 1.0),
    candidate(6, 64, 2, 1.0),
]


def numbers(selection: Selection, found: list[Candidate] = FRONT) -> list[int]:
    return [one.index for one in select(found, selection)]


def test_five_of_a_front_of_seven_are_evenly_spaced_in_the_logarithm_of_blocking() -> None:
    # ln 1000 = 6.91 and ln 2 = 0.69, so wanted between are 5.35, 3.80 and 2.25. ln of the others: 368: 5.91,
    # 135: 4.91, 55: 4.01, 18: 2.89, 7: 1.95. 5.35 is nearest to 4.91 (0.44; 5.91 is 0.56 away), 3.80 to 4.01,
    # and 2.25 to 1.95 (0.30; 2.89 is 0.64 away).
    assert numbers(Selection(1.5, 5)) == [0, 2, 3, 5, 6]


def test_of_two_both_ends_are_chosen_and_the_fastest_replaces_the_nearer() -> None:
    # ln 55 = 4.01 is 2.90 below ln 1000 and 3.32 above ln 2.
    assert numbers(Selection(1.5, 2)) == [3, 6]


def test_of_three_the_ends_stay() -> None:
    # Wanted is 3.80: the fastest itself, 4.01.
    assert numbers(Selection(1.5, 3)) == [0, 3, 6]


def test_the_fastest_outside_the_front_replaces_the_nearest_between_the_ends() -> None:
    # Number 7 is beaten by 2 in both metrics, but is the fastest. Its ln 130 = 4.87 is nearest to 135.
    found = [*FRONT, candidate(7, 3, 130, 0.8)]
    assert numbers(Selection(1.5, 5), found) == [0, 7, 3, 5, 6]


def test_the_fastest_does_not_replace_an_end_though_it_is_nearest() -> None:
    # ln 990 is nearest to the end of 1000, but of those between to 135.
    found = [*FRONT, candidate(7, 1, 990, 0.8)]
    assert numbers(Selection(1.5, 5), found) == [0, 7, 3, 5, 6]


def test_one_version_is_the_fastest() -> None:
    assert numbers(Selection(1.5, 1)) == [3]


def test_one_version_is_the_fastest_also_outside_the_front() -> None:
    assert numbers(Selection(1.5, 1), [*FRONT, candidate(7, 1, 1, 0.8)]) == [7]


def test_a_slack_of_one_leaves_only_those_as_fast_as_the_fastest() -> None:
    assert numbers(Selection(1.0, 5)) == [3]


def test_a_larger_count_than_there_are_gives_all() -> None:
    assert numbers(Selection(1.5, 8)) == [0, 1, 2, 3, 4, 5, 6]


def test_of_candidates_with_equal_metrics_the_faster_is_on_the_front() -> None:
    assert [one.index for one in pareto_front([candidate(0, 4, 10, 2.0), candidate(1, 4, 10, 1.0)])] == [1]


def test_candidates_that_did_not_run_are_never_chosen() -> None:
    assert numbers(Selection(3.0, 5), [candidate(0, 64, 10**6, None), candidate(1, 1, 1, 1.0)]) == [1]


def test_if_none_ran_the_structure_is_named() -> None:
    with pytest.raises(ValueError, match=r"no candidate of conv ran; .*`search\.trials`"):
        select([candidate(0, 1, 1, None)], Selection(1.5, 5))


def test_no_candidates_at_all_are_an_error_too() -> None:
    with pytest.raises(ValueError, match="no candidate of a layer ran"):
        select([], Selection(1.5, 5))


@pytest.mark.parametrize(("slack", "count"), [(0.9, 5), (float("nan"), 5), (1.5, 0)])
def test_a_selection_out_of_range_is_refused(slack: float, count: int) -> None:
    with pytest.raises(ValueError, match=r"select\.(slack|count) is"):
        Selection(slack, count)


def test_an_infinite_slack_keeps_all() -> None:
    assert len(numbers(Selection(inf, 8))) == 7

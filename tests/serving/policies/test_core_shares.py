import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.serving.policies.core_shares import ShareTables, apportion, core_shares

COUNTS = tuple(range(1, 17))


def shares(tasks, counts=COUNTS, cores=16, best=None):
    """Return the shares of tasks given as (work in core-ms, slack in ms) with linear speed-up."""
    rows = [tuple(work / count for count in counts) for work, _ in tasks]
    best_cores = [counts[-1]] * len(tasks) if best is None else best
    given_cores, _ = core_shares([slack for _, slack in tasks], rows, best_cores, counts, cores)
    return given_cores


def test_if_all_needs_fit_the_spare_goes_by_urgency():
    # Needs 40/10 = 4 and 60/10 = 6; both then take 10 ms, so the spare 6 is split 3 and 3.
    assert shares([(40, 10), (60, 10)]) == [7, 9]


def test_if_needs_do_not_fit_the_most_urgent_is_served_first_and_the_doomed_get_nothing():
    # Needs 10, 8 and none (30 > 16). Urgency 1/(10 x 10) and 1/(5 x 8): the second gets 8, the first what
    # is left.
    assert shares([(100, 10), (40, 5), (30, 1)]) == [8, 8, 0]


def test_a_small_need_makes_a_query_urgent_as_a_small_slack_does():
    # Needs 10, 2 and 8. Slack x need 100, 24 and 72: the second, the third, then what is left for the first.
    assert shares([(100, 10), (24, 12), (72, 9)]) == [6, 2, 8]


def test_if_all_are_doomed_they_share_by_the_time_left():
    # On 16 cores 20 and 10 ms are left: weights 1/20 and 1/10 of 16 cores are 5.33 and 10.67.
    assert shares([(320, 10), (160, 5)]) == [5, 11]


def test_spare_beside_a_doomed_query_goes_to_the_feasible_up_to_their_best_count():
    # Needs 4 and none. The spare 12 goes to the feasible one up to its best count, 6; the rest to who has
    # room: all 10 to the doomed one.
    assert shares([(40, 10), (400, 1)], best=[6, 16]) == [6, 10]


def test_nobody_gets_spare_above_the_count_on_which_its_model_is_fastest():
    # Needs 4 and 6, spare 6: the first may have 1 more, the other takes the rest.
    assert shares([(40, 10), (60, 10)], best=[5, 16]) == [5, 11]
    assert shares([(40, 10), (60, 10)], best=[5, 7]) == [5, 7]


def test_a_query_past_its_deadline_is_doomed():
    assert shares([(16, -1), (40, 10)], best=[16, 4]) == [12, 4]


def test_shares_are_whole_units():
    # Unit 4: needs 40/10 -> 4 and 60/10 -> 8; spare 4 by 1/10 and 1/7.5: 0.43 and 0.57 of a unit.
    assert shares([(40, 10), (60, 10)], counts=(4, 8, 12, 16)) == [4, 12]


def test_a_need_skips_counts_that_are_slower():
    # 3 ms of slack: 8 cores take 4 ms, 4 cores 3 ms.
    assert core_shares([3.0], [(9.0, 5.0, 3.0, 4.0)], [4], (1, 2, 4, 8), 8)[1] == [4]


@pytest.mark.parametrize("slack", [10, -1])
@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([(40, 10), (60, 10)], [7, 9]),  # all needs fit
        ([(100, 10), (40, 5), (30, 1)], [8, 8, 0]),  # they do not
        ([(320, 10), (160, 5)], [5, 11]),  # all doomed
        ([], []),
    ],
)
def test_a_query_without_work_left_takes_part_in_no_sharing(others, expected, slack):
    # Its last layer has ended, but its cores are not back yet: the others share as if it were gone.
    assert shares([*others, (0, slack)]) == [*expected, 0]
    assert shares([(0, slack), *others]) == [0, *expected]


@given(
    st.lists(st.tuples(st.floats(0.1, 500), st.floats(-10, 100)), min_size=1, max_size=12),
    st.sampled_from([((1, 2), 2), (COUNTS, 16), ((8, 16, 24, 32, 40, 48, 56, 64), 64)]),
)
def test_shares_are_units_within_the_machine_and_never_all_zero(tasks, counts_and_cores):
    counts, cores = counts_and_cores
    given_cores = shares(tasks, counts, cores)
    assert 0 < sum(given_cores) <= cores
    assert all(share >= 0 and share % counts[0] == 0 for share in given_cores)


@given(
    st.integers(0, 100),
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 20)), min_size=1, max_size=8),
)
def test_apportioning_gives_out_all_that_fits(units, parts):
    weights, room = [weight for weight, _ in parts], [room for _, room in parts]
    shared = apportion(units, weights, room)
    assert all(0 <= has <= most for has, most in zip(shared, room, strict=True))
    assert sum(shared) == min(units, sum(most for weight, most in parts if weight > 0))


def test_apportioning_rounds_by_largest_remainder():
    # 10 units by 1 : 2 : 4 are 1.43, 2.86, 5.71: the two largest remainders round up.
    assert apportion(10, [1.0, 2.0, 4.0], [10, 10, 10]) == [1, 3, 6]


def test_tables_whose_levels_differ_in_rows_are_refused():
    with pytest.raises(ValueError, match=r"levels of \[2, 1\] rows; give both tables all rows"):
        ShareTables({"net": 0}, [[(1.0,), (0.0,)]], [[1]], (1,), 1)

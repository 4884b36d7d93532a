import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.serving.loop.query import Query
from veltair.serving.policies.crowded_times import predict
from veltair.serving.policies.lookahead_shares import Claim, grow, share_out, shed, wanted_index

COUNTS = (1, 2, 4, 8)
# Work of 8, 8, 10 and 16 core-s: within a quarter of the least, 4 is the widest.
PREDICTION = predict((8.0, 4.0, 2.5, 2.0), COUNTS, 0.25)
# No gain beyond 2 cores.
NARROW = predict((8.0, 4.0, 4.0, 4.0), COUNTS, 0.25)
works = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 30)), max_size=7)


def claim(wanted: int, prediction=PREDICTION, *, floor: int = -1, given: int = -1) -> Claim:
    return Claim(Query(0, "net", 0.0, 9.0), 0, 9.0, prediction, 9.0, wanted, None, floor, given)


def shares(*claims: Claim) -> list[int]:
    return [one.given for one in claims]


@pytest.mark.parametrize(
    ("left_s", "expected"),
    [
        (4.0, 2),  # 2.5 s of 3.2 s: the efficient count will do
        (3.0, 3),  # 2.5 s of 2.4 s: too slow, 2 s are not
        (2.0, 3),  # none is fast enough: the fastest
    ],
)
def test_a_query_wants_the_efficient_count_or_as_many_more_as_it_needs(left_s: float, expected: int) -> None:
    assert wanted_index(PREDICTION, left_s, 0.8) == expected


def test_the_widest_of_counts_that_work_alike_is_efficient() -> None:
    assert PREDICTION.efficient == 2
    assert NARROW.efficient == 1
    assert predict((8.0, 4.0, 2.5, 2.0), COUNTS, 0.0).efficient == 1


def test_nobody_is_shed_while_all_can_be_on_time() -> None:
    # On 2 cores: 4 core-s until 2 s, 10 until 5 s.
    assert shed([2.0, 5.0], [4.0, 6.0], 2) == set()


def test_the_query_of_most_work_is_shed_though_its_deadline_is_the_first() -> None:
    # 4 + 3 + 3 core-s, but 8 until 4 s on 2 cores.
    assert shed([2.0, 3.0, 4.0], [4.0, 3.0, 3.0], 2) == {0}


def test_of_equal_works_the_latest_is_shed() -> None:
    assert shed([3.0, 3.5], [4.0, 4.0], 2) == {1}


def test_a_query_that_is_late_already_is_shed() -> None:
    assert shed([-1.0, 3.0], [1.0, 4.0], 2) == {0}


@given(works)
def test_as_few_are_shed_as_by_trying_all_sets(queries: list[tuple[int, int]]) -> None:
    queries = sorted(queries)
    left_s, work = [float(left) for left, _ in queries], [float(core_s) for _, core_s in queries]
    most = max(
        bin(chosen).count("1")
        for chosen in range(2 ** len(queries))
        if all(
            sum(work[at] for at in range(index + 1) if chosen >> at & 1) <= 2 * left_s[index]
            for index in range(len(queries))
            if chosen >> index & 1
        )
    )
    assert len(queries) - len(shed(left_s, work, 2)) == most


def test_claims_are_met_in_their_turn() -> None:
    claims = [claim(2), claim(1), claim(1)]
    assert share_out(claims, 8, COUNTS) == 0
    assert shares(*claims) == [2, 1, 1]


def test_what_is_left_is_taken_only_where_that_is_no_waste() -> None:
    # On 1 core the work is the least, and NARROW on 4 takes twice its least.
    claims = [claim(2), claim(2), claim(2, NARROW)]
    assert share_out(claims, 5, COUNTS) == 0
    assert shares(*claims) == [2, 0, -1]
    wasteful = claim(3, predict((9.0, 2.0, 1.0, 0.5), COUNTS, 0.0))
    assert share_out([wasteful], 1, COUNTS) == 1
    assert wasteful.given == -1


def test_who_cannot_be_paused_keeps_its_floor_whoever_comes_before() -> None:
    claims = [claim(3), claim(2, floor=0)]
    assert share_out(claims, 5, COUNTS) == 0
    assert shares(*claims) == [2, 0]


def test_who_has_a_floor_gets_the_rest_of_what_it_wants_in_its_turn() -> None:
    claims = [claim(1), claim(2, floor=0)]
    assert share_out(claims, 8, COUNTS) == 2
    assert shares(*claims) == [1, 2]


def test_spare_cores_go_where_they_speed_up_most_for_a_core() -> None:
    # From 2 to 4 cores: 8 (1 / 2.5 - 1 / 4) = 1.2 for 2 cores, and nothing for the other.
    claims = [claim(1, NARROW, given=1), claim(1, given=1)]
    assert grow(claims, 3, COUNTS) == 1
    assert shares(*claims) == [1, 2]


def test_nobody_grows_for_next_to_nothing_or_from_nothing() -> None:
    flat = predict((4.0, 3.9, 3.9, 3.9), COUNTS, 0.0)
    claims = [claim(0, flat, given=0), claim(2)]
    assert grow(claims, 6, COUNTS) == 6
    assert shares(*claims) == [0, -1]


def test_a_step_that_saves_too_little_is_passed_over_for_one_that_saves_enough() -> None:
    uneven = predict((4.0, 3.9, 2.0, 2.0), COUNTS, 0.0)
    one = claim(0, uneven, given=0)
    assert grow([one], 5, COUNTS) == 2
    assert one.given == 2


def test_a_small_step_comes_before_a_large_one_that_gains_more_but_less_for_a_core() -> None:
    # 8 (1 / 1 - 1 / 2.5) = 4.8 for 4 cores, and 8 (1 / 3.5 - 1 / 8) = 1.3 for one.
    large, small = predict((8.0, 4.0, 2.5, 1.0), COUNTS, 0.0), predict((8.0, 3.5, 3.5, 3.5), COUNTS, 0.0)
    claims = [claim(2, large, given=2), claim(0, small, given=0)]
    assert grow(claims, 4, COUNTS) == 3
    assert shares(*claims) == [2, 1]

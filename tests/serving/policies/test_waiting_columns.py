from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import make_model, pending
from veltair.serving.policies.waiting_columns import WaitingColumns

NETS = {"a": make_model("a", (1, 1), qos_s=0.010), "b": make_model("b", (1, 1, 1), qos_s=0.020)}
FIRST_ROWS = {"a": 0, "b": 3}


def waiting(*ids):
    """Return waiting queries, the even ones of net a, the odd ones of b; each arrived at its id in ms."""
    return [pending(number, NETS["ab"[number % 2]], number / 1000) for number in ids]


def following(*turns) -> WaitingColumns:
    """Return a roster that followed who waits through these turns."""
    waiting_columns = WaitingColumns(FIRST_ROWS)
    for ids in turns:
        waiting_columns.update(waiting(*ids))
    return waiting_columns


def columns(waiting_columns: WaitingColumns):
    return waiting_columns.ids, waiting_columns.deadlines_s.tolist(), waiting_columns.rows.tolist()


def test_it_holds_ids_deadlines_and_rows_in_their_turn():
    assert columns(following([2, 1])) == ([2, 1], [0.002 + 0.010, 0.001 + 0.020], [0, 3])


def test_a_query_between_two_blocks_is_at_the_row_of_its_next_layer():
    waiting_columns = WaitingColumns(FIRST_ROWS)
    waiting_columns.update([pending(1, NETS["b"], next_layer=2)])
    assert waiting_columns.rows.tolist() == [5]


def test_who_was_removed_is_out_and_the_others_stay():
    waiting_columns = following([1, 2, 3])
    waiting_columns.remove(2)
    assert columns(waiting_columns) == columns(following([1, 3]))
    waiting_columns.update(waiting(1, 3, 4))
    assert columns(waiting_columns) == columns(following([1, 3, 4]))


def test_a_removed_query_that_still_waits_is_taken_up_again():
    waiting_columns = following([1, 2, 3])
    waiting_columns.remove(2)
    waiting_columns.update(waiting(1, 2, 3))
    assert columns(waiting_columns) == columns(following([1, 2, 3]))


def test_a_query_that_waits_again_is_at_the_row_that_it_is_at_now():
    waiting_columns = following([1])
    waiting_columns.update([pending(1, NETS["b"], 0.001, next_layer=1)])
    assert waiting_columns.rows.tolist() == [4]


def test_those_among_given_ids_come_in_their_turn():
    assert following([3, 1, 2]).among({1: None, 3: None, 7: None}) == waiting(3, 1)


@given(st.lists(st.tuples(st.permutations(range(8)), st.integers(0, 8), st.booleans()), min_size=1))
def test_whatever_came_before_it_holds_who_waits_now(turns):
    waiting_columns = WaitingColumns(FIRST_ROWS)
    for order, count, sort in turns:
        ids = sorted(order[:count]) if sort else order[:count]
        waiting_columns.update(waiting(*ids))
        assert columns(waiting_columns) == columns(following(ids))
        assert waiting_columns.among(dict.fromkeys(ids)) == waiting(*ids)
        for number in ids[1::3]:
            waiting_columns.remove(number)

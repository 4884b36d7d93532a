from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.serving.loop.policy import Pending
from veltair.serving.loop.query import Query
from veltair.serving.loop.queues import PendingQueue, SeenIds, ValuesView


def entry(query_id: int, arrival_s: float = 0.0, next_layer: int = 0) -> Pending:
    return Pending(Query(query_id, "net", arrival_s, 0.01), next_layer)


def queue_of(*entries: Pending) -> PendingQueue:
    queue = PendingQueue()
    for waiting in entries:
        queue.add(waiting)
    return queue


def ids(queue: Sequence[Pending]) -> list[int]:
    return [waiting.query.id for waiting in queue]


def test_the_oldest_arrival_is_first_and_ids_decide_among_equals() -> None:
    assert ids(queue_of(entry(3, 1.0), entry(2, 1.0), entry(7, 0.5), entry(5, 2.0), entry(4, 1.0))) == [
        7,
        2,
        3,
        4,
        5,
    ]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_an_entry_is_taken_out_wherever_it_waits(index: int) -> None:
    waiting = [entry(1, 0.1), entry(2, 0.2), entry(3, 0.3)]
    queue = queue_of(*waiting)
    queue.remove(waiting[index])
    assert ids(queue) == [number for number in (1, 2, 3) if number != index + 1]


def test_a_queue_can_be_indexed_and_sliced_as_any_sequence() -> None:
    queue = queue_of(entry(1, 0.1), entry(2, 0.2), entry(3, 0.3))
    assert (queue[0].query.id, queue[-1].query.id) == (1, 3)
    assert [ids(queue[:2]), ids(queue[:9]), ids(queue[-2:]), ids(queue[::-1])] == [
        [1, 2],
        [1, 2, 3],
        [2, 3],
        [3, 2, 1],
    ]
    assert isinstance(queue, Sequence) and len(queue) == 3 and entry(2, 0.2) in queue
    queue.clear()
    assert not queue


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 9)), unique_by=lambda pair: pair[1]), st.randoms())
def test_a_queue_is_always_what_sorting_its_entries_makes_of_them(pairs, random) -> None:
    queue, inside = PendingQueue(), []
    for arrival_s, query_id in pairs:
        inside.append(entry(query_id, arrival_s))
        queue.add(inside[-1])
        if random.random() < 0.4:
            queue.remove(inside.pop(random.randrange(len(inside))))
        assert list(queue) == sorted(inside, key=lambda waiting: (waiting.query.arrival_s, waiting.query.id))


def test_values_are_seen_live_and_in_the_order_of_the_mapping() -> None:
    mapping = {3: "a", 1: "b"}
    view = ValuesView(mapping)
    mapping[2] = "c"
    mapping[3] = "d"
    assert list(view) == ["d", "b", "c"]
    assert (len(view), view[0], view[-1], list(view[1:])) == (3, "d", "c", ["b", "c"])


@given(st.lists(st.integers(-3, 12)))
def test_an_id_is_new_once(numbers: list[int]) -> None:
    seen, before = SeenIds(), set[int]()
    for number in numbers:
        assert seen.add(number) is (number not in before)
        before.add(number)


def test_ids_that_count_up_take_no_memory_even_when_some_come_late() -> None:
    seen = SeenIds()
    for number in (0, 1, 4, 3, 2, 5):
        seen.add(number)
    assert not seen._others and not seen.add(3)

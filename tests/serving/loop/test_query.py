import pytest

from veltair.serving.loop.query import Ending, Query, QueryRecord

QUERY = Query(7, "net", arrival_s=2.0, qos_s=0.5)


def record(end_s: float, ending: Ending = Ending.SERVED) -> QueryRecord:
    return QueryRecord(QUERY, ending, start_s=2.25, end_s=end_s, blocks=1, conflicts=0, core_s=0.25)


def test_a_deadline_is_the_target_after_the_scheduled_arrival() -> None:
    assert QUERY.deadline_s == 2.5


def test_latency_counts_from_the_scheduled_arrival_not_from_the_start() -> None:
    assert record(end_s=2.375).latency_s == 0.375


@pytest.mark.parametrize(("end_s", "on_time"), [(2.25, True), (2.5, True), (2.5625, False)])
def test_a_query_is_on_time_up_to_and_at_its_deadline(end_s: float, on_time: bool) -> None:
    assert record(end_s).on_time is on_time


@pytest.mark.parametrize("ending", [Ending.REJECTED, Ending.UNFINISHED])
def test_a_query_that_was_not_served_is_never_on_time(ending: Ending) -> None:
    assert not record(end_s=2.25, ending=ending).on_time

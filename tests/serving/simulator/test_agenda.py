import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.serving.loop.backend import Arrival, Woken
from veltair.serving.loop.query import Query
from veltair.serving.simulator.agenda import Agenda

TIMES = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0]), max_size=8)


def trace(times_s: list[float]) -> list[Query]:
    return [Query(number, "net", time_s, 1.0) for number, time_s in enumerate(times_s)]


def all_of(agenda: Agenda) -> list[Arrival | Woken]:
    events = []
    while agenda.next_s < math.inf:
        due_s = agenda.next_s
        events.append(agenda.pop())
        assert events[-1].time_s == due_s
    return events


@given(TIMES.map(sorted), TIMES)
def test_everything_is_due_in_order_arrivals_before_a_wake_and_each_wake_once(
    arrivals: list[float], wakes: list[float]
) -> None:
    agenda = Agenda(trace(arrivals), drain_s=1.0)
    for time_s in wakes:
        agenda.wake_at(time_s)
    found = [(event.time_s, isinstance(event, Woken)) for event in all_of(agenda)]
    assert found == sorted(
        [*((time_s, False) for time_s in arrivals), *((time_s, True) for time_s in set(wakes))]
    )


def test_the_end_is_some_time_after_the_last_arrival() -> None:
    assert Agenda(trace([1.0, 2.0]), drain_s=0.5).close_s == 2.5
    assert Agenda([], drain_s=0.5).close_s == 0.5


def test_nothing_is_left_of_an_empty_agenda() -> None:
    with pytest.raises(IndexError):
        Agenda([], drain_s=0.0).pop()


@pytest.mark.parametrize("drain_s", [-1.0, math.inf, math.nan])
def test_a_drain_that_is_no_time_is_refused(drain_s: float) -> None:
    with pytest.raises(ValueError, match="give a finite number of seconds"):
        Agenda([], drain_s)


@pytest.mark.parametrize("times_s", [[2.0, 1.0], [-1.0], [math.inf], [math.nan]])
def test_a_trace_out_of_order_is_refused(times_s: list[float]) -> None:
    with pytest.raises(ValueError, match="sort the trace by arrival"):
        Agenda(trace(times_s), drain_s=1.0)


@pytest.mark.parametrize("time_s", [-1.0, math.nan])
def test_a_wake_at_no_time_is_refused(time_s: float) -> None:
    with pytest.raises(ValueError, match="give a time from 0 on"):
        Agenda([], drain_s=1.0).wake_at(time_s)

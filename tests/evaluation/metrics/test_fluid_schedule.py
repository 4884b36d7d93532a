from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.evaluation.metrics.fluid_schedule import Demand, most_on_time

queries = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6)


def most(windows: list[tuple[float, float]], *demands: tuple[list[float], float]) -> float:
    arrivals_s, deadlines_s = np.array(windows, dtype=np.float64).reshape(-1, 2).T
    needs = [Demand(np.array(of_each, dtype=np.float64), per_s) for of_each, per_s in demands]
    return most_on_time(arrivals_s, deadlines_s, needs)


@pytest.mark.parametrize(("deadline_s", "expected"), [(3.0, 1.0), (2.0, 1.0), (1.0, 0.5), (0.0, 0.0)])
def test_a_query_alone_is_done_as_far_as_its_time_allows(deadline_s: float, expected: float) -> None:
    # 4 core-s on 2 cores take 2 s.
    assert most([(0.0, deadline_s)], ([4.0], 2.0)) == pytest.approx(expected)


def test_the_least_work_is_done_first_where_not_all_fits() -> None:
    # 4 core-s until 2 s: the first query's 2, and half of the other's 4.
    assert most([(0.0, 2.0), (0.0, 2.0)], ([2.0, 4.0], 2.0)) == pytest.approx(1.5)


def test_time_before_an_arrival_and_after_a_deadline_is_of_no_use_to_a_query() -> None:
    # 10 s for both together, but the second has 1 s to itself for 4 core-s, less what the first needs of it.
    assert most([(0.0, 10.0), (4.0, 5.0)], ([4.0, 4.0], 2.0)) == pytest.approx(1.5)
    # Until 5 s the first can be done before the other arrives.
    assert most([(0.0, 5.0), (4.0, 6.0)], ([8.0, 4.0], 2.0)) == pytest.approx(2.0)


def test_a_query_of_later_deadline_gives_way_and_goes_on() -> None:
    # 1 s, then the other's 2 s, then the 3 s that are left.
    assert most([(0.0, 6.0), (1.0, 3.0)], ([8.0, 4.0], 2.0)) == pytest.approx(2.0)
    assert most([(0.0, 5.0), (1.0, 3.0)], ([8.0, 4.0], 2.0)) == pytest.approx(1.75)


def test_the_scarcest_resource_decides() -> None:
    windows = [(0.0, 2.0), (0.0, 2.0)]
    assert most(windows, ([1.0, 1.0], 2.0), ([8.0, 8.0], 6.0)) == pytest.approx(1.5)
    assert most(windows, ([4.0, 4.0], 2.0), ([1.0, 1.0], 6.0)) == pytest.approx(1.0)


def test_a_query_that_cannot_be_done_is_left_out() -> None:
    assert most([(0.0, 2.0), (0.0, 2.0)], ([inf, 4.0], 2.0)) == pytest.approx(1.0)
    assert most([(0.0, 2.0)], ([inf], 2.0)) == 0.0
    assert most([], ([], 2.0)) == 0.0


def test_a_query_without_any_demand_is_done() -> None:
    assert most([(0.0, 1.0)], ([0.0], 2.0)) == pytest.approx(1.0)


def test_bad_windows_and_demands_are_refused() -> None:
    with pytest.raises(ValueError, match="due before it arrives"):
        most([(1.0, 0.5)], ([1.0], 2.0))
    for demand in (([-1.0], 2.0), ([float("nan")], 2.0), ([1.0], 0.0)):
        with pytest.raises(ValueError, match="give a capacity above 0"):
            most([(0.0, 1.0)], demand)


@given(queries)
def test_no_schedule_of_whole_queries_by_deadline_does_more(found: list[tuple[int, int, int]]) -> None:
    # One after the other, each if it is still in time: a schedule, so what it does is a lower bound.
    time_s, done = 0.0, 0
    for arrival_s, target_s, work in sorted(found, key=lambda one: one[0] + one[1]):
        end_s = max(time_s, arrival_s) + work / 2
        if end_s <= arrival_s + target_s:
            time_s, done = end_s, done + 1
    windows = [(float(arrival), float(arrival + target)) for arrival, target, _ in found]
    works = [float(work) for _, _, work in found]
    assert done - 1e-6 <= most(windows, (works, 2.0)) <= len(found) + 1e-6

"""The search for QPS at 95 % QoS on curves whose answer is known."""

import math
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.evaluation.metrics.capacity import (
    HIGHEST,
    LOWEST,
    CapacitySearch,
    Criterion,
    Satisfaction,
    Status,
    find_capacities,
    find_capacity,
    satisfaction_of,
    warmup_s,
)
from veltair.serving.loop.ended_queries import ArrivalColumns, EndedQueries
from veltair.serving.loop.query import Ending, Query, QueryRecord

SEARCH = CapacitySearch(resolution=0.01)


class Curve:
    """Measures satisfaction from a function of the rate and remembers the rates asked for."""

    def __init__(self, pooled, minimum=None):
        self.pooled = pooled
        self.minimum = minimum or pooled
        self.asked = []

    def __call__(self, qps):
        self.asked.append(qps)
        return Satisfaction(self.pooled(qps), self.minimum(qps))


def step(at_qps):
    return lambda qps: 1.0 if qps <= at_qps else 0.0


def ramp(at_qps):
    """Return a curve that is 1 far below a rate, 0.95 at it, and falls by 0.05 for each 10 % around it."""
    return lambda qps: min(1.0, max(0.0, 0.95 - 0.5 * (qps / at_qps - 1.0)))


@given(st.floats(1.0, 1e4), st.floats(0.02, 50.0), st.sampled_from([0.01, 0.05, 0.2]))
def test_the_step_of_a_monotone_curve_is_found_within_the_resolution(at_qps, factor, resolution):
    found = find_capacity(Curve(step(at_qps)), at_qps * factor, CapacitySearch(resolution))
    assert found.status is Status.RESOLVED
    assert found.qps <= at_qps < found.high_qps <= found.qps * (1 + resolution) * (1 + 1e-12)


@given(st.floats(1.0, 1e4), st.floats(0.02, 50.0))
def test_no_rate_is_measured_twice(at_qps, factor):
    curve = Curve(step(at_qps), step(at_qps / 3))
    find_capacities(curve, at_qps * factor, SEARCH)
    assert len(set(curve.asked)) == len(curve.asked)


def test_a_search_doubles_from_a_tenth_of_the_estimate_and_then_bisects():
    # 10, 20, 40, 80 pass and 160 fails; then the middles of (80, 160), (80, 120), (80, 100).
    curve = Curve(step(95.0))
    find_capacity(curve, 100.0, CapacitySearch(resolution=0.1, checks=()))
    assert curve.asked[:8] == [10.0, 20.0, 40.0, 80.0, 160.0, 120.0, 100.0, 90.0]


def test_a_search_checks_around_its_answer():
    # 80 passes and 160 fails; 81.25 fails and 80.625 passes: 0.8 % apart. No rate near the checks was tried.
    curve = Curve(step(81.0))
    found = find_capacity(curve, 100.0, SEARCH)
    assert curve.asked[-4:] == pytest.approx([80.625, 0.9 * 80.625, 0.97 * 80.625, 1.03 * 80.625])
    assert found.monotone


def test_a_check_above_that_passes_moves_the_answer_up():
    # Fails in (100, 102], passes again to 120: the search meets the dip first, then looks beyond it.
    found = find_capacity(Curve(lambda qps: float(qps <= 100.0 or 102.0 < qps <= 120.0)), 62.5, SEARCH)
    assert found.status is Status.RESOLVED
    assert found.qps == pytest.approx(120.0, rel=0.01)


def test_a_check_below_that_fails_is_shown():
    found = find_capacity(Curve(lambda qps: float(qps <= 92.0 or 98.0 < qps <= 100.0)), 62.5, SEARCH)
    assert not found.monotone
    assert "not monotone" in found.describe()


def test_a_bracket_narrower_than_asked_ends_the_search_early():
    # 10, 20, 40, 80 pass and 160 fails: the bracket is twice as wide as its lower end.
    found = find_capacity(Curve(step(110.0)), 100.0, CapacitySearch(0.999, checks=()))
    assert (found.status, len(found.trials)) == (Status.RESOLVED, 6)


def test_a_model_that_nobody_can_serve_is_unservable():
    curve = Curve(lambda qps: 0.5)
    found = find_capacity(curve, 100.0, SEARCH)
    assert (found.status, found.qps, found.high_qps) == (Status.UNSERVABLE, 0.0, LOWEST * 100.0)
    assert found.describe() == "unservable: below 1 QPS (5 rates tried)"


def test_a_rate_that_never_fails_ends_the_search_as_cut():
    found = find_capacity(Curve(lambda qps: 1.0), 10.0, SEARCH)
    assert (found.status, found.qps, found.high_qps) == (Status.CUT, HIGHEST * 10.0, math.inf)
    assert found.describe().startswith("at least 1000 QPS (cut")


def test_an_invalid_run_never_passes_and_marks_the_answer():
    def measure(qps):
        return Satisfaction(1.0, 1.0, invalid=qps > 100.0)

    found = find_capacity(measure, 100.0, SEARCH)
    assert found.status is Status.INVALID
    assert found.qps == pytest.approx(100.0, rel=0.01)


def test_a_rate_of_exactly_the_target_passes():
    found = find_capacity(Curve(lambda qps: 0.95), 1.0, SEARCH)
    assert found.qps == HIGHEST


def test_the_minimum_over_models_reuses_the_rates_of_the_pooled_search():
    curve = Curve(step(100.0), step(50.0))
    pooled, minimum = find_capacities(curve, 100.0, SEARCH)
    assert minimum.trials[: len(pooled.trials)] == pooled.trials
    assert len(minimum.trials) == len(curve.asked)
    assert (pooled.criterion, minimum.criterion) == (Criterion.POOLED, Criterion.MINIMUM)
    assert pooled.qps == pytest.approx(100.0, rel=0.01)
    assert minimum.qps == pytest.approx(50.0, rel=0.01)


@pytest.mark.parametrize("estimate_qps", [0.0, -1.0, math.nan, math.inf])
def test_an_estimate_that_is_no_rate_is_an_error(estimate_qps):
    with pytest.raises(ValueError, match="give a rate above 0"):
        find_capacity(Curve(step(1.0)), estimate_qps, SEARCH)


@pytest.mark.parametrize(
    "wrong",
    [{"resolution": 0.0}, {"target": 1.5}, {"checks": (0.0,)}],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ValueError, match=f"CapacitySearch: {next(iter(wrong))}"):
        CapacitySearch(**({"resolution": 0.05} | wrong))


def test_a_minimum_above_the_pooled_share_is_an_error():
    with pytest.raises(ValueError, match="minimum over tenants"):
        Satisfaction(0.5, 0.6)


def test_warm_up_is_a_tenth_of_a_short_run_and_fifty_targets_of_a_long_one():
    assert warmup_s(8.0, 0.1) == pytest.approx(0.8)
    assert warmup_s(1000.0, 0.1) == pytest.approx(5.0)


def query(query_id, model="m", arrival_s=1.0):
    return Query(query_id, model, arrival_s, 1.0)


def record(query, latency_s=0.5, ending=Ending.SERVED):
    end_s = query.arrival_s + latency_s
    return QueryRecord(query, ending, query.arrival_s, end_s, 1, 0, 1.0)


def shares(records, queries, count_from_s, stop_below=None, together=1):
    """Return the satisfaction of records that come so many at a time."""
    index_of = {query.id: index for index, query in enumerate(queries)}
    records = iter(records)
    ended = (EndedQueries.of(some, index_of) for some in iter(lambda: list(islice(records, together)), []))
    return satisfaction_of(ended, ArrivalColumns.of(queries), count_from_s, stop_below)


def test_late_rejected_unfinished_and_missing_queries_are_misses():
    queries = [query(index) for index in range(5)]
    records = [
        record(queries[0]),
        record(queries[1], latency_s=1.5),
        record(queries[2], ending=Ending.REJECTED),
        record(queries[3], ending=Ending.UNFINISHED),
    ]
    assert shares(records, queries, 0.0) == Satisfaction(0.2, 0.2)


def test_the_minimum_is_that_of_the_worst_model():
    queries = [query(0), query(1), query(2), query(3, "n"), query(4, "n")]
    records = [record(query, latency_s=2.0 if query.id == 4 else 0.5) for query in queries]
    assert shares(records, queries, 0.0) == Satisfaction(0.8, 0.5)


def test_warm_up_queries_are_not_counted():
    queries = [query(0, arrival_s=0.5), query(1, arrival_s=0.75), query(2, arrival_s=1.0)]
    records = [record(queries[0], latency_s=2.0), record(queries[1]), record(queries[2])]
    assert shares(records, queries, 1.0) == Satisfaction(1.0, 1.0)


def test_a_run_without_counted_queries_is_invalid():
    assert shares([], [query(0)], 2.0).invalid


def test_a_hopeless_run_is_stopped_at_the_miss_that_decides_it():
    # Of 40 queries 2 may miss 95 %: the third miss decides, the rest is not drawn.
    queries = [query(index) for index in range(40)]
    late = [record(query, latency_s=2.0) for query in queries]
    records = iter(late)
    found = shares(records, queries, 0.0, stop_below=0.95)
    assert (found.complete, found.pooled, len(list(records))) == (False, 37 / 40, 37)
    assert found == shares(late, queries, 0.0, stop_below=0.95, together=7)


def test_a_run_that_just_reaches_the_target_is_not_stopped():
    queries = [query(index) for index in range(40)]
    records = [record(query, latency_s=2.0 if query.id < 2 else 0.5) for query in queries]
    for together in (1, 3, 40):
        found = shares(records, queries, 0.0, stop_below=0.95, together=together)
        assert found == Satisfaction(0.95, 0.95)

from dataclasses import replace
from itertools import combinations
from math import isnan

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from tests.support.evaluation.validation_builders import make_run, make_targets
from veltair.evaluation.validation.trace_errors import (
    PairOrder,
    TraceError,
    batch_p_value,
    check_trace,
    error,
    pair_orders,
    pooled_errors,
    ranking_tau,
    run_metrics,
    served_qps,
    significant,
    trace_errors,
)

EVEN = [0.010, 0.020, 0.030, 0.040]


def metrics(*runs: pd.DataFrame) -> pd.DataFrame:
    return run_metrics(pd.concat(runs, ignore_index=True), make_targets(), cores=2)


def pair(measured_s: float, simulated_s: float, p_value: float = 0.001) -> PairOrder:
    return PairOrder("a", "b", measured_s, simulated_s, 0.0, p_value)


def test_a_trace_in_the_order_of_its_ids_is_taken() -> None:
    check_trace(make_run(EVEN).sample(frac=1.0, random_state=1))


def test_a_trace_out_of_order_is_refused_with_the_queries_and_their_times() -> None:
    run = make_run(EVEN)
    run.loc[2, "arrival_s"] = 0.01
    with pytest.raises(
        TraceError, match=r"out of order: query 2 arrived at 0.01 s, before query 1 at 0.05 s"
    ):
        check_trace(run)


def test_a_query_recorded_twice_is_refused() -> None:
    run = make_run(EVEN)
    with pytest.raises(TraceError, match="recorded twice"):
        check_trace(pd.concat([run, run]))


def test_two_runs_are_no_trace() -> None:
    with pytest.raises(TraceError, match="2 runs in one trace"):
        check_trace(pd.concat([make_run(EVEN), make_run(EVEN, policy="Theirs")]))


def test_queries_are_served_from_the_first_counted_arrival_to_the_last_end() -> None:
    # Three counted queries from 0.05 s on; the last arrives at 0.15 s and takes 0.04 s.
    assert served_qps(make_run(EVEN, warm_up=1)) == pytest.approx(3 / (0.19 - 0.05))


def test_a_query_that_is_not_served_does_not_count_as_throughput() -> None:
    run = make_run(EVEN)
    run.loc[3, "ending"] = "unfinished"
    assert served_qps(run) == pytest.approx(3 / (0.10 + 0.03))


def test_a_run_that_served_nothing_has_no_throughput() -> None:
    assert served_qps(make_run(EVEN).assign(ending="rejected")) == 0.0


def test_the_metrics_of_a_run_are_those_of_its_counted_queries() -> None:
    row = metrics(make_run([9.0, 0.010, 0.020, 0.200], warm_up=1)).iloc[0]
    assert (row["queries"], row["latency_p50_s"]) == (3, pytest.approx(0.020))
    assert (row["latency_p95_s"], row["satisfaction"]) == (pytest.approx(0.200), pytest.approx(2 / 3))


@pytest.mark.parametrize(
    ("metric", "measured", "simulated", "expected"),
    [
        ("served_qps", 20.0, 18.0, 0.1),
        ("latency_p50_s", 0.010, 0.012, 0.2),
        ("latency_p95_s", 0.100, 0.050, 0.5),
        ("satisfaction", 0.95, 0.90, 5.0),
        ("satisfaction", 0.0, 0.02, 2.0),
    ],
)
def test_errors_are_shares_of_the_measured_value_and_points_of_satisfaction(
    metric: str, measured: float, simulated: float, expected: float
) -> None:
    assert error(metric, measured, simulated) == pytest.approx(expected)


def test_nothing_measured_has_no_relative_error() -> None:
    assert isnan(error("latency_p50_s", 0.0, 0.1)) and isnan(error("latency_p50_s", float("nan"), 0.1))


def test_errors_compare_the_mean_of_all_replays_with_the_measured_run() -> None:
    measured = metrics(make_run([0.010] * 4))
    twice = [metrics(make_run([0.011] * 4)), metrics(make_run([0.013] * 4))]
    errors = trace_errors(measured, twice, [metrics(make_run([0.010] * 4))])
    median = errors[errors["metric"] == "latency_p50_s"].iloc[0]
    assert (median["simulated"], median["error"]) == (pytest.approx(0.012), pytest.approx(0.2))
    assert median["null_error"] == pytest.approx(0.0)


def test_the_pooled_error_is_the_mean_over_runs_beside_the_null_models() -> None:
    measured = metrics(make_run([0.010] * 4), make_run([0.010] * 4, policy="Theirs"))
    simulated = metrics(make_run([0.011] * 4), make_run([0.013] * 4, policy="Theirs"))
    null = metrics(make_run([0.005] * 4), make_run([0.005] * 4, policy="Theirs"))
    value, null_value, samples = pooled_errors(trace_errors(measured, [simulated], [null]), "latency_p50_s")
    assert (value, null_value, samples) == (
        pytest.approx(0.2),
        pytest.approx(0.5),
        (pytest.approx(0.1), pytest.approx(0.3)),
    )


@pytest.mark.parametrize("absent", ["measured", "simulated"])
def test_a_policy_in_one_of_both_is_refused_by_its_name(absent: str) -> None:
    both = metrics(make_run(EVEN), make_run(EVEN, policy="Theirs"))
    one = metrics(make_run(EVEN))
    measured, simulated = (one, both) if absent == "measured" else (both, one)
    with pytest.raises(TraceError, match=f"Theirs on load at 20 QPS: .* not among the {absent} ones"):
        trace_errors(measured, [simulated], [simulated])


def test_without_a_replay_there_is_nothing_to_compare() -> None:
    with pytest.raises(TraceError, match="no run was replayed"):
        trace_errors(metrics(make_run(EVEN)), [], [])


def test_identical_latencies_differ_in_no_test() -> None:
    assert batch_p_value(np.zeros(100)) == 1.0


def test_a_difference_without_spread_is_certain() -> None:
    assert batch_p_value(np.full(100, 0.001)) == 0.0


def test_fewer_than_fifty_queries_tell_nothing() -> None:
    assert isnan(batch_p_value(np.full(49, 0.001))) and not isnan(batch_p_value(np.full(50, 0.001)))


def test_queries_that_wait_for_one_another_are_not_counted_as_independent() -> None:
    # Five long waves of +1 and five of -0.9: each query alone would look like evidence, ten means do not.
    waves = np.repeat([1.0, -0.9] * 5, 100)
    assert stats.ttest_1samp(waves, 0.0).pvalue < 0.15
    assert batch_p_value(waves) == pytest.approx(stats.ttest_1samp([1.0, -0.9] * 5, 0.0).pvalue)
    assert batch_p_value(waves) > 0.8


def test_the_p_value_is_students_on_the_means_of_ten_parts() -> None:
    differences = np.arange(100.0)
    means = differences.reshape(10, 10).mean(axis=1)
    assert batch_p_value(differences) == pytest.approx(stats.ttest_1samp(means, 0.0).pvalue)


def test_of_many_pairs_a_single_weak_one_is_not_significant() -> None:
    # Benjamini and Hochberg: 0.04 of one pair passes, but among 20 pairs it stands for 20 x 0.04.
    assert significant([pair(1, 1, 0.04)]) != []
    assert significant([pair(1, 1, 0.04), *[pair(1, 1, 0.9)] * 19]) == []


def test_pairs_without_a_p_value_are_not_significant() -> None:
    assert significant([pair(1, 1, float("nan"))]) == []
    assert significant([pair(1, 1, float("nan")), pair(1, 1, 0.01)]) == [pair(1, 1, 0.01)]


def test_tau_counts_pairs_in_the_measured_order_less_those_in_the_opposite_one() -> None:
    assert ranking_tau([pair(1, 2), pair(1, 0.1), pair(-1, -3), pair(1, -1)]) == pytest.approx(0.5)


def test_a_tie_in_the_simulator_is_in_neither_order() -> None:
    assert ranking_tau([pair(1, 2), pair(1, 0.0)]) == pytest.approx(0.5)


def test_no_pairs_have_no_tau() -> None:
    assert isnan(ranking_tau([]))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=8))
def test_over_all_pairs_tau_is_somers_d_where_ties_measured_are_left_out(
    values: list[tuple[int, int]],
) -> None:
    pairs = [pair(a[0] - b[0], a[1] - b[1]) for a, b in combinations(values, 2) if a[0] != b[0]]
    measured, simulated = zip(*values, strict=True)
    assume(pairs and len(set(simulated)) > 1)  # scipy has no value for samples that do not vary
    expected = stats.somersd(measured, simulated).statistic
    assert ranking_tau(pairs) == pytest.approx(expected)


def test_pairs_compare_policies_query_by_query_on_one_trace() -> None:
    measured = pd.concat([make_run([0.010, 0.030]), make_run([0.020, 0.030], policy="Theirs", first_s=3.0)])
    simulated = pd.concat([make_run([0.010, 0.020]), make_run([0.020, 0.050], policy="Theirs")])
    (only,) = pair_orders(measured, [simulated], [simulated])
    assert (only.first, only.second) == ("Ours", "Theirs")
    assert (only.measured_s, only.simulated_s) == (pytest.approx(-0.005), pytest.approx(-0.020))
    assert isnan(only.p_value)


def test_a_rejected_query_is_no_fast_one() -> None:
    ours = make_run([0.010, 0.0])
    ours.loc[1, "ending"] = "rejected"
    measured = pd.concat([ours, make_run([0.020, 0.030], policy="Theirs")])
    (only,) = pair_orders(measured, [measured], [measured])
    assert only.measured_s == pytest.approx(-0.010)


def test_policies_at_different_rates_are_no_pair() -> None:
    measured = pd.concat([make_run(EVEN), make_run(EVEN, policy="Theirs", qps=30.0)])
    assert pair_orders(measured, [measured], [measured]) == []


@pytest.mark.parametrize("change", ["arrival_s", "model", "query_id"])
def test_policies_asked_by_unlike_traces_are_no_pair(change: str) -> None:
    theirs = make_run(EVEN, policy="Theirs")
    if change == "arrival_s":
        theirs["arrival_s"] **= 1.1
    elif change == "model":
        theirs.loc[3, "model"] = "other"
    else:
        theirs = theirs.iloc[:3]
    measured = pd.concat([make_run(EVEN), theirs])
    with pytest.raises(TraceError, match="not asked by one trace"):
        pair_orders(measured, [measured], [measured])


def test_a_query_that_came_late_and_a_run_that_began_later_are_of_the_same_trace() -> None:
    theirs = make_run(EVEN, policy="Theirs")
    theirs["arrival_s"] += 3.0
    theirs.loc[3, "arrival_s"] += 0.01
    measured = pd.concat([make_run(EVEN), theirs])
    assert len(pair_orders(measured, [measured], [measured])) == 1


def test_a_policy_without_a_replay_is_named() -> None:
    measured = pd.concat([make_run(EVEN), make_run(EVEN, policy="Theirs")])
    with pytest.raises(TraceError, match="Theirs: measured, but not simulated"):
        pair_orders(measured, [make_run(EVEN)], [measured])


def test_the_null_models_order_is_kept_beside() -> None:
    measured = pd.concat([make_run([0.010]), make_run([0.020], policy="Theirs")])
    null = pd.concat([make_run([0.020]), make_run([0.010], policy="Theirs")])
    (only,) = pair_orders(measured, [measured], [null])
    assert ranking_tau([only]) == 1.0
    assert ranking_tau([replace(only)], "null_s") == -1.0

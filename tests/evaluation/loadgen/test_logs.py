from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltair.evaluation.loadgen.logs import (
    MIXED,
    LoadGenError,
    LoadGenResult,
    QueryLog,
    Stamps,
    _join,
    check_latencies,
    delay_problem,
    read_query_log,
    read_verdict,
    summarize,
)
from veltair.serving.loop.query import Ending, Query, QueryRecord


def sample_line(sequence, at_us, sample, issue_ns, complete_ns):
    """Return a query's line of a trace, as LoadGen 6.0.17 writes it."""
    return (
        f'{{"name":"Sample","cat":"default","ph":"b","pid":7,"id":{sequence},"ts":{at_us:.3f},"args":'
        f'{{"sample_seq":{sequence},"query_seq":{sequence},"sample_idx":{sample},'
        f'"issue_start_ns":{issue_ns},"complete_ns":{complete_ns}}}}},\n'
    )


START = '{"traceEvents":[\n{"name":"LogDetail","ph":"X","ts":1.0,"args":{"key":""loadgen_version""}},\n'
END = '{"name":"LastTrace"}\n],\n"displayTimeUnit":"ns"\n}\n'
# Completed in another order than issued: 1.5 ms after the first, the second is scheduled.
SECOND = sample_line(1, 1785.504, 2, 300, 1_000_000)
FIRST = sample_line(0, 285.504, 0, 70, 5_000_000)


def write(path, *parts):
    path.write_text("".join(parts))
    return path


def test_a_trace_is_read_in_the_order_of_issue_from_the_first_scheduled_query(tmp_path):
    log = read_query_log(write(tmp_path / "trace", START, SECOND, FIRST, END))
    assert log.scheduled_ns.tolist() == [0, 1_500_000]
    assert log.sample_index.tolist() == [0, 2]
    assert log.issue_delay_ns.tolist() == [70, 300]
    assert log.latency_ns.tolist() == [5_000_000, 1_000_000]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((START, FIRST, SECOND), "cut off after 2 queries"),
        ((START, FIRST, SECOND[:60]), "line 4: not a query"),
        ((START, FIRST, SECOND.replace("complete_ns", "done_ns"), END), "line 4: not a query"),
        ((START, SECOND, END), "1 queries, but not each of 0"),
        ((START, FIRST, FIRST, END), "2 queries, but not each of 0"),
        ((START, END), "no query as LoadGen 6 writes it"),
        (("\x00\x01",), "cut off after 0 queries"),
    ],
)
def test_a_malformed_trace_is_refused(tmp_path, parts, message):
    with pytest.raises(LoadGenError, match=message):
        read_query_log(write(tmp_path / "trace", *parts))


def test_a_missing_trace_is_refused(tmp_path):
    with pytest.raises(LoadGenError, match="enable_trace"):
        read_query_log(tmp_path / "trace")


def test_a_log_without_a_verdict_is_refused(tmp_path):
    log = write(tmp_path / "detail", ':::MLLOG {"key": "result_validity", "value": "VALID"}\n', "cut of")
    with pytest.raises(LoadGenError, match="lacks result_query_count"):
        read_verdict(log, ("a",))
    with pytest.raises(LoadGenError, match="cannot be read"):
        read_verdict(tmp_path / "none", ("a",))


def trace_of(latencies_ns, delays_ns=None):
    count = len(latencies_ns)
    return QueryLog(
        scheduled_ns=np.arange(count) * 1_000_000,
        sample_index=np.zeros(count, dtype=np.int64),
        issue_delay_ns=np.zeros(count, dtype=np.int64) if delays_ns is None else np.array(delays_ns),
        latency_ns=np.array(latencies_ns),
    )


def record(number, model="a", ending=Ending.SERVED):
    return QueryRecord(Query(number, model, 7.0, 0.01), ending, 7.0, 7.001, 1, 0, 0.001)


def test_a_joined_record_is_worked_out_by_hand():
    # The second query was scheduled 1 ms after LoadGen's first, at 10 s, and took 12 ms of 10 allowed.
    joined = _join([record(0), record(1)], trace_of([3_000_000, 12_000_000]), ("a",), origin_s=10.0)
    assert joined[1].query.arrival_s == pytest.approx(10.001)
    assert joined[1].end_s == pytest.approx(10.013)
    assert [one.on_time for one in joined] == [True, False]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(0)], "1 records of 1 queries, but LoadGen issued 2"),
        ([record(0), record(0)], "2 records of 1 queries"),
        ([record(0), record(1), record(1)], "3 records of 2 queries"),
        ([record(1), record(2)], "2 records of 2 queries"),
        ([record(0), record(1, model="b")], "query 1 is recorded for b"),
    ],
)
def test_records_that_are_not_of_the_run_are_not_joined(records, message):
    with pytest.raises(ValueError, match=message):
        _join(records, trace_of([1, 1]), ("a",))


def test_a_trace_of_more_samples_than_models_is_not_joined():
    with pytest.raises(ValueError, match="asked for sample 0, but only 0 samples"):
        _join([record(0)], trace_of([1]), ())


def test_arrays_of_unlike_lengths_are_no_trace():
    with pytest.raises(ValueError, match="give one entry a query"):
        trace_of([1, 1], [0])


def test_a_run_is_spoilt_where_one_query_in_a_hundred_is_issued_too_late():
    # 5 % of 10 ms is 0.5 ms. Of 200 queries 3 are later: the 99th percentile is among them; of 1 it is not.
    assert delay_problem(trace_of([1] * 200, [100_000] * 199 + [600_000]), 0.010) == ""
    problem = delay_problem(trace_of([1] * 200, [100_000] * 197 + [600_000] * 3), 0.010)
    assert "0.60 ms late, over 5% of the tightest latency target (0.50 ms)" in problem


def verdict_of(latencies_ns, target_ns=10_000_000, **changes):
    """Return LoadGen's verdict on latencies, its sums worked out as LoadGen does."""
    ordered = sorted(latencies_ns)
    late = sum(latency > target_ns for latency in ordered)
    p95 = ordered[int(len(ordered) * 0.95)]
    verdict = LoadGenResult(True, "", len(ordered), late, target_ns, sum(ordered) // len(ordered), p95)
    return replace(verdict, **changes)


def summary_of(trace, stamps, sample_models=("a",), tightest_qos_s=1.0):
    verdict = verdict_of(trace.latency_ns.tolist())
    return summarize(trace, verdict, sample_models, tightest_qos_s, stamps)


def test_the_origin_is_told_by_the_promptest_callback():
    # Scheduled at 0 and 1 ms, issued 0.1 and 0.2 ms late; the callbacks ran at 5.00015 s and 5.00121 s, which
    # is 0.05 ms and 0.01 ms after the issue if the origin is 5 s. The second is the prompter: 5.00001 s.
    trace = trace_of([2_000_000, 2_000_000], [100_000, 200_000])
    sent_ns = np.array([5_000_150_000, 5_001_210_000])
    stamps = Stamps(sent_ns, np.array([5.00025, 5.00131]), np.array([5_001_900_000, 5_002_900_000]))
    summary = summary_of(trace, stamps)
    assert summary.origin_s == pytest.approx(5.00001, abs=1e-9)
    assert summary.delivery_p50_s == pytest.approx(0.0001, abs=1e-9)


def stamps_of(trace, origin_ns, callback_ns, completion_ns, jumps_ns=None):
    """Return the stamps of a run whose callbacks and completions took as long as said.

    `jumps_ns` is by how much LoadGen's clock had been set forward when it noted each issue and each end.
    """
    issue_jump_ns, end_jump_ns = jumps_ns or (0, 0)
    sent_ns = origin_ns + trace.scheduled_ns + trace.issue_delay_ns - issue_jump_ns + callback_ns
    completed_ns = origin_ns + trace.scheduled_ns + trace.latency_ns - end_jump_ns - completion_ns
    return Stamps(sent_ns, sent_ns / 1e9, completed_ns)


delays = st.integers(0, 2_000_000_000)


@given(st.lists(st.tuples(delays, delays, delays, delays), min_size=1, max_size=20), st.integers(0, 2**50))
def test_no_delay_however_long_looks_like_a_clock_that_was_set(rows, origin_ns):
    delay_ns, service_ns, callback_ns, completion_ns = np.array(rows, dtype=np.int64).T
    trace = trace_of(delay_ns + callback_ns + service_ns + completion_ns, delay_ns)
    summary = summary_of(trace, stamps_of(trace, origin_ns, callback_ns, completion_ns))
    assert summary.origin_s * 1e9 == pytest.approx(origin_ns + callback_ns.min(), abs=1e6)


@pytest.mark.parametrize("jump_ns", [3_000_000, -3_000_000])
@pytest.mark.parametrize("first_set", [1, 2, 5])
def test_a_clock_set_by_more_than_the_promptest_messages_took_is_found(jump_ns, first_set):
    # Before the query `first_set` of 6 the clock is set by 3 ms; callbacks and completions take 0.1 ms.
    trace = trace_of([5_000_000] * 6)
    jumps_ns = np.where(np.arange(6) >= first_set, jump_ns, 0)
    stamps = stamps_of(trace, 7_000_000_000, 100_000, 100_000, (jumps_ns, jumps_ns))
    with pytest.raises(LoadGenError, match=r"system's clock.*was set by 0\.0028 s or more"):
        summary_of(trace, stamps)


def test_a_clock_set_while_the_last_query_is_served_is_found():
    trace = trace_of([5_000_000] * 2)
    ends_ns = np.array([0, -3_000_000])
    with pytest.raises(LoadGenError, match="system's clock"):
        summary_of(trace, stamps_of(trace, 7_000_000_000, 100_000, 100_000, (0, ends_ns)))


@pytest.mark.parametrize(("sent", "completed", "judged"), [(1, 2, 2), (2, 1, 2), (2, 2, 3)])
def test_arrivals_completions_trace_and_verdict_that_differ_in_number_are_refused(sent, completed, judged):
    stamps = Stamps(np.zeros(sent), np.zeros(sent), np.zeros(completed))
    message = f"{sent} arrivals and {completed} completions, but 2 queries in LoadGen's trace and {judged}"
    with pytest.raises(LoadGenError, match=message):
        summarize(trace_of([1, 1]), verdict_of([1, 1], query_count=judged), ("a",), 1.0, stamps)


LATENCIES_NS = [1_000_000, 2_000_000, 12_000_001]  # mean 5 000 000 1/3; at floor(0.95 x 3) = 2 the last one


def test_latencies_that_add_up_to_loadgens_sums_are_accepted():
    verdict = LoadGenResult(False, "", 3, 1, 10_000_000, 5_000_000, 12_000_001)
    check_latencies([latency / 1e9 for latency in LATENCIES_NS], verdict, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_count": 4}, "here: the number of queries is 3, but 4 in LoadGen's detail log"),
        ({"mean_latency_ns": 5_000_001}, "here: the mean latency in ns is 5000000, but 5000001 in"),
        (
            {"p95_latency_ns": 12_000_000},
            "here: the p95 latency in ns is 12000001, but 12000000 in",
        ),
        ({"late_count": 2}, "here: the number of queries over 10000000 ns is 1, but 2 in LoadGen's"),
    ],
)
def test_a_sum_that_differs_from_loadgens_is_named_with_both_values(change, message):
    with pytest.raises(LoadGenError, match=message):
        check_latencies(
            [latency / 1e9 for latency in LATENCIES_NS], verdict_of(LATENCIES_NS, **change), "here"
        )


def test_no_latencies_are_a_number_that_differs():
    with pytest.raises(LoadGenError, match="the number of queries is 0, but 3"):
        check_latencies([], verdict_of(LATENCIES_NS), "here")


@given(
    st.lists(st.integers(1, 10**11), min_size=1, max_size=40),
    st.integers(1, 10**11),
    st.floats(0, 1e5),
)
def test_records_on_any_clock_of_a_day_have_loadgens_sums_to_the_nanosecond(latencies_ns, target_ns, zero_s):
    trace = trace_of(latencies_ns)
    verdict = verdict_of(latencies_ns, target_ns)
    stamps = stamps_of(trace, 100_000_000_000_000, 0, 0)
    summary = summarize(trace, verdict, ("a",), 1.0, stamps)
    joined = summary.join([record(number) for number in range(len(trace))], zero_s)
    assert [round(one.latency_s * 1e9) for one in joined] == latencies_ns


def test_records_that_do_not_add_up_to_the_log_are_not_joined():
    trace = trace_of([1_000_000, 3_000_000])
    summary = summary_of(trace, stamps_of(trace, 0, 0, 0))
    other = replace(summary, verdict=verdict_of([1_000_000, 5_000_000]))
    assert len(summary.join([record(0), record(1)], 0.0)) == 2
    with pytest.raises(LoadGenError, match="the mean latency in ns is 2000000, but 3000000"):
        other.join([record(0), record(1)], 0.0)


def test_a_verdict_goes_by_its_model_and_that_of_several_by_a_star():
    trace = trace_of([1_000_000])
    one = summary_of(trace, stamps_of(trace, 0, 0, 0), ("a", "a"))
    two = summary_of(trace, stamps_of(trace, 0, 0, 0), ("a", "b"))
    assert [list(one.verdicts), list(two.verdicts)] == [["a"], [MIXED]]


def test_the_issue_delay_is_told_by_its_median_and_its_99th_percentile():
    trace = trace_of([5_000_000] * 201, list(range(0, 201_000, 1_000)))
    summary = summary_of(trace, stamps_of(trace, 0, 0, 0))
    assert summary.issue_delay_p50_s == pytest.approx(100e-6)
    assert summary.issue_delay_p99_s == pytest.approx(198e-6)


def test_a_run_with_too_long_an_issue_delay_is_a_problem_with_advice():
    trace = trace_of([9_000_000] * 10, [600_000] * 10)
    assert summary_of(trace, stamps_of(trace, 0, 0, 0), tightest_qos_s=0.012).problem == ""
    problem = summary_of(trace, stamps_of(trace, 0, 0, 0), tightest_qos_s=0.0119).problem
    assert "keep a core free for it, stop other programs, or lower the rate" in problem

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from veltair.evaluation import loadgen as loadgen_module
from veltair.evaluation.arrivals import Seeds, sample_indices, server_queries, share_samples
from veltair.evaluation.loadgen import LoadGenProcess, ServerRun
from veltair.evaluation.trace import (
    LoadGenError,
    Trace,
    Verdict,
    delay_problem,
    join,
    read_trace,
    read_verdict,
    summarize,
)
from veltair.serving.query import Ending, Query, QueryRecord

MIXED = share_samples({"a": 1, "b": 3}, copies=4)
QOS_S = {"a": 0.5, "b": 1.0}
ROOT = Path(loadgen_module.__file__).parents[2]


def server_run(outdir, **changes):
    settings = {
        "qps": 200.0,
        "min_duration_ms": 2000,
        "min_query_count": 100,
        "seed": 12345,
        "sample_models": MIXED,
        "target_latency_s": 0.5,
        "outdir": outdir,
    }
    return ServerRun(**{**settings, **changes})


class FakeEngine:
    """Answers each query a few ms after it came, and rejects every tenth at once."""

    def __init__(self, sample_models):
        self.sample_models = sample_models
        self.events = queue.SimpleQueue()
        self.arrivals = []
        self.readied = threading.Event()

    def start(self, loadgen):
        loadgen.start(
            on_ready=self.readied.set,
            on_arrival=lambda *arrival: self.events.put(arrival),
            on_flush=lambda: self.events.put("flush"),
            on_failure=self.events.put,
        )

    def serve(self, loadgen):
        records = []
        while isinstance(event := self.events.get(timeout=60), tuple):
            self.arrivals.append(event)
            number, sample, received_s = event
            rejected = number % 10 == 9
            if not rejected:
                time.sleep(0.002)
            loadgen.complete(number)
            model = self.sample_models[sample]
            records.append(
                QueryRecord(
                    query=Query(number, model, received_s, QOS_S[model]),
                    ending=Ending.REJECTED if rejected else Ending.SERVED,
                    start_s=received_s,
                    end_s=time.monotonic(),
                    blocks=0 if rejected else 2,
                    conflicts=0 if rejected else 1,
                    core_s=0.0 if rejected else 0.004,
                    reason="full" if rejected else "",
                )
            )
        return records, event


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Two seconds of the real LoadGen over a mixed library: engine, records, summary."""
    engine = FakeEngine(MIXED)
    # A target of 1 ms, which the engine misses wherever it serves: so LoadGen has late queries to count.
    run = server_run(tmp_path_factory.mktemp("served") / "new" / "outdir", target_latency_s=0.001)
    with LoadGenProcess(run) as loadgen:
        engine.start(loadgen)
        records, last = engine.serve(loadgen)
        assert last == "flush"
        return engine, records, loadgen.wait(60)


def test_loadgen_schedules_and_asks_for_exactly_what_arrivals_says(served):
    engine, _, summary = served
    expected = server_queries(200.0, 2000, 100, 12345, sample_models=MIXED, qos_s=QOS_S)
    assert len(expected) == 402
    assert [query.arrival_s for query in expected] == (summary.trace.scheduled_ns / 1e9).tolist()
    assert [query.model for query in expected] == [MIXED[sample] for _, sample, _ in engine.arrivals]
    seeds = Seeds.derive(12345)
    indices = sample_indices(402, len(MIXED), 100, seeds.sample_index, seeds.qsl)
    assert [sample for _, sample, _ in engine.arrivals] == indices.tolist()
    assert summary.trace.sample_index.tolist() == indices.tolist()
    assert [number for number, _, _ in engine.arrivals] == list(range(402))


def test_the_engine_was_ready_before_the_first_query(served):
    assert served[0].readied.is_set()


def test_joined_records_have_the_official_latency_and_the_engines_endings(served):
    _, records, summary = served
    joined = join(records[::-1], summary.trace, MIXED, summary.origin_s)
    official_s = summary.trace.latency_ns / 1e9
    assert [record.latency_s for record in joined] == pytest.approx(official_s.tolist(), abs=1e-9)
    assert [record.ending for record in joined] == [record.ending for record in records]
    assert [(r.blocks, r.conflicts, r.core_s) for r in joined] == [
        (r.blocks, r.conflicts, r.core_s) for r in records
    ]


def test_joined_records_stay_on_the_clock_of_the_engine(served):
    _, records, summary = served
    joined = join(records, summary.trace, MIXED, summary.origin_s)
    for official, own in zip(joined, records, strict=True):
        # Scheduled, then received, then started; and LoadGen hears of the end after the engine knows of it.
        assert official.query.arrival_s <= own.query.arrival_s
        assert official.query.arrival_s <= official.start_s <= official.end_s


def test_a_rejection_is_a_miss_though_loadgen_sees_a_fast_answer(served):
    _, records, summary = served
    joined = join(records, summary.trace, MIXED, summary.origin_s)
    rejected = [record for record in joined if record.ending is Ending.REJECTED]
    assert len(rejected) == 40
    assert not any(record.on_time for record in rejected)
    assert all(record.start_s == record.end_s for record in rejected)


def test_loadgen_judges_by_the_target_latency_it_was_given(served):
    summary = served[2]
    assert summary.verdict.late_count == (summary.trace.latency_ns > 1_000_000).sum() >= 362


def test_loadgens_verdict_is_not_given_for_two_models(served):
    verdict = served[2].verdict
    assert verdict.valid is None
    assert verdict.reason == "one target latency for 2 models (a, b)"
    assert verdict.query_count == 402


def test_loadgens_verdict_is_given_for_one_model(tmp_path):
    engine = FakeEngine(("a",))
    # The target is so wide that no machine misses it: the verdict hangs on the number of queries alone.
    run = server_run(tmp_path, qps=400.0, min_duration_ms=250, sample_models=("a",), target_latency_s=60.0)
    with LoadGenProcess(run) as loadgen:
        engine.start(loadgen)
        engine.serve(loadgen)
        verdict = loadgen.wait(60).verdict
    assert (verdict.valid, verdict.reason, verdict.late_count) == (True, "", 0)


def test_too_few_queries_are_never_valid_and_the_reason_says_so(tmp_path):
    engine = FakeEngine(("a",))
    run = server_run(
        tmp_path,
        qps=400.0,
        min_duration_ms=10,
        min_query_count=20,
        sample_models=("a",),
        target_latency_s=60.0,
    )
    with LoadGenProcess(run) as loadgen:
        engine.start(loadgen)
        engine.serve(loadgen)
        summary = loadgen.wait(60)
    assert summary.verdict.valid is False
    assert "early stopping" in summary.verdict.reason
    assert len(summary.trace) == summary.verdict.query_count == 20


def last_event(engine):
    while isinstance(event := engine.events.get(timeout=60), tuple):
        pass
    return event


def is_gone(pid):
    """Return whether a process has ended, waiting for it up to a minute."""
    for _ in range(600):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def test_a_killed_loadgen_is_one_error_for_the_engine_and_for_the_one_who_waits(tmp_path):
    engine = FakeEngine(MIXED)
    with LoadGenProcess(server_run(tmp_path, min_duration_ms=60_000)) as loadgen:
        engine.start(loadgen)
        engine.events.get(timeout=60)
        os.kill(loadgen.pid, signal.SIGKILL)
        assert isinstance(last_event(engine), LoadGenError)
        with pytest.raises(LoadGenError, match="killed by signal 9"):
            loadgen.wait(60)
        with pytest.raises(LoadGenError, match="killed by signal 9"):
            loadgen.complete(0)


def test_an_error_inside_loadgens_process_ends_it_and_is_told(tmp_path):
    engine = FakeEngine(MIXED)
    with LoadGenProcess(server_run(tmp_path, min_duration_ms=60_000)) as loadgen:
        engine.start(loadgen)
        loadgen._send(b"no sequence")
        with pytest.raises(LoadGenError, match=r"exited with status 1.*struct\.error"):
            loadgen.wait(60)


def test_a_loadgen_that_cannot_start_says_why(tmp_path, monkeypatch):
    (tmp_path / "mlperf_loadgen.py").write_text("raise ImportError('no LoadGen here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    engine = FakeEngine(MIXED)
    with (
        LoadGenProcess(server_run(tmp_path / "outdir")) as loadgen,
        pytest.raises(LoadGenError, match=r"after 0 arrivals.*ImportError: no LoadGen here"),
    ):
        engine.start(loadgen)
    assert not engine.readied.is_set()


def test_a_query_that_is_never_completed_is_a_timeout_that_says_so(tmp_path):
    engine = FakeEngine(MIXED)
    with LoadGenProcess(server_run(tmp_path, min_duration_ms=0, min_query_count=2)) as loadgen:
        engine.start(loadgen)
        assert last_event(engine) == "flush"
        with pytest.raises(LoadGenError, match="2 arrivals, 2 of them not completed"):
            loadgen.wait(0.1)
        assert is_gone(loadgen.pid)


def test_an_engine_that_fails_leaves_no_process_behind(tmp_path):
    engine = FakeEngine(MIXED)
    with (
        pytest.raises(ZeroDivisionError),
        LoadGenProcess(server_run(tmp_path, min_duration_ms=60_000)) as loadgen,
    ):
        engine.start(loadgen)
        raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(loadgen.pid, 0)


def test_a_callback_that_fails_ends_the_run(tmp_path):
    failures = queue.SimpleQueue()
    with LoadGenProcess(server_run(tmp_path, min_duration_ms=60_000)) as loadgen:
        loadgen.start(
            on_ready=lambda: None,
            on_arrival=lambda *_: 1 / 0,
            on_flush=lambda: None,
            on_failure=failures.put,
        )
        with pytest.raises(LoadGenError, match="ZeroDivisionError"):
            loadgen.wait(60)
        assert isinstance(failures.get(timeout=60), LoadGenError)


def test_loadgen_does_not_outlive_a_parent_that_was_killed(tmp_path):
    # Its only query was issued, so it has nothing more to say and waits for a completion.
    program = f"""
import threading
from pathlib import Path
from veltair.evaluation.loadgen import LoadGenProcess, ServerRun
run = ServerRun(50.0, 0, 1, 1, ("a",), 1.0, Path({str(tmp_path)!r}))
loadgen = LoadGenProcess(run)
flushed = threading.Event()
loadgen.start(
    on_ready=lambda: None, on_arrival=lambda *_: None, on_flush=flushed.set, on_failure=lambda error: None
)
flushed.wait()
print(loadgen.pid, flush=True)
loadgen.wait(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    assert is_gone(pid)


def test_a_query_is_completed_once_and_only_if_it_arrived(tmp_path):
    engine = FakeEngine(MIXED)
    with LoadGenProcess(server_run(tmp_path, min_duration_ms=60_000)) as loadgen:
        engine.start(loadgen)
        number, _, _ = engine.events.get(timeout=60)
        loadgen.complete(number)
        with pytest.raises(LookupError, match="query 0 is not open"):
            loadgen.complete(number)
        with pytest.raises(LookupError, match="query 999999 is not open"):
            loadgen.complete(999999)


def test_a_process_that_was_not_started_cannot_be_waited_for_and_one_runs_once(tmp_path):
    loadgen = LoadGenProcess(server_run(tmp_path, min_duration_ms=0, min_query_count=1))
    with pytest.raises(RuntimeError, match="call start first"):
        loadgen.wait(1)
    with pytest.raises(RuntimeError, match="call start first"):
        _ = loadgen.pid
    with loadgen:
        FakeEngine(MIXED).start(loadgen)
        with pytest.raises(RuntimeError, match="make a new one"):
            FakeEngine(MIXED).start(loadgen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qps": 0.0}, "rate is 0.0"),
        ({"sample_models": ()}, "sample_models is empty"),
        ({"target_latency_s": 0.0}, "target_latency_s is 0.0"),
        ({"target_latency_s": float("nan")}, "target_latency_s is nan"),
    ],
)
def test_a_run_that_loadgen_could_not_do_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        server_run(tmp_path, **change)


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
    trace = read_trace(write(tmp_path / "trace", START, SECOND, FIRST, END))
    assert trace.scheduled_ns.tolist() == [0, 1_500_000]
    assert trace.sample_index.tolist() == [0, 2]
    assert trace.issue_delay_ns.tolist() == [70, 300]
    assert trace.latency_ns.tolist() == [5_000_000, 1_000_000]


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
        read_trace(write(tmp_path / "trace", *parts))


def test_a_missing_trace_is_refused(tmp_path):
    with pytest.raises(LoadGenError, match="enable_trace"):
        read_trace(tmp_path / "trace")


def test_a_log_without_a_verdict_is_refused(tmp_path):
    log = write(tmp_path / "detail", ':::MLLOG {"key": "result_validity", "value": "VALID"}\n', "cut of")
    with pytest.raises(LoadGenError, match="lacks result_query_count"):
        read_verdict(log, ("a",))
    with pytest.raises(LoadGenError, match="cannot be read"):
        read_verdict(tmp_path / "none", ("a",))


def trace_of(latencies_ns, delays_ns=None):
    count = len(latencies_ns)
    return Trace(
        scheduled_ns=np.arange(count) * 1_000_000,
        sample_index=np.zeros(count, dtype=np.int64),
        issue_delay_ns=np.zeros(count, dtype=np.int64) if delays_ns is None else np.array(delays_ns),
        latency_ns=np.array(latencies_ns),
    )


def record(number, model="a", ending=Ending.SERVED):
    return QueryRecord(Query(number, model, 7.0, 0.01), ending, 7.0, 7.001, 1, 0, 0.001)


def test_a_joined_record_is_worked_out_by_hand():
    # The second query was scheduled 1 ms after LoadGen's first, at 10 s, and took 12 ms of 10 allowed.
    joined = join([record(0), record(1)], trace_of([3_000_000, 12_000_000]), ("a",), origin_s=10.0)
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
        join(records, trace_of([1, 1]), ("a",))


def test_a_trace_of_more_samples_than_models_is_not_joined():
    with pytest.raises(ValueError, match="asked for sample 0, but only 0 samples"):
        join([record(0)], trace_of([1]), ())


def test_arrays_of_unlike_lengths_are_no_trace():
    with pytest.raises(ValueError, match="give one entry a query"):
        trace_of([1, 1], [0])


def test_a_run_is_spoilt_where_one_query_in_a_hundred_is_issued_too_late():
    # 5 % of 10 ms is 0.5 ms. Of 200 queries 3 are later: the 99th percentile is among them; of 1 it is not.
    assert delay_problem(trace_of([1] * 200, [100_000] * 199 + [600_000]), 0.010) == ""
    problem = delay_problem(trace_of([1] * 200, [100_000] * 197 + [600_000] * 3), 0.010)
    assert "0.60 ms late, over 5% of the tightest latency target (0.50 ms)" in problem


def test_the_origin_is_told_by_the_promptest_callback():
    # Scheduled at 0 and 1 ms, issued 0.1 and 0.2 ms late; the callbacks ran at 5.00015 s and 5.00121 s, which
    # is 0.05 ms and 0.01 ms after the issue if the origin is 5 s. The second is the prompter: 5.00001 s.
    trace = trace_of([1, 1], [100_000, 200_000])
    sent_ns = np.array([5_000_150_000, 5_001_210_000])
    summary = summarize(trace, Verdict(True, "", 2, 0), 1.0, sent_ns, np.array([5.00025, 5.00131]))
    assert summary.origin_s == pytest.approx(5.00001, abs=1e-9)
    assert summary.delivery_p50_s == pytest.approx(0.0001, abs=1e-9)


@pytest.mark.parametrize(("sent", "judged"), [(1, 2), (2, 3)])
def test_arrivals_trace_and_verdict_that_differ_in_number_are_refused(sent, judged):
    with pytest.raises(LoadGenError, match=f"{sent} arrivals, but 2 queries in LoadGen's trace and {judged}"):
        summarize(trace_of([1, 1]), Verdict(True, "", judged, 0), 1.0, np.zeros(sent), np.zeros(sent))

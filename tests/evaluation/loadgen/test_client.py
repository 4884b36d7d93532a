import os
import queue
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.evaluation.loadgen_fakes import MIXED_SAMPLES, QOS_S, FakeEngine, is_gone, server_run
from veltair.evaluation.loadgen import client as loadgen_module
from veltair.evaluation.loadgen.arrivals import Seeds, sample_indices, server_queries
from veltair.evaluation.loadgen.client import LoadGenProcess
from veltair.evaluation.loadgen.logs import LoadGenError
from veltair.serving.loop.query import Ending

MIXED = MIXED_SAMPLES
ROOT = Path(loadgen_module.__file__).parents[3]


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
    assert [query.arrival_s for query in expected] == (summary.log.scheduled_ns / 1e9).tolist()
    assert [query.model for query in expected] == [MIXED[sample] for _, sample, _ in engine.arrivals]
    seeds = Seeds.derive(12345)
    indices = sample_indices(402, len(MIXED), 100, seeds.sample_index, seeds.qsl)
    assert [sample for _, sample, _ in engine.arrivals] == indices.tolist()
    assert summary.log.sample_index.tolist() == indices.tolist()
    assert [number for number, _, _ in engine.arrivals] == list(range(402))


def test_the_engine_was_ready_before_the_first_query(served):
    assert served[0].readied.is_set()


def test_joined_records_have_the_official_latency_and_the_engines_endings(served):
    _, records, summary = served
    joined = summary.join(records[::-1], zero_s=0.0)
    official_s = summary.log.latency_ns / 1e9
    assert [record.latency_s for record in joined] == pytest.approx(official_s.tolist(), abs=1e-9)
    assert [record.ending for record in joined] == [record.ending for record in records]
    assert [(r.blocks, r.conflicts, r.core_s) for r in joined] == [
        (r.blocks, r.conflicts, r.core_s) for r in records
    ]


def test_joined_records_stay_on_the_clock_of_the_engine(served):
    _, records, summary = served
    joined = summary.join(records, zero_s=0.0)
    for official, own in zip(joined, records, strict=True):
        # Scheduled, then received, then started; and LoadGen hears of the end after the engine knows of it.
        assert official.query.arrival_s <= own.query.arrival_s
        assert official.query.arrival_s <= official.start_s <= official.end_s


def test_a_rejection_is_a_miss_though_loadgen_sees_a_fast_answer(served):
    _, records, summary = served
    joined = summary.join(records, zero_s=0.0)
    rejected = [record for record in joined if record.ending is Ending.REJECTED]
    assert len(rejected) == 40
    assert not any(record.on_time for record in rejected)
    assert all(record.start_s == record.end_s for record in rejected)


def test_loadgen_judges_by_the_target_latency_it_was_given(served):
    summary = served[2]
    assert summary.verdict.late_count == (summary.log.latency_ns > 1_000_000).sum() >= 362


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
    assert len(summary.log) == summary.verdict.query_count == 20


def test_a_killed_loadgen_is_one_error_for_the_engine_and_for_the_one_who_waits(tmp_path):
    engine = FakeEngine(MIXED)
    with LoadGenProcess(server_run(tmp_path, min_duration_ms=60_000)) as loadgen:
        engine.start(loadgen)
        engine.events.get(timeout=60)
        os.kill(loadgen.pids[0], signal.SIGKILL)
        assert isinstance(engine.last_event(), LoadGenError)
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
        assert engine.last_event() == "flush"
        with pytest.raises(LoadGenError, match="2 arrivals, 2 of them not completed"):
            loadgen.wait(0.1)
        assert is_gone(loadgen.pids[0])


def test_an_engine_that_fails_leaves_no_process_behind(tmp_path):
    engine = FakeEngine(MIXED)
    with (
        pytest.raises(ZeroDivisionError),
        LoadGenProcess(server_run(tmp_path, min_duration_ms=60_000)) as loadgen,
    ):
        engine.start(loadgen)
        raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(loadgen.pids[0], 0)


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
from veltair.evaluation.loadgen.client import LoadGenProcess
from veltair.evaluation.loadgen.client_runs import ServerRun
run = ServerRun(50.0, 0, 1, 1, ("a",), 1.0, Path({str(tmp_path)!r}))
loadgen = LoadGenProcess(run)
flushed = threading.Event()
loadgen.start(
    on_ready=lambda: None, on_arrival=lambda *_: None, on_flush=flushed.set, on_failure=lambda error: None
)
flushed.wait()
print(loadgen.pids[0], flush=True)
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
        _ = loadgen.pids[0]
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

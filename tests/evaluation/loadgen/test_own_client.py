from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.evaluation.loadgen_fakes import FakeEngine, is_gone
from veltair.config.trace_file import read_trace
from veltair.evaluation.loadgen.client import Limits, LoadGenProcess
from veltair.evaluation.loadgen.client_runs import OWN_CLIENT, DrawnRun
from veltair.evaluation.loadgen.logs import LoadGenError, LoadGenSummary
from veltair.evaluation.loadgen.per_model import LoadGenPerModel, verdict_rows
from veltair.evaluation.loadgen.tenants import TenantLoad, drawn_samples, sample_tenants
from veltair.serving.loop.query import QueryRecord

COPIES = 2
BURSTY = TenantLoad("a", "a", 1.0, 0.5, cv=4.0)
TRACE_S = (2.0, 2.1, 2.1, 3.0)


def traced(folder: Path) -> TenantLoad:
    """Return a tenant that sends as a file has recorded."""
    file = folder / "trace.csv"
    file.write_text("arrival_s\n" + "".join(f"{time_s}\n" for time_s in TRACE_S))
    return TenantLoad("b", "b", 1.0, 1.0, trace=read_trace(file, "b", ["b"]))


def run_of(tenants: Sequence[TenantLoad], folder: Path, qps: float = 200.0, queries: int = 100) -> DrawnRun:
    times_ns, samples = drawn_samples(tenants, qps, 0, queries, 5, COPIES)
    return DrawnRun(times_ns, samples, sample_tenants(tenants, COPIES), 0.5, folder / "out")


Served = tuple[DrawnRun, FakeEngine, list[QueryRecord], LoadGenSummary]


def served_by(run: DrawnRun, answer_s: float = 0.002) -> Served:
    engine = FakeEngine(run.sample_models, answer_s)
    with LoadGenProcess(run) as client:
        engine.start(client)
        records, last = engine.serve(client)
        assert last == "flush"
        return run, engine, records, client.wait(60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Half a second of a tenant that sends in bursts and one that sends as recorded."""
    folder = tmp_path_factory.mktemp("own")
    return served_by(run_of([BURSTY, traced(folder)], folder))


def test_what_was_drawn_is_sent_in_its_order_and_so_logged(served: Served) -> None:
    run, engine, _, summary = served
    assert [number for number, _, _ in engine.arrivals] == list(range(100))
    assert [sample for _, sample, _ in engine.arrivals] == run.sample_index.tolist()
    assert summary.log.scheduled_ns.tolist() == run.scheduled_ns.tolist()
    assert summary.log.sample_index.tolist() == run.sample_index.tolist()


def test_no_query_is_sent_before_its_time_and_each_ones_lateness_is_noted(served: Served) -> None:
    _, engine, _, summary = served
    delays_s = summary.log.issue_delay_ns / 1e9
    received_s = np.array([received for _, _, received in engine.arrivals])
    due_s = summary.origin_s + summary.log.scheduled_ns / 1e9
    assert (delays_s >= 0).all() and (received_s >= due_s).all()
    assert summary.issue_delay_p99_s == np.percentile(summary.log.issue_delay_ns, 99) / 1e9


def test_a_late_client_spoils_the_run_as_a_late_loadgen_does(tmp_path: Path) -> None:
    run = replace(run_of([BURSTY], tmp_path, queries=20), target_latency_s=1e-9)
    *_, summary = served_by(run)
    assert summary.problem.startswith(f"{OWN_CLIENT} issued 1 % of the queries more than")


def test_gaps_have_the_coefficient_of_variation_that_was_asked_for(tmp_path: Path) -> None:
    gaps = np.diff(run_of([BURSTY], tmp_path, queries=20_000).schedule_ns())
    assert gaps.std() / gaps.mean() == pytest.approx(4.0, rel=0.1)


def test_a_recording_is_sent_with_its_own_gaps(tmp_path: Path) -> None:
    # Its length is 1 s and a mean gap more: 4/3 s for 4 queries, so 3/s is the rate at which it was recorded.
    gaps_s = np.diff(run_of([traced(tmp_path)], tmp_path, qps=3.0, queries=9).schedule_ns()) / 1e9
    assert sorted({round(gap_s, 6) for gap_s in gaps_s}) == [0.0, 0.1, 0.333333, 0.9]


def test_records_join_with_the_clients_times(served: Served) -> None:
    _, _, records, summary = served
    joined = summary.join(records, zero_s=0.0)
    latencies_s = (summary.log.latency_ns / 1e9).tolist()
    assert [record.latency_s for record in joined] == pytest.approx(latencies_s, abs=1e-9)
    assert all(record.latency_s >= 0 for record in joined)


def test_nobody_but_us_judges_such_a_run_and_tables_say_so(served: Served) -> None:
    _, _, records, summary = served
    (row,) = verdict_rows(summary, summary.join(records, zero_s=0.0))
    assert (row["loadgen_valid"], row["loadgen_reason"]) == (None, OWN_CLIENT)
    assert (summary.client, summary.verdict.query_count) == (OWN_CLIENT, 100)
    assert row["loadgen_p95_s"] == sorted(summary.log.latency_ns)[95] / 1e9


def test_a_client_that_dies_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of([BURSTY], tmp_path)
    monkeypatch.setattr(DrawnRun, "settings_text", lambda self: '{"arrivals": "gone.csv", "log": "log.csv"}')
    with LoadGenProcess(run) as client, pytest.raises(LoadGenError) as caught:
        client.start(on_arrival=lambda *_: None, on_flush=lambda: None, on_failure=lambda _: None)
    assert f"{OWN_CLIENT}'s process exited with status 1 after 0 arrivals" in str(caught.value)
    assert "gone.csv" in str(caught.value)


def test_a_suspended_client_is_found_by_its_schedule_and_leaves_no_process(tmp_path: Path) -> None:
    run = DrawnRun(np.array([0, 10**11]), np.array([0, 0]), ("a",), 0.5, tmp_path / "out")
    engine = FakeEngine(("a",))
    with LoadGenProcess(run, Limits(stall_s=-100.0, tick_s=0.05)) as client:
        engine.start(client)
        error, (pid,) = engine.last_event(), client.pids
    assert f"{OWN_CLIENT} hangs: query" in str(error) and is_gone(pid)


def test_a_log_of_other_queries_is_refused(served: Served) -> None:
    run, *_ = served
    other = replace(run, scheduled_ns=run.scheduled_ns + np.arange(100))
    with pytest.raises(LoadGenError, match="is not of the 100 queries given"):
        other.read_logs()


def test_it_cannot_be_split_by_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loadgen_per_model: false"):
        LoadGenPerModel(run_of([BURSTY], tmp_path), {"a": 1.0})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scheduled_ns": np.array([0, 5, 4])}, "times do not ascend from 0"),
        ({"scheduled_ns": np.array([1, 5, 6])}, "times do not ascend from 0"),
        ({"scheduled_ns": np.array([0, 5])}, "2 times for 3 samples"),
        ({"sample_index": np.array([0, 1, 0])}, "reach from 0 to 1, but there are 1 samples"),
        ({"sample_models": ()}, "sample_models is empty"),
        ({"target_latency_s": 0.0}, "target_latency_s is 0.0"),
    ],
)
def test_impossible_runs_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"scheduled_ns": np.array([0, 5, 6]), "sample_index": np.zeros(3, dtype=np.int64)}
    given |= {"sample_models": ("a",), "target_latency_s": 1.0, "outdir": tmp_path}
    with pytest.raises(ValueError, match=said):
        DrawnRun(**given | change)

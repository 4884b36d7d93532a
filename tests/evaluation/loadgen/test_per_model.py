import os
import queue
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.evaluation.loadgen_fakes import (
    MIXED_SAMPLES,
    QOS_S,
    FakeEngine,
    loadgen_pids,
    script_loadgen,
    server_run,
)
from veltair.evaluation.loadgen.arrivals import server_queries
from veltair.evaluation.loadgen.client import Limits
from veltair.evaluation.loadgen.logs import LoadGenError, LoadGenResult, LoadGenSummary, QueryLog
from veltair.evaluation.loadgen.per_model import LoadGenPerModel, PerModelSummary, split, verdict_rows
from veltair.serving.loop.query import Ending, Query, QueryRecord

QOS_IN_TIME_S = {"a": 60.0, "b": 120.0}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Half a second of two real LoadGens: their folder, engine, records and summary."""
    folder = tmp_path_factory.mktemp("tenants")
    engine = FakeEngine()
    run = server_run(folder, min_duration_ms=500, min_query_count=40)
    with LoadGenPerModel(run, QOS_IN_TIME_S) as tenants:
        engine.start(tenants)
        records, last = engine.serve(tenants)
        assert last == "flush"
        return run, engine, records, tenants.wait(60)


def test_each_tenant_is_asked_for_by_a_schedule_of_its_own(served: Any) -> None:
    run, engine, _, summary = served
    for position, (tenant, own) in enumerate(split(run, QOS_IN_TIME_S).items()):
        planned = server_queries(
            own.qps,
            own.min_duration_ms,
            own.min_query_count,
            own.seed,
            sample_models=own.sample_models,
            qos_s=QOS_IN_TIME_S,
        )
        log = summary.by_model[tenant].log
        assert [query.arrival_s for query in planned] == (log.scheduled_ns / 1e9).tolist()
        asked = [number for number, sample, _ in engine.arrivals if MIXED_SAMPLES[sample] == tenant]
        assert asked == [2 * sequence + position for sequence in range(len(planned))]


def test_query_ids_are_unique_over_tenants_and_all_samples_are_asked_for_by_their_index(served: Any) -> None:
    _, engine, records, _ = served
    assert len({record.query.id for record in records}) == len(records)
    assert {sample for _, sample, _ in engine.arrivals} == set(range(len(MIXED_SAMPLES)))


def test_each_tenant_has_loadgens_official_verdict(served: Any) -> None:
    _, _, records, summary = served
    for tenant, verdict in summary.verdicts.items():
        assert verdict.query_count == sum(record.query.model == tenant for record in records)
        assert verdict.target_latency_ns == QOS_IN_TIME_S[tenant] * 1e9
        assert verdict.valid is not None
        assert verdict.late_count == 0


def test_joined_records_keep_their_ids_and_have_each_tenants_official_latency(served: Any) -> None:
    _, _, records, summary = served
    joined = summary.join(records, zero_s=0.0)
    assert {record.query.id for record in joined} == {record.query.id for record in records}
    arrivals_s = [record.query.arrival_s for record in joined]
    assert arrivals_s == sorted(arrivals_s)
    for position, one in enumerate(summary.by_model.values()):
        own = [record for record in joined if record.query.id % 2 == position]
        official_s = one.log.latency_ns / 1e9
        assert [record.latency_s for record in own] == pytest.approx(official_s.tolist(), abs=1e-9)
        assert own[0].query.arrival_s == pytest.approx(one.origin_s)


def test_the_engine_is_ready_before_any_tenant_starts_and_hears_of_the_end_once(served: Any) -> None:
    engine = served[1]
    assert engine.readied.is_set()
    assert engine.events.empty()


def test_no_process_of_a_tenant_is_left(served: Any) -> None:
    assert loadgen_pids() == []


def test_a_missing_record_of_a_tenant_is_refused(served: Any) -> None:
    _, _, records, summary = served
    with pytest.raises(ValueError, match="but LoadGen issued"):
        summary.join(records[1:], zero_s=0.0)


def test_records_that_do_not_add_up_name_the_tenant(served: Any) -> None:
    _, _, records, summary = served
    b = summary.by_model["b"]
    other = replace(b, verdict=replace(b.verdict, mean_latency_ns=1))
    with pytest.raises(LoadGenError, match=r"tenant b: .*the mean latency in ns is \d+, but 1 in LoadGen's"):
        PerModelSummary({**summary.by_model, "b": other}, 1.0).join(records, zero_s=0.0)


def test_a_killed_tenant_is_one_error_with_its_name_and_no_process_is_left(tmp_path: Path) -> None:
    engine = FakeEngine()
    with LoadGenPerModel(server_run(tmp_path, min_duration_ms=60_000), QOS_S) as tenants:
        engine.start(tenants)
        engine.events.get(timeout=60)
        os.kill(loadgen_pids()[1], signal.SIGKILL)
        error = engine.last_event()
        assert str(error).startswith("tenant b: LoadGen's process was killed by signal 9")
    assert loadgen_pids() == []
    assert engine.failures() == []


def test_two_killed_tenants_are_one_error(tmp_path: Path) -> None:
    engine = FakeEngine()
    with LoadGenPerModel(server_run(tmp_path, min_duration_ms=60_000), QOS_S) as tenants:
        engine.start(tenants)
        for pid in loadgen_pids():
            os.kill(pid, signal.SIGKILL)
        error = engine.last_event()
        with pytest.raises(LoadGenError) as caught:
            tenants.wait(60)
        assert caught.value is error
    assert engine.failures() == []


def test_a_tenant_that_is_never_ready_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_loadgen(tmp_path, monkeypatch, "time.sleep(600)")
    engine = FakeEngine()
    with (
        pytest.raises(LoadGenError, match=r"tenant a: LoadGen was not ready after"),
        LoadGenPerModel(server_run(tmp_path / "out"), QOS_S, Limits(start_s=0.2)) as tenants,
    ):
        engine.start(tenants)
    assert not engine.readied.is_set()
    assert loadgen_pids() == []


def test_tenants_that_never_end_are_a_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_loadgen(tmp_path, monkeypatch, "load(); issue(1); flush(); time.sleep(600)")
    engine = FakeEngine()
    with LoadGenPerModel(server_run(tmp_path / "out"), QOS_S) as tenants:
        engine.start(tenants)
        assert engine.serve(tenants)[1] == "flush"
        with pytest.raises(LoadGenError, match=r"tenant a: LoadGen did not end within"):
            tenants.wait(0.1)
    assert loadgen_pids() == []
    assert engine.failures() == []


def test_a_completion_of_a_dead_tenant_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_loadgen(tmp_path, monkeypatch, "load(); issue(1); time.sleep(600)")
    engine = FakeEngine()
    arrivals: queue.SimpleQueue[int] = queue.SimpleQueue()
    with LoadGenPerModel(server_run(tmp_path / "out"), QOS_S) as tenants:
        tenants.start(
            on_ready=lambda: None,
            on_arrival=lambda number, *_: arrivals.put(number),
            on_flush=lambda: None,
            on_failure=engine.events.put,
        )
        assert {arrivals.get(timeout=60), arrivals.get(timeout=60)} == {0, 1}
        os.kill(loadgen_pids()[0], signal.SIGKILL)
        engine.last_event()
        with pytest.raises(LoadGenError, match="tenant a: LoadGen's process was killed"):
            tenants.complete(0)
        tenants.complete(1)
        with pytest.raises(LookupError, match="query 0 is not open"):
            tenants.complete(1)


def test_a_mixed_run_is_split_by_its_samples(tmp_path: Path) -> None:
    a, b = split(server_run(tmp_path, min_query_count=101), QOS_S).values()
    assert (a.qps, b.qps) == (50.0, 150.0)
    assert (a.min_query_count, b.min_query_count) == (26, 76)
    assert (a.target_latency_s, b.target_latency_s) == (0.5, 1.0)
    assert (a.sample_models, b.sample_models) == (("a",) * 4, ("b",) * 12)
    assert (a.outdir, b.outdir) == (tmp_path / "a", tmp_path / "b")
    assert len({a.seed, b.seed, 12345}) == 3


def test_tenants_keep_their_seeds_at_another_rate(tmp_path: Path) -> None:
    slow, fast = (split(server_run(tmp_path, qps=qps), QOS_S) for qps in (1.0, 100.0))
    assert [run.seed for run in slow.values()] == [run.seed for run in fast.values()]


def test_a_tenant_without_a_latency_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no latency target for b"):
        LoadGenPerModel(server_run(tmp_path), {"a": 1.0})


def summary_of(delay_ns: int, origin_s: float, valid: bool = True) -> LoadGenSummary:
    """Return what a LoadGen says that issued each of two queries so late, answered after 8 ms and 12 ms."""
    delays = np.full(2, delay_ns)
    trace = QueryLog(
        np.array([0, 1_000_000]), np.zeros(2, np.int64), delays, np.array([8_000_000, 12_000_000])
    )
    reason = "" if valid else "too few"
    verdict = LoadGenResult(valid, reason, 2, 1, 10_000_000, 10_000_000, 12_000_000)
    return LoadGenSummary(trace, verdict, ("a",), origin_s, delay_ns / 1e9, delay_ns / 1e9, 1e-4, 2e-4, "")


def test_the_longest_delays_are_those_of_all_models() -> None:
    tenants = {"a": summary_of(100, 5.0003), "b": summary_of(700, 5.0001), "c": summary_of(300, 5.0002)}
    summary = PerModelSummary(tenants, 0.010)
    assert (summary.issue_delay_p50_s, summary.issue_delay_p99_s) == (7e-7, 7e-7)
    assert (summary.delivery_p50_s, summary.delivery_p99_s) == (1e-4, 2e-4)


def test_every_tenants_issue_delay_is_held_against_the_tightest_target() -> None:
    # 5 % of 10 ms are 0.5 ms.
    tenants = {"a": summary_of(500_000, 5.0), "b": summary_of(500_001, 5.0)}
    problem = PerModelSummary(tenants, 0.010).problem
    assert problem.startswith("tenant b: LoadGen issued 1 % of the queries more than 0.50 ms late")
    assert "tenant a" not in problem
    assert PerModelSummary(tenants, 0.011).problem == ""


def record(number: int, model: str, latency_s: float, ending: Ending = Ending.SERVED) -> QueryRecord:
    return QueryRecord(Query(number, model, 1.0, 0.010), ending, 1.0, 1.0 + latency_s, 1, 0, 0.001)


def test_loadgens_verdict_stands_beside_ours() -> None:
    summary = PerModelSummary({"a": summary_of(0, 5.0), "b": summary_of(0, 5.0, valid=False)}, 0.010)
    records = [
        record(0, "a", 0.008),
        record(2, "a", 0.012),
        record(1, "b", 0.001, Ending.REJECTED),
        record(3, "b", 0.012, Ending.UNFINISHED),
    ]
    a, b = verdict_rows(summary, records)
    assert (a["tenant"], a["queries"], a["on_time"], a["satisfied"]) == ("a", 2, 0.5, False)
    assert (a["loadgen_valid"], a["loadgen_reason"], a["loadgen_late"]) == (True, "", 1)
    assert (a["loadgen_target_s"], a["loadgen_mean_s"], a["loadgen_p95_s"]) == (0.010, 0.010, 0.012)
    assert (b["on_time"], b["rejected"], b["unfinished"]) == (0.0, 1, 1)
    assert (b["loadgen_valid"], b["loadgen_reason"]) == (False, "too few")


def test_a_mixed_run_has_one_row_without_a_verdict_of_loadgen() -> None:
    one = summary_of(0, 5.0)
    mixed = replace(one, sample_models=("a", "b"), verdict=replace(one.verdict, valid=None))
    (row,) = verdict_rows(mixed, [record(0, "a", 0.008), record(1, "b", 0.009)])
    assert (row["tenant"], row["queries"], row["satisfied"], row["loadgen_valid"]) == ("*", 2, True, None)


def test_a_share_of_exactly_95_per_cent_satisfies() -> None:
    records = [record(number, "a", 0.008) for number in range(19)] + [record(19, "a", 0.012)]
    (row,) = verdict_rows(summary_of(0, 5.0), records)
    assert (row["on_time"], row["satisfied"]) == (0.95, True)

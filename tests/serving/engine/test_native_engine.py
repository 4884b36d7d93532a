import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from baselines.planaria import Planaria
from tests.support.serving.engine_builders import ZERO, PythonModel, python_context
from tests.support.serving.pool_builders import launch_workers
from veltair.evaluation.loadgen.child import ARRIVAL, FLUSH, MESSAGE, SEQUENCE
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.workers.pool import Sample
from veltair.serving.__main__ import main
from veltair.serving.engine.log_entries import EntryKind
from veltair.serving.engine.log_timeline import timeline_of
from veltair.serving.engine.native_engine import NativeEngine, Site
from veltair.serving.engine.run_log import replay_run_log, write_run_log
from veltair.serving.engine.watchdog import EngineError
from veltair.serving.loop.open_queries import PolicyError
from veltair.serving.loop.policy import Context, Policy
from veltair.serving.loop.query import Ending, QueryRecord
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions
from veltair.serving.policies.native_spec import DecisionKind, NativePolicySpec, spec_of
from veltair.serving.policies.presets import PolicySource, make_policy

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]
FULL = PolicySource("veltair.serving.policies.adaptive:VeltairFULL", "tuned", {})
FCFS_ALL = PolicySource("baselines.fcfs_all:FcfsAll", "paper", {})
SOURCES = [
    FULL,
    PolicySource("baselines.fcfs_min:FcfsMin", "paper", {}),
    FCFS_ALL,
    PolicySource("baselines.layer_wise:LayerWise", "paper", {"order": "edf"}),
    PolicySource("baselines.planaria:Planaria", "paper", {}),
    PolicySource("baselines.preemptive_edf:PreemptiveEdf", "tuned", {}),
]
Kernels = Sequence[Callable[[], object]]
Maker = Callable[..., NativeEngine]


def made(source: PolicySource, context: Context) -> Policy:
    return make_policy(source.path, context, source.preset, source.options)


@pytest.fixture
def make_engine() -> Iterator[Maker]:
    """Return what makes an engine that has begun to serve "net"; they are stopped at the end."""
    engines: list[NativeEngine] = []

    def make(
        kernels: Kernels,
        policy: Policy | PolicySource = FULL,
        *,
        drain_s: float = 60.0,
        sample: Sample = ZERO,
    ) -> NativeEngine:
        context = context_of(len(kernels))
        policy = made(policy, context) if isinstance(policy, PolicySource) else policy
        site = Site(context, "spread", ObservedSlowdown(), drain_s)
        model = {"net": PythonModel(kernels)}
        engines.append(NativeEngine(site, model, [("net", sample)], launch_workers))
        engines[-1].begin(policy, rings_at_ends=True)
        return engines[-1]

    yield make
    for engine in engines:
        engine.stop()


def context_of(layers: int) -> Context:
    return python_context(CORES, layers)


def nothing() -> None:
    pass


def run(engine: NativeEngine, queries: int) -> list[QueryRecord]:
    """Return the records of queries that all arrive at once."""
    for query_id in range(queries):
        engine.arrive(query_id, 0, time.monotonic())
    engine.flush()
    return list(engine.serve())


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.path)
def test_every_query_is_served_once_with_the_right_answer(source: PolicySource, make_engine: Maker) -> None:
    engine = make_engine([nothing] * 4, source)
    records = run(engine, 30)
    assert sorted(record.query.id for record in records) == list(range(30))
    assert {record.ending for record in records} == {Ending.SERVED}
    assert engine.wrong_answers == 0


def test_layers_run_once_each_and_in_order(make_engine: Maker) -> None:
    ran: list[int] = []
    run(make_engine([lambda layer=layer: ran.append(layer) for layer in range(5)]), 1)  # type: ignore[misc]
    assert ran == list(range(5))


def test_a_record_tells_when_its_query_came_began_and_ended(make_engine: Maker) -> None:
    (record,) = run(make_engine([lambda: time.sleep(0.01)]), 1)
    assert record.query.arrival_s == record.start_s
    assert record.latency_s >= 0.01
    assert record.core_s == pytest.approx(2 * record.latency_s)  # both cores, all the time


def test_wrong_answers_are_counted(make_engine: Maker) -> None:
    wrong = replace(ZERO, answer=(np.full(1, 2.0, np.float32),))
    engine = make_engine([nothing] * 2, sample=wrong)
    run(engine, 5)
    assert engine.wrong_answers == 5


def test_a_kernel_that_fails_is_named(make_engine: Maker) -> None:
    def fail() -> None:
        raise RuntimeError("no such luck")

    with pytest.raises(EngineError, match="layer 1 of net failed: no such luck"):
        run(make_engine([nothing, fail]), 3)


def test_a_kernel_that_hangs_is_named_while_it_runs(make_engine: Maker) -> None:
    with pytest.raises(EngineError, match=r"layer 1 of net has been running for .* its kernel hangs"):
        run(make_engine([nothing, lambda: time.sleep(3.0)]), 1)


def test_a_policy_that_leaves_queries_waiting_for_good_is_named(make_engine: Maker) -> None:
    tables = spec_of(made(FULL, context_of(1))).tables  # type: ignore[union-attr]
    options = QueueOptions(Order.FCFS, Conflict.WAIT, DropLate.NEVER)
    wants = type("Wants", (), {"block": range(1), "cores": 3})
    spec = NativePolicySpec(DecisionKind.BLOCKS, tables, options, form=lambda *_: wants)  # type: ignore

    class Never(Planaria):
        def native_spec(self) -> NativePolicySpec:
            return spec

    with pytest.raises(PolicyError, match=r"Never stalls: 2 queries wait \(the oldest is 0, a net\)"):
        run(make_engine([nothing], Never(context_of(1), options)), 2)


def test_what_is_open_at_the_cut_off_is_unfinished(make_engine: Maker) -> None:
    engine = make_engine([lambda: time.sleep(0.3)], FCFS_ALL, drain_s=0.1)
    records = run(engine, 2)
    assert {record.ending for record in records} == {Ending.UNFINISHED}
    assert {record.reason for record in records} == {"the run ended first"}


def test_late_queries_are_rejected_with_the_reason(make_engine: Maker) -> None:
    source = PolicySource("baselines.fcfs_all:FcfsAll", "paper", {"drop_late": "at_deadline"})
    engine = make_engine([nothing], source)
    engine.arrive(0, 0, time.monotonic() - 20.0)  # the target is 10 s
    engine.arrive(1, 0, time.monotonic())
    engine.flush()
    records = {record.query.id: record for record in engine.serve()}
    assert records[1].ending is Ending.SERVED
    assert records[0].ending in (Ending.SERVED, Ending.REJECTED)


def test_an_engine_begins_anew_for_another_run(make_engine: Maker) -> None:
    engine = make_engine([lambda: time.sleep(0.2)], drain_s=0.05)
    assert {record.ending for record in run(engine, 3)} == {Ending.UNFINISHED}
    engine.begin(made(FULL, context_of(1)))
    engine.arrive(7, 0, time.monotonic())
    record = next(engine.serve())
    assert (record.query.id, record.ending) == (7, Ending.SERVED)


def test_warm_up_runs_every_buffer_before_the_run() -> None:
    ran: list[int] = []
    context = context_of(1)
    site = Site(context, "pinned", ObservedSlowdown(), 60.0)
    kernels = {"net": PythonModel([lambda: ran.append(1)])}
    engine = NativeEngine(site, kernels, [("net", ZERO)], launch_workers)
    try:
        engine.warm_up()
    finally:
        engine.stop()
    assert len(ran) == len(CORES)


def test_queries_come_through_the_socket_and_their_ends_go_back(make_engine: Maker) -> None:
    engine = make_engine([nothing] * 3)
    ours, loadgens = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, loadgens:
        engine.listen(ours.fileno())
        for sequence in range(20):
            loadgens.send(MESSAGE.pack(ARRIVAL, 0, sequence, time.monotonic_ns()))
        loadgens.send(MESSAGE.pack(FLUSH, 0, 0, 0))
        records = list(engine.serve())
        told: list[int] = []
        while len(told) < 20:
            told += [number for (number,) in SEQUENCE.iter_unpack(loadgens.recv(1 << 16))]
        engine.stop()
    assert sorted(told) == list(range(20))
    assert sorted(record.query.id for record in records) == list(range(20))


def test_ends_that_a_full_socket_has_no_room_for_are_told_once_it_has(make_engine: Maker) -> None:
    engine, queries = make_engine([nothing]), 600
    ours, loadgens = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with ours, loadgens:
        engine.listen(ours.fileno())
        for query_id in range(queries):
            engine.arrive(query_id, 0, time.monotonic())
        engine.flush()
        assert len(list(engine.serve())) == queries
        told: list[int] = []
        loadgens.settimeout(10.0)
        while len(told) < queries:
            told += [number for (number,) in SEQUENCE.iter_unpack(loadgens.recv(1 << 16))]
        engine.stop()
    assert sorted(told) == list(range(queries))


def test_the_end_of_loadgen_is_in_the_log(make_engine: Maker) -> None:
    engine = make_engine([nothing])
    ours, loadgens = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        engine.listen(ours.fileno())
        loadgens.close()
        time.sleep(0.1)
        run(engine, 1)
        engine.stop()
    assert EntryKind.LEFT in kinds(engine)


def kinds(engine: NativeEngine) -> set[EntryKind]:
    return {entry.kind for entry in engine.entries()}


# The log.


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.path)
def test_a_replay_decides_as_the_run_did(source: PolicySource, make_engine: Maker, tmp_path: Path) -> None:
    engine = make_engine([lambda: time.sleep(0.0002)] * 4, source)
    run(engine, 40)
    write_run_log(tmp_path / "log", source, context_of(4), b"".join(engine.log))
    assert replay_run_log(tmp_path / "log") == ""


def test_a_replay_names_the_first_decision_that_differs(
    make_engine: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = make_engine([nothing] * 4)
    run(engine, 3)
    other = PolicySource("baselines.layer_wise:LayerWise", "paper", {})
    write_run_log(tmp_path / "log", other, context_of(4), b"".join(engine.log))
    assert main(["replay", str(tmp_path / "log")]) == 1
    assert "after ARRIVED of query 0: the log has ('start', 0, 0, " in capsys.readouterr().out


def test_a_file_that_is_no_log_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_text("no log")
    assert main(["replay", str(tmp_path / "log")]) == 2
    assert "is no log of a run" in capsys.readouterr().err


def test_a_replay_prints_that_all_is_the_same(
    make_engine: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = make_engine([nothing])
    run(engine, 2)
    write_run_log(tmp_path / "log", FULL, context_of(1), b"".join(engine.log))
    assert main(["replay", str(tmp_path / "log")]) == 0
    assert capsys.readouterr().out == "every decision is the same\n"


def test_the_timeline_of_a_log_tells_which_block_ran_where(make_engine: Maker) -> None:
    engine = make_engine([lambda: time.sleep(0.001)] * 4)
    records = {record.query.id: record for record in run(engine, 10)}
    timeline = timeline_of(engine.entries(), context_of(4), "spread")
    assert {span.query.id for span in timeline.spans} == set(range(10))
    assert sum(len(span.block) for span in timeline.spans if span.completed) == 4 * 10
    for core in CORES:
        held = sorted(
            (tenure.begin_s, tenure.end_s)
            for span in timeline.spans
            for tenure in span.tenures
            if tenure.core == core
        )
        assert all(end_s <= begin_s for (_, end_s), (begin_s, _) in pairwise(held))
    for span in timeline.spans:
        assert span.query == records[span.query.id].query
        assert span.end_s <= records[span.query.id].end_s


def test_the_timeline_of_a_log_tells_what_was_cut_off(make_engine: Maker) -> None:
    engine = make_engine([lambda: time.sleep(0.2)], FCFS_ALL, drain_s=0.05)
    run(engine, 2)
    timeline = timeline_of(engine.entries(), context_of(1), "spread")
    assert [span.completed for span in timeline.spans] == [False]
    assert {given.ending for given in timeline.given_up} == {Ending.UNFINISHED}

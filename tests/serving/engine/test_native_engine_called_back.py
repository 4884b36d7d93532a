"""Policies in Python on the loop in C over the workers."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.schedulers import serving
from tests.support.serving.engine_builders import ZERO, PythonModel, python_context
from tests.support.serving.pool_builders import launch_workers
from tests.support.serving.random_policies import Capricious
from tests.support.serving.sim_builders import allocation
from veltair.machine.c_build import default_build_dir
from veltair.machine.interference.source import ObservedSlowdown
from veltair.serving.engine import watchdog
from veltair.serving.engine.live_tables import load
from veltair.serving.engine.log_entries import EntryKind
from veltair.serving.engine.log_timeline import timeline_of
from veltair.serving.engine.native_engine import NativeEngine, Site
from veltair.serving.engine.replay import first_difference
from veltair.serving.engine.run_log import replay_run_log, write_run_log
from veltair.serving.engine.watchdog import EngineError
from veltair.serving.loop.open_queries import IDLE_WAKES, PolicyError
from veltair.serving.loop.policy import Context, Policy, Rejection, Resize, Snapshot, Wake, Yield
from veltair.serving.loop.query import Ending, QueryRecord
from veltair.serving.policies.presets import PolicySource, make_policy

LOOKAHEAD = "veltair.serving.policies.lookahead:Lookahead"
CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]
Kernels = Sequence[Callable[[], object]]
Maker = Callable[..., NativeEngine]


def nothing() -> None:
    pass


def context_of(layers: int) -> Context:
    return python_context(CORES, layers)


def engine_of(policy: Policy, kernels: Kernels, drain_s: float = 60.0) -> NativeEngine:
    """Return an engine that has begun to serve "net"."""
    site = Site(context_of(len(kernels)), "spread", ObservedSlowdown(), drain_s)
    model = {"net": PythonModel(kernels)}
    engine = NativeEngine(site, model, [("net", ZERO)], launch_workers)
    engine.begin(policy, rings_at_ends=True)
    return engine


@pytest.fixture
def make_engine() -> Iterator[Maker]:
    """Return `engine_of`; what it made is stopped at the end."""
    engines: list[NativeEngine] = []

    def make(*arguments: Any, **options: Any) -> NativeEngine:
        engines.append(engine_of(*arguments, **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.stop()


def run(engine: NativeEngine, queries: int = 1) -> list[QueryRecord]:
    """Return the records of queries that all arrive at once."""
    for query_id in range(queries):
        engine.arrive(query_id, 0, time.monotonic())
    engine.flush()
    return list(engine.serve())


class Scripted:
    """Answers each call with the next line of a script, then with nothing; remembers the snapshots' times."""

    def __init__(self, *script: Any) -> None:
        self.script, self.times_s = list(script), list[float]()

    def allocate(self, snapshot: Snapshot) -> Any:
        self.times_s.append(snapshot.time_s)
        return self.script.pop(0) if self.script else []


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), layers=st.integers(1, 6), queries=st.integers(1, 30))
def test_random_decisions_run_each_layer_once_and_in_order_on_cores_of_their_own(
    seed: int, layers: int, queries: int
) -> None:
    ran: Counter[int] = Counter()
    kernels = [lambda layer=layer: ran.update((layer,)) for layer in range(layers)]
    policy = Capricious(context_of(layers), seed, wake_s=0.0005)
    engine = engine_of(policy, kernels)
    try:
        records = run(engine, queries)
    finally:
        engine.stop()
    assert sorted(record.query.id for record in records) == list(range(queries))
    assert {record.ending for record in records} <= {Ending.SERVED, Ending.REJECTED}
    assert layers_of(engine) == ran
    ends = {record.query.id: record for record in records if record.ending is Ending.SERVED}
    assert all(next_layers(engine)[query_id] == layers for query_id in ends)
    check_cores(engine, layers)
    heard = [record for seen in policy.seen for record in seen[-1]]
    assert heard == records[: len(heard)]
    assert first_difference(*log_of(engine), *again(policy)) == ""


@settings(deadline=None, max_examples=10)
@given(layers=st.integers(1, 6), queries=st.integers(1, 30))
def test_lookahead_serves_each_query_once_on_real_cores_and_its_log_replays(
    layers: int, queries: int
) -> None:
    ran: Counter[int] = Counter()
    kernels = [lambda layer=layer: ran.update((layer,)) for layer in range(layers)]
    context = context_of(layers)
    engine = engine_of(make_policy(LOOKAHEAD, context, "paper", {}), kernels)
    try:
        records = run(engine, queries)
    finally:
        engine.stop()
    assert sorted(record.query.id for record in records) == list(range(queries))
    assert {record.ending for record in records} == {Ending.SERVED}
    assert ran == dict.fromkeys(range(layers), queries)
    check_cores(engine, layers)
    fresh = make_policy(LOOKAHEAD, context, "paper", {})
    assert first_difference(*log_of(engine), fresh, context, load(default_build_dir())) == ""


def log_of(engine: NativeEngine) -> tuple[bytes]:
    return (b"".join(engine.log),)


def again(policy: Capricious) -> tuple[Policy, Context, Any]:
    fresh = Capricious(policy.context, policy.seed, wake_s=policy.wake_s)
    return fresh, policy.context, load(default_build_dir())


def layers_of(engine: NativeEngine) -> Counter[int]:
    """Return how often the log has each layer; fails unless a query's blocks follow each other."""
    layers: Counter[int] = Counter()
    reached: Counter[int] = Counter()
    for entry in engine.entries():
        if entry.kind is EntryKind.BLOCK_STARTED:
            assert entry.first == reached[entry.id]
        elif entry.kind is EntryKind.BLOCK_ENDED:
            layers.update(range(reached[entry.id], entry.layer))
            assert entry.layer > reached[entry.id]
            reached[entry.id] = entry.layer
    return layers


def next_layers(engine: NativeEngine) -> dict[int, int]:
    return {entry.id: entry.layer for entry in engine.entries() if entry.kind is EntryKind.BLOCK_ENDED}


def check_cores(engine: NativeEngine, layers: int) -> None:
    timeline = timeline_of(engine.entries(), context_of(layers), "spread")
    for core in CORES:
        held = sorted(
            (tenure.begin_s, tenure.end_s)
            for span in timeline.spans
            for tenure in span.tenures
            if tenure.core == core
        )
        assert all(end_s <= begin_s for (_, end_s), (begin_s, _) in pairwise(held))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([[allocation(0, "net", (0, 2), 3)]], "Scripted gives 3 cores to query 0, but 2 of 2 are free"),
        ([[allocation(5, "net", (0, 2), 1)]], "answers for query 5, which is not waiting"),
        ([[Resize(0, 2)]], "resizes query 0, which is not running"),
        ([[Yield(0)]], "Scripted yields query 0, which is not running"),
        ([[allocation(0, "net", (0, 2), 2), Yield(0), Yield(0)]], "yields query 0 twice"),
        ([[Wake(-1.0)]], "to be woken at -1.0 s; name a later time"),
        ([[]], "Scripted stalls: 1 queries wait"),
    ],
)
def test_a_broken_promise_ends_the_run_with_an_error_that_names_the_policy(
    script: Any, message: str, make_engine: Maker
) -> None:
    with pytest.raises(PolicyError, match=message):
        run(make_engine(Scripted(*script), [nothing] * 2))


def test_to_yield_and_never_go_on_is_an_error_not_a_hang(make_engine: Maker) -> None:
    policy = Scripted([allocation(0, "net", (0, 2), 2), Yield(0)])
    with pytest.raises(PolicyError, match="Scripted stalls: 1 queries wait"):
        run(make_engine(policy, [lambda: time.sleep(0.01)] * 2))


def test_who_yields_always_still_gets_on_by_a_layer_a_start(make_engine: Maker) -> None:
    class Restart:
        def allocate(self, snapshot: Snapshot) -> Any:
            for entry in snapshot.pending:
                yield allocation(entry.query.id, "net", (entry.next_layer, 3), 1)
                yield Yield(entry.query.id)

    (record,) = run(make_engine(Restart(), [lambda: time.sleep(0.01)] * 3))
    assert (record.ending, record.blocks) == (Ending.SERVED, 3)


def test_a_policy_that_raises_ends_the_run_with_what_it_raised(make_engine: Maker) -> None:
    class Raises:
        def allocate(self, snapshot: Snapshot) -> Any:
            raise ZeroDivisionError("by me")

    with pytest.raises(ZeroDivisionError, match="by me"):
        run(make_engine(Raises(), [nothing]))


def test_a_policy_that_hangs_is_named(make_engine: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()

    class Hangs(Scripted):
        def allocate(self, snapshot: Snapshot) -> Any:
            if not snapshot.pending:
                goes_on.wait()
            return super().allocate(snapshot)

    monkeypatch.setattr(watchdog, "DECISION_HANG_S", 0.3)
    engine = make_engine(Hangs([allocation(0, "net", (0, 1), 1)]), [lambda: time.sleep(0.05)])
    with pytest.raises(PolicyError, match=r"Hangs has been deciding for .* its `allocate` hangs"):
        run(engine)
    engine.stop()  # returns, though nothing can be stopped
    goes_on.set()


def test_a_policy_is_woken_when_it_asks(make_engine: Maker) -> None:
    class Sleeper(Scripted):
        def allocate(self, snapshot: Snapshot) -> Any:
            super().allocate(snapshot)
            if not snapshot.pending:
                return []
            if len(self.times_s) == 1:
                return [Wake(snapshot.time_s + 0.05), Wake(snapshot.time_s + 0.02)]
            is_due = snapshot.time_s >= self.times_s[0] + 0.05
            return [allocation(0, "net", (0, 1), 2)] if is_due else []

    policy = Sleeper()
    engine = make_engine(policy, [nothing])
    engine.arrive(0, 0, time.monotonic())
    record = next(engine.serve())  # before the flush, which sets the timer too
    first_s, early_s, late_s, _ = policy.times_s
    assert early_s >= first_s + 0.02 and late_s >= first_s + 0.05
    assert record.start_s == late_s
    told = [entry for entry in engine.entries() if entry.kind in (EntryKind.WAKE_CAME, EntryKind.WAKE_SET)]
    assert [entry.kind.name for entry in told] == ["WAKE_SET"] * 2 + ["WAKE_CAME"] * 2
    assert [entry.time_s for entry in told[2:]] == [early_s, late_s]


def test_to_be_woken_for_ever_while_queries_wait_is_an_error_not_a_hang(make_engine: Maker) -> None:
    class Dreamer:
        def allocate(self, snapshot: Snapshot) -> Any:
            return [Wake(snapshot.time_s + 1e-6)]

    with pytest.raises(PolicyError, match=f"Dreamer waits for ever: .* woken {IDLE_WAKES} times in a row"):
        run(make_engine(Dreamer(), [nothing]))


def test_a_wake_beyond_the_end_of_the_run_does_not_prolong_it(make_engine: Maker) -> None:
    (record,) = run(make_engine(Scripted([Wake(1e6)]), [nothing], drain_s=0.05))
    assert record.ending is Ending.UNFINISHED


def test_a_rejected_query_has_the_reason_that_the_policy_gave(make_engine: Maker) -> None:
    engine = make_engine(Scripted([Rejection(0, "größer als 1")], [Rejection(1, "")]), [nothing])
    records = run(engine, 2)
    assert [(record.ending, record.reason) for record in records] == [
        (Ending.REJECTED, "größer als 1"),
        (Ending.REJECTED, ""),
    ]
    given_up = timeline_of(engine.entries(), context_of(1), "spread").given_up
    assert [one.reason for one in given_up] == ["größer als 1", ""]


def test_a_replay_asks_the_policy_again(make_engine: Maker, tmp_path: Path) -> None:
    source = PolicySource("docs.example_policy:Greedy", "paper", {})
    engine = make_engine(Scripted([allocation(0, "net", (0, 2), 2)]), [nothing] * 2)
    run(engine)
    write_run_log(tmp_path / "same", source, context_of(2), b"".join(engine.log))
    assert replay_run_log(tmp_path / "same") == ""
    engine = make_engine(Scripted([allocation(0, "net", (0, 2), 1)]), [nothing] * 2)
    run(engine)
    write_run_log(tmp_path / "other", source, context_of(2), b"".join(engine.log))
    assert "the log has ('start', 0, 0, 2, 1, 1, 0.0, (0, 0))" in replay_run_log(tmp_path / "other")


def test_a_block_that_is_to_share_its_cores_is_refused(make_engine: Maker) -> None:
    start = replace(allocation(0, "net", (0, 1), 1), shares_cores=True)
    with pytest.raises(EngineError, match="workers of the engine are one a core and run one block at a time"):
        run(make_engine(Scripted([start]), [nothing]))


def test_a_block_that_may_draw_less_of_memory_is_held_back() -> None:
    # 1e6 bytes a layer: at 2e7 bytes/s they take 0.05 s at least, whatever the kernels take.
    machine, counts = context_of(2).machine, tuple(range(1, len(CORES) + 1))
    moved = {"net": [1e6, 1e6]}
    context = serving({"net": ([0.001] * 2, 10.0)}, counts, moved_bytes=moved, machine=machine)
    site = Site(context, "spread", ObservedSlowdown(), drain_s=60.0)
    engine = NativeEngine(site, {"net": PythonModel([nothing, nothing])}, [("net", ZERO)], launch_workers)
    try:
        for limit, least_s in ((2e7, 0.05), (None, 0.0)):
            start = replace(allocation(0, "net", (0, 2), 1), dram_bytes_per_s=limit)
            engine.begin(Scripted([start]), rings_at_ends=True)
            run(engine)
            assert (min(engine.layer_seconds("net")) >= 0.05) == (least_s > 0)
            (started,) = (entry for entry in engine.entries() if entry.kind is EntryKind.BLOCK_STARTED)
            assert started.seconds == (limit or 0.0)
    finally:
        engine.stop()


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_blocks_run_on_the_cores_that_their_policy_names(make_engine: Maker) -> None:
    starts = [replace(allocation(number, "net", (0, 1), 1), first_core=1 - number) for number in (0, 1)]
    engine = make_engine(Scripted([starts[0]], [starts[1]]), [lambda: time.sleep(0.05)])
    assert {record.ending for record in run(engine, 2)} == {Ending.SERVED}
    held = {entry.id: entry.held for entry in engine.entries() if entry.kind is EntryKind.BLOCK_STARTED}
    assert {query_id: tuple(cores) for query_id, cores in held.items()} == {0: (1,), 1: (0,)}

"""What goes wrong around the loop in C: cores and time taken away, crashes, kernels that never end."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.serving.engine_builders import ZERO, PythonModel, python_context
from tests.support.threads import threads_of_process
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.topology.cpu_limits import CpuLimits
from veltair.machine.workers.crash_notes import read_notes
from veltair.machine.workers.native_pool import NativePool
from veltair.serving.engine import native_engine, watchdog
from veltair.serving.engine.native_engine import NativeEngine, Site
from veltair.serving.engine.watchdog import EngineError
from veltair.serving.loop.query import Ending, QueryRecord
from veltair.serving.policies.presets import make_policy

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]
FCFS = "baselines.fcfs_min:FcfsMin"
TIMEOUT_S, NEVER_S = 60.0, 1000.0
Kernel = Callable[[], object]
Serve = Callable[..., list[QueryRecord]]

needs_two_cores = pytest.mark.skipif(len(CORES) < 2, reason="the last core cannot be taken away")


@pytest.fixture
def serve(c_build: Path) -> Iterator[Serve]:
    """Return what serves queries of a network of these kernels, profiled to take `layer_s` each."""
    engines: list[NativeEngine] = []

    def served(
        *kernels: Kernel, layer_s: float = NEVER_S, queries: int = 1, cores: tuple[int, ...] = CORES
    ) -> list[QueryRecord]:
        context = python_context(cores, len(kernels), layer_s=layer_s)
        site = Site(context, "spread", ObservedSlowdown(), TIMEOUT_S)
        launch = partial(NativePool, build_dir=c_build)
        engine = NativeEngine(site, {"net": PythonModel(kernels)}, [("net", ZERO)], launch)
        engines.append(engine)
        options = {"drop_late": "never"}
        engine.begin(make_policy(FCFS, context, "paper", options), rings_at_ends=True)
        for query_id in range(queries):
            engine.arrive(query_id, 0, time.monotonic())
        engine.flush()
        return list(engine.serve())

    yield served
    for engine in engines:
        engine.stop()


@needs_two_cores
@pytest.mark.parametrize("whom", ["all", "first"])  # taskset with -a and without
def test_a_core_that_is_taken_away_while_a_layer_runs_ends_the_run_and_is_named(
    serve: Serve, give_back: None, monkeypatch: pytest.MonkeyPatch, whom: str
) -> None:
    monkeypatch.setattr(watchdog, "PERIOD_S", 0.01)
    go, watcher = threading.Event(), threading.get_native_id()

    def kernel() -> None:
        for thread in threads_of_process() if whom == "all" else [watcher]:
            os.sched_setaffinity(thread, CORES[:1])
        go.wait(TIMEOUT_S)

    with pytest.raises(EngineError) as caught:
        serve(kernel)
    go.set()
    assert str(caught.value) == (
        f"cores taken away from this process: {CORES[1]} (left: {CORES[0]}); give them back (taskset, "
        "cgroup) and run again"
    )


def test_a_quota_that_is_lowered_while_a_layer_runs_ends_the_run(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "PERIOD_S", 0.01)
    go = threading.Event()

    def kernel() -> None:
        lowered = CpuLimits(frozenset(CORES), 0.5)
        monkeypatch.setattr(watchdog, "allowance", lambda: lowered)
        go.wait(TIMEOUT_S)

    with pytest.raises(EngineError, match=r"the CPU quota of this process was lowered to the time of 0\.5"):
        serve(kernel)
    go.set()


def test_a_layer_that_is_merely_slow_does_not_hang(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "PERIOD_S", 0.01)
    monkeypatch.setattr(watchdog, "HANG_S", 0.05)
    (record,) = serve(lambda: time.sleep(0.3), layer_s=0.2)
    assert record.ending is Ending.SERVED


def test_a_hang_is_told_though_other_queries_go_on(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "PERIOD_S", 0.01)
    monkeypatch.setattr(watchdog, "HANG_S", 0.2)
    monkeypatch.setattr(native_engine, "HUNG_STOP_S", 0.01)
    go, calls = threading.Event(), []

    def kernel() -> None:
        calls.append(1)
        if len(calls) == 3:
            go.wait(TIMEOUT_S)

    with pytest.raises(EngineError, match=r"layer 0 of net has been running for .* its kernel hangs"):
        serve(kernel, layer_s=1e-4, queries=50)
    go.set()


def test_on_one_core_every_query_is_served(serve: Serve) -> None:
    records = serve(lambda: None, lambda: None, layer_s=1e-4, queries=20, cores=CORES[:1])
    assert {record.ending for record in records} == {Ending.SERVED}
    assert len(records) == 20


def test_a_crash_leaves_a_note_of_the_layer_that_ran(c_build: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes"

    def crash() -> None:
        os.kill(os.getpid(), 9)

    child = os.fork()
    if child == 0:
        context = python_context(CORES, 2)
        site = Site(context, "spread", ObservedSlowdown(), TIMEOUT_S)
        launch = partial(NativePool, build_dir=c_build, notes=notes)
        engine = NativeEngine(site, {"net": PythonModel([lambda: None, crash])}, [("net", ZERO)], launch)
        engine.begin(make_policy(FCFS, context, "paper", {}))
        engine.arrive(7, 0, time.monotonic())
        engine.flush()
        list(engine.serve())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == 9
    assert any(note.endswith("layer 1 of net, query 7") for note in read_notes(notes))

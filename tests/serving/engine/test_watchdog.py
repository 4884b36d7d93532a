"""Cores that are taken away while blocks run: from the real process."""

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving.engine_builders import NEVER_S, python_context, python_engine
from tests.support.threads import threads_of_process
from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.topology.cpu_limits import CpuLimits
from veltair.machine.workers.native_pool import NativePool
from veltair.serving.engine import watchdog
from veltair.serving.engine.engine import Engine, EngineError
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Allocation, Answer, Snapshot

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]
TIMEOUT_S = 60.0

needs_two_cores = pytest.mark.skipif(len(CORES) < 2, reason="the last core cannot be taken away")


class OnOneCore:
    """Gives every query one core for its whole model."""

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        """Return an allocation, or nothing."""
        if not (snapshot.pending and snapshot.free_cores):
            return []
        return [Allocation(snapshot.pending[0].query.id, LayerBlock("net", 0, 1), (0,), 1)]


@pytest.fixture
def start(c_build: Path) -> Iterator[Callable[..., list[Any]]]:
    """Return what serves one query of one kernel, whose profiled time is so long that it never hangs."""
    engines: list[Engine] = []

    def served(kernel: Callable[[], object]) -> list[Any]:
        context = python_context(CORES, 1, layer_s=NEVER_S)
        engine = python_engine(context, [kernel], launch=partial(NativePool, build_dir=c_build))
        engines.append(engine)
        engine.arrive(0, 0, engine.zero_s)
        engine.flush()
        return list(serve(Dispatcher(OnOneCore(), context), engine))

    yield served
    for engine in engines:
        engine.stop()


@needs_two_cores
@pytest.mark.parametrize("whom", ["all", "first"])  # taskset with -a and without
def test_a_core_that_is_taken_away_while_a_layer_runs_ends_the_run_and_is_named(
    start: Callable[..., list[Any]], give_back: None, monkeypatch: pytest.MonkeyPatch, whom: str
) -> None:
    monkeypatch.setattr(watchdog, "PERIOD_S", 0.01)
    go, decider = threading.Event(), threading.get_native_id()

    def kernel() -> None:
        for thread in threads_of_process() if whom == "all" else [decider]:
            os.sched_setaffinity(thread, CORES[:1])
        go.wait(TIMEOUT_S)

    with pytest.raises(EngineError) as caught:
        start(kernel)
    go.set()
    assert str(caught.value) == (
        f"cores taken away from this process: {CORES[1]} (left: {CORES[0]}); give them back (taskset, "
        "cgroup) and run again"
    )


def lower_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered = CpuLimits(frozenset(CORES), 0.5)
    monkeypatch.setattr(watchdog, "allowance", lambda: lowered)


def test_a_quota_that_is_lowered_while_a_layer_runs_ends_the_run(
    start: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "PERIOD_S", 0.01)
    go = threading.Event()

    def kernel() -> None:
        lower_the_quota(monkeypatch)
        go.wait(TIMEOUT_S)

    with pytest.raises(EngineError, match=r"the CPU quota of this process was lowered to the time of 0\.5"):
        start(kernel)
    go.set()


def test_a_kernel_that_fails_for_want_of_its_cores_is_not_blamed(
    start: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kernel() -> None:
        lower_the_quota(monkeypatch)
        raise OSError("invalid argument")

    with pytest.raises(EngineError, match="the CPU quota of this process was lowered"):
        start(kernel)


def test_what_is_allowed_is_not_asked_for_more_often_than_it_must(
    start: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "PERIOD_S", NEVER_S)
    asked: list[int] = []

    def allowed() -> CpuLimits:
        asked.append(1)
        return CpuLimits(frozenset(CORES))

    monkeypatch.setattr(watchdog, "allowance", allowed)
    start(lambda: None)
    assert asked == [1]

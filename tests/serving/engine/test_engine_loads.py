"""Models loaded beside the decisions of a real engine: workers are threads, loads end when a test says so."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.support.builders import linear_seconds, make_context, make_model
from tests.support.engine_builders import NEVER_S, ZERO, PythonModel
from tests.support.pool_builders import launch_workers
from tests.support.threads import background_threads
from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.models.model_memory import ModelMemory, ModelMemoryError
from veltair.machine.topology.placement import spread
from veltair.machine.topology.topology import Machine
from veltair.serving.engine import watchdog
from veltair.serving.engine.engine import Engine, EngineError
from veltair.serving.engine.on_demand import OnDemand
from veltair.serving.engine.watchdog import Watchdog
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Allocation, Answer, Evict, Load, MemoryLimits, Snapshot
from veltair.serving.loop.query import Ending, QueryRecord

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]
NAMES = ("a", "b", "c")
NBYTES = 6
TIMEOUT_S = 60.0

pytestmark = pytest.mark.skipif(
    len(CORES) < 2, reason="a block that waits holds the only core, so nothing else can run"
)


class Weights:
    """Weights of a model whose load lasts until `go` is set; `held` is whether they are in memory."""

    bytes_needed = NBYTES

    def __init__(self, name: str, stage: "Stage") -> None:
        self.name, self.stage = name, stage
        self.begun, self.go = threading.Event(), threading.Event()
        self.error, self.held = "", False

    def load(self) -> int:
        """Load once allowed; loads are never two at a time, nor beyond the budget."""
        others = [one for one in self.stage.weights.values() if one.held or one.begun.is_set()]
        assert NBYTES * (1 + sum(one.held for one in others)) <= self.stage.budget_bytes
        assert all(one.held for one in others)
        self.stage.loads.append(self.name)
        self.begun.set()
        assert self.go.wait(TIMEOUT_S), f"nobody let the load of {self.name} end"
        if self.error:
            raise OSError(self.error)
        self.held = True
        return NBYTES

    def release(self) -> None:
        """Give the memory back."""
        assert self.held
        self.held = False
        self.begun.clear()


class OneCoreEach:
    """Gives every query one core, and calls `asked` with the model of each."""

    def __init__(self, asked: Callable[[str], object] = str) -> None:
        self.asked = asked

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        """Return the allocations."""
        chosen = list(snapshot.pending)[: snapshot.free_cores]
        for entry in chosen:
            self.asked(entry.query.model)
        return [Allocation(entry.query.id, LayerBlock(entry.query.model, 0, 1), (0,), 1) for entry in chosen]


class Stage:
    """Three models of one layer on two cores, of which `fit` are in memory at once."""

    def __init__(self, fit: int = 3, drain_s: float = NEVER_S, layer_s: float = NEVER_S) -> None:
        self.budget_bytes, self.loads = fit * NBYTES, list[str]()
        self.weights = {name: Weights(name, self) for name in NAMES}
        self.memory = ModelMemory(self.budget_bytes, self.weights)
        self.kernels: dict[str, Callable[[], object]] = dict.fromkeys(NAMES, lambda: None)
        machine = Machine("toy", 1, (CORES,), 2**19, 2**24, 1e11, 1e11, validated=False)
        seconds = {name: linear_seconds([layer_s], (1, 2)) for name in NAMES}
        models = [make_model(name, (1,), qos_s=10.0) for name in NAMES]
        self.context = make_context(seconds, models, cores=(1, 2), machine=machine)
        self.engine = Engine(
            {name: PythonModel([self._kernel(name)]) for name in NAMES},
            [(name, ZERO) for name in NAMES],
            dict.fromkeys(NAMES, 10.0),
            self.context.costs,
            machine,
            spread,
            ObservedSlowdown(),
            drain_s,
            launch_workers,
        )
        self.backend = OnDemand(self.engine, self.memory, NAMES, self.engine.in_background, self.engine.now_s)

    def _kernel(self, name: str) -> Callable[[], object]:
        def kernel() -> None:
            self.kernels[name]()

        return kernel

    def load(self, name: str) -> None:
        """Have a model in memory before the run."""
        self.weights[name].go.set()
        with self.memory.using(name):
            self.loads.clear()

    def serve(self, *models: str, policy: Any = None) -> Iterator[QueryRecord]:
        """Ask for models at once, in this order, and yield the records as queries end."""
        for number, name in enumerate(models):
            self.engine.arrive(number, NAMES.index(name), self.engine.zero_s)
        self.engine.flush()
        return serve(Dispatcher(policy or OneCoreEach(), self.context), self.backend)

    def bound(self) -> None:
        """Let policies know of the memory."""
        sizes = dict.fromkeys(NAMES, NBYTES)
        limits = MemoryLimits(self.budget_bytes, sizes, dict.fromkeys(NAMES, 0.001))
        self.context = replace(self.context, memory=limits)

    def close(self) -> None:
        """End whatever a failed test left."""
        for weights in self.weights.values():
            weights.go.set()
        self.engine.stop()


@pytest.fixture
def make_stage() -> Iterator[Callable[..., Stage]]:
    """Return what makes a stage; all are closed at the end, and leave no thread."""
    stages: list[Stage] = []

    def make(**options: Any) -> Stage:
        stages.append(Stage(**options))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()
    assert background_threads() == []


MakeStage = Callable[..., Stage]


def test_while_a_model_is_loaded_a_query_of_another_is_served_to_its_end(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.load("a")
    records: dict[str, QueryRecord] = {}
    for record in stage.serve("b", "a"):
        records[record.query.model] = record
        assert stage.weights["b"].held == (record.query.model == "b")
        stage.weights["b"].go.set()
    assert list(records) == ["a", "b"]
    # It waited on its core, as part of its time.
    assert records["b"].start_s < records["a"].end_s < records["b"].end_s
    assert stage.memory.counts.loads == len(stage.memory.load_seconds["a"]) * 2 == 2


def test_models_are_loaded_one_after_the_other_in_the_order_of_request(make_stage: MakeStage) -> None:
    stage = make_stage()
    for weights in stage.weights.values():
        weights.go.set()
    records = list(stage.serve("c", "b", "a", "b", "c"))
    assert {record.ending for record in records} == {Ending.SERVED}
    assert stage.loads == ["c", "b", "a"]


def test_a_run_lasts_until_the_last_load_has_ended(make_stage: MakeStage) -> None:
    # Nothing runs and nothing will arrive: only the load is open when the engine looks.
    stage = make_stage()
    policy = OneCoreEach(lambda name: threading.Timer(0, stage.weights[name].go.set).start())
    (record,) = stage.serve("a", policy=policy)
    assert record.ending is Ending.SERVED


def test_a_load_that_fails_ends_the_run_with_its_reason(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.weights["b"].error = "the disk is gone"
    stage.weights["b"].go.set()
    with pytest.raises(ModelMemoryError, match=r"^loading b failed: the disk is gone$"):
        list(stage.serve("b"))
    stage.engine.stop()
    stage.memory.settle()
    assert stage.memory.held_bytes == 0


def test_a_load_that_has_no_room_waits_for_the_end_of_a_block_and_then_is_done(make_stage: MakeStage) -> None:
    stage, is_asked = make_stage(fit=1), threading.Event()
    stage.load("a")
    stage.kernels["a"] = lambda: is_asked.wait(TIMEOUT_S)
    stage.weights["b"].go.set()
    # The block of a runs at least until that of b has been started, so that one finds no room.
    policy = OneCoreEach(lambda name: is_asked.set() if name == "b" else None)
    assert [record.query.model for record in stage.serve("a", "b", policy=policy)] == ["a", "b"]
    assert stage.loads == ["b"]
    assert not stage.weights["a"].held


def test_an_engine_that_is_stopped_in_the_middle_of_a_load_leaves_no_thread_and_no_memory(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(drain_s=0.01)
    (record,) = stage.serve("b")
    assert (record.ending, record.blocks) == (Ending.UNFINISHED, 1)
    assert stage.weights["b"].begun.wait(TIMEOUT_S)
    stopping = threading.Thread(target=stage.engine.stop)
    stopping.start()
    stage.weights["b"].go.set()
    stopping.join(TIMEOUT_S)
    assert not stopping.is_alive()
    stage.memory.settle()
    assert (stage.weights["b"].held, stage.memory.held_bytes, background_threads()) == (False, 0, [])


def test_a_load_that_has_not_begun_when_the_engine_is_stopped_never_will(make_stage: MakeStage) -> None:
    stage, go = make_stage(drain_s=0.01), threading.Event()

    def last() -> None:
        assert go.wait(TIMEOUT_S)

    stage.engine.in_background(last, lambda: None)
    list(stage.serve("b"))
    stopping = threading.Thread(target=stage.engine.stop)
    stopping.start()
    while not stage.engine._background._is_stopping:
        os.sched_yield()
    go.set()
    stopping.join(TIMEOUT_S)
    stage.memory.settle()
    assert (stage.loads, stage.memory.held_bytes, background_threads()) == ([], 0, [])


def test_a_load_that_does_not_end_is_told_when_the_engine_stops(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage()
    with monkeypatch.context() as patched:
        patched.setattr(stage.engine._background, "stop", lambda timeout_s: False)
        with pytest.raises(EngineError, match="the load of a model has not ended in 60 s"):
            stage.engine.stop()


def test_work_aside_that_fails_ends_the_run(make_stage: MakeStage) -> None:
    stage = make_stage()

    def fail() -> None:
        raise ZeroDivisionError("broken")

    stage.engine.in_background(fail, lambda: None)
    with pytest.raises(ZeroDivisionError, match="broken"):
        stage.engine.wait()


class EnoughError(Exception):
    """Ends a run that has shown what it was to show."""


def test_a_block_that_waits_for_its_model_does_not_look_like_one_that_hangs(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever ran for ten times as long as profiled, which is nothing, hangs at the first look.
    for name in ("PERIOD_S", "HANG_S"):
        monkeypatch.setattr(watchdog, name, 0.0)
    stage, go, looks = make_stage(layer_s=NEVER_S), threading.Event(), list[set[str]]()
    stage.context.costs.model("b").seconds[:] = 0.0
    stage.load("a")
    stage.kernels["a"] = lambda: go.wait(TIMEOUT_S)
    check = Watchdog.check

    def checked(self: Watchdog, blocks: Any) -> None:
        running = list(blocks)
        check(self, running)
        if stage.weights["b"].begun.is_set():
            looks.append({started.allocation.block.model for started in running})
        if len(looks) == 3:
            stage.engine.fail(EnoughError())

    monkeypatch.setattr(Watchdog, "check", checked)
    with pytest.raises(EnoughError):
        list(stage.serve("a", "b"))
    go.set()
    assert looks == [{"a"}] * 3


class LoadsItself(OneCoreEach):
    """Serves resident models, and lets a model that nobody waits for give way for the oldest query's."""

    loads_models = True

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        """Return the blocks and what they need in memory."""
        ready = [entry for entry in snapshot.pending if entry.query.model in snapshot.resident]
        answers = super().allocate(replace(snapshot, pending=ready))
        cold = [entry for entry in snapshot.pending if entry not in ready]
        busy = {entry.query.model for entry in ready} | {run.query.model for run in snapshot.running}
        if not cold or snapshot.load or busy:
            return answers
        return [*answers, *(Evict(name) for name in snapshot.resident), Load(cold[0].query.model)]


def test_a_policy_loads_models_itself_on_real_cores(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(fit=1)
    stage.bound()
    for weights in stage.weights.values():
        weights.go.set()
    records = list(stage.serve("a", "b", "a", policy=LoadsItself()))
    assert sorted(record.query.id for record in records) == [0, 1, 2]
    assert stage.loads == ["a", "b"]
    assert stage.memory.counts.evictions == 1

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders import make_costs
from tests.support.onnx_builders import run_onnx
from tests.support.serving.engine_builders import NEVER_S, FakePool, python_context, python_engine
from tests.support.tiny import tiny
from veltair.compiler.frontend.model import Layer, LayerBlock, Model
from veltair.machine.interference.source import NEWEST, ObservedSlowdown
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.placement import spread
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import Grant, Launch
from veltair.serving.engine import watchdog
from veltair.serving.engine.engine import Engine, EngineError, Sample
from veltair.serving.loop.backend import Arrival, BlockEnd, Closed, Event, Resized, Woken
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.open_queries import PolicyError
from veltair.serving.loop.policy import Allocation, Answer, Context, Resize, Snapshot, Wake, Yield
from veltair.serving.loop.query import Ending, QueryRecord
from veltair.serving.policies.presets import make_policy

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]
FOUR = (10, 11, 12, 13)  # for the fake pool, which runs on no core
POLICIES = (
    "baselines.fcfs_min:FcfsMin",
    "baselines.layer_wise:LayerWise",
    "baselines.planaria:Planaria",
    "baselines.prema:Prema",
    "veltair.serving.policies.adaptive:VeltairFULL",
)
TIMEOUT_S = 60.0

EngineMaker = Callable[..., Engine]


@pytest.fixture
def launch(c_build: Path) -> Launch:
    """Return what starts the workers."""
    return partial(NativePool, build_dir=c_build)


@pytest.fixture
def make_engine(launch: Launch) -> Iterator[EngineMaker]:
    """Return `python_engine`, whose engines are stopped at the end."""
    engines: list[Engine] = []

    def make(*arguments: Any, **options: Any) -> Engine:
        engines.append(python_engine(*arguments, launch=launch, **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.stop()


class Fake:
    """An engine on the fake pool with four cores, and blocks of "net" with three layers."""

    def __init__(self, layers: int = 3) -> None:
        self.context = python_context(FOUR, layers)
        self.engine = python_engine(self.context, [lambda: None] * layers, launch=FakePool)
        self.pool: Any = self.engine._pool
        self.layers = layers

    def start(self, query_id: int, cores: int, first: int = 0) -> None:
        if first == 0:
            self.engine.arrive(query_id, 0, time.monotonic())
            assert isinstance(self.event(), Arrival)
        versions = (0,) * (self.layers - first)
        self.engine.do(Allocation(query_id, LayerBlock("net", first, self.layers), versions, cores))

    def event(self) -> Event | None:
        """Return the event that is there; Woken where there is none."""
        self.engine.do(Wake(0.0))
        return self.engine.wait()

    def end(self, query_id: int) -> None:
        while query_id in self.pool.blocks:
            self.pool.end_layer(query_id)

    def free(self) -> int:
        """Return how many cores a block could be started on."""
        return self.engine._holdings.free_cores


class GreedyWhole:
    """Starts the oldest query on all free cores, its whole model as one block."""

    def __init__(self, layers: int) -> None:
        self.layers = layers

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        if not snapshot.pending or not snapshot.free_cores:
            return []
        query = snapshot.pending[0].query
        block = LayerBlock(query.model, 0, self.layers)
        return [Allocation(query.id, block, (0,) * self.layers, snapshot.free_cores)]


class Idle:
    """Never starts anything."""

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        return []


def run(engine: Engine, policy: Any, context: Context, samples: list[int]) -> list[QueryRecord]:
    """Return the records of queries that all arrive at once."""
    for query_id, sample in enumerate(samples):
        engine.arrive(query_id, sample, time.monotonic())
    engine.flush()
    return list(serve(Dispatcher(policy, context), engine))


# Accounts, with workers whose layers end on command.


def test_a_shrink_frees_cores_once_the_block_has_adopted_it() -> None:
    fake = Fake()
    fake.start(1, 4)
    fake.engine.do(Resize(1, 1))
    assert fake.free() == 0
    fake.pool.end_layer(1)
    assert fake.free() == 0
    event = fake.event()
    assert isinstance(event, Resized) and (event.query_id, event.cores) == (1, 1)
    fake.start(2, 3)
    fake.end(1)
    fake.end(2)
    assert isinstance(fake.event(), BlockEnd) and isinstance(fake.event(), BlockEnd)
    assert fake.free() == 4


def test_a_growth_takes_its_cores_at_once_and_is_told_when_adopted() -> None:
    fake = Fake()
    fake.start(1, 1)
    fake.engine.do(Resize(1, 3))
    assert fake.free() == 1
    assert len(fake.pool.adopted[1].cores) == 1
    fake.pool.end_layer(1)
    event = fake.event()
    assert isinstance(event, Resized) and event.cores == len(fake.pool.adopted[1].cores) == 3
    fake.end(1)
    assert isinstance(fake.event(), BlockEnd)
    assert fake.free() == 4


def test_a_growth_that_is_never_adopted_gives_its_cores_back_at_the_end() -> None:
    fake = Fake(layers=1)
    fake.start(1, 1)
    fake.engine.do(Resize(1, 3))
    fake.pool.end_layer(1)
    assert isinstance(fake.event(), BlockEnd)
    assert isinstance(fake.event(), Woken)
    assert fake.free() == 4


def test_a_shrink_that_is_never_adopted_gives_all_cores_back_at_the_end() -> None:
    fake = Fake(layers=1)
    fake.start(1, 3)
    fake.engine.do(Resize(1, 1))
    fake.pool.end_layer(1)
    assert isinstance(fake.event(), BlockEnd)
    assert fake.free() == 4


def test_a_growth_after_a_shrink_under_way_takes_its_own_cores_back_first() -> None:
    fake = Fake()
    fake.start(1, 3)
    before = set(fake.pool.adopted[1].cores)
    fake.engine.do(Resize(1, 1))
    fake.engine.do(Resize(1, 3))
    assert fake.free() == 1
    fake.pool.end_layer(1)
    assert set(fake.pool.adopted[1].cores) == before


def test_a_grant_that_was_overtaken_frees_no_core_that_the_block_may_use() -> None:
    # The block adopts 2 cores, then 3, before the engine hears of either; the policy meanwhile wants 1.
    fake = Fake(layers=4)
    fake.start(1, 4)
    fake.engine.do(Resize(1, 2))
    fake.pool.end_layer(1)
    fake.engine.do(Resize(1, 3))
    fake.pool.end_layer(1)
    fake.engine.do(Resize(1, 1))
    assert isinstance(fake.event(), Woken)
    assert len(fake.pool.adopted[1].cores) == 3
    assert fake.free() <= 1
    fake.pool.end_layer(1)
    event = fake.event()
    assert isinstance(event, Resized) and event.cores == 1
    assert fake.free() == 3


def test_a_resize_may_change_the_versions_only() -> None:
    fake = Fake()
    fake.start(1, 2)
    cores = fake.pool.adopted[1].cores
    fake.engine.do(Resize(1, 2, versions=(4, 5, 6)))
    fake.pool.end_layer(1)
    assert fake.pool.adopted[1] == Grant(cores, (4, 5, 6))
    fake.engine.do(Resize(1, 1))
    fake.pool.end_layer(1)
    assert fake.pool.adopted[1] == Grant(cores[:1], (4, 5, 6))


def test_a_block_holds_the_cores_that_it_has_yet_to_give_back() -> None:
    fake = Fake()
    fake.start(1, 3)
    granted = fake.engine.cores_of(1)
    fake.engine.do(Resize(1, 1))
    assert fake.engine.cores_of(1) == granted
    fake.pool.end_layer(1)
    fake.event()
    assert fake.engine.cores_of(1) == granted[:1]
    fake.end(1)
    fake.event()
    assert fake.engine.cores_of(1) == ()


def test_a_block_that_yields_ends_before_its_last_layer_and_its_query_keeps_its_buffers() -> None:
    fake = Fake()
    fake.start(1, 2)
    buffers = fake.pool.blocks[1].buffers
    fake.engine.do(Yield(1))
    fake.pool.end_layer(1)
    event = fake.event()
    assert isinstance(event, BlockEnd) and (event.query_id, event.next_layer) == (1, 1)
    assert fake.free() == 4
    fake.start(1, 4, first=1)
    assert fake.pool.blocks[1].buffers is buffers
    fake.end(1)
    event = fake.event()
    assert isinstance(event, BlockEnd) and event.next_layer == 3
    assert fake.engine._idle["net"][-1] is buffers


def test_a_growth_of_a_block_that_yields_gives_its_cores_back() -> None:
    fake = Fake()
    fake.start(1, 1)
    fake.engine.do(Resize(1, 3))
    fake.engine.do(Yield(1))
    fake.pool.end_layer(1)
    assert isinstance(fake.event(), BlockEnd)
    assert fake.free() == 4


def test_progress_counts_ended_layers_of_running_blocks_only() -> None:
    fake = Fake()
    fake.start(1, 1)
    fake.start(2, 1)
    fake.pool.end_layer(1)
    assert fake.engine.progress() == {1: 1, 2: 0}
    fake.end(1)
    fake.event()
    assert fake.engine.progress() == {2: 0}


class Observed:
    """Remembers what it was told."""

    name = "observed"

    def __init__(self) -> None:
        self.blocks: list[tuple[float, float, float]] = []

    def observe(self, *seconds: float) -> None:
        self.blocks.append(seconds)  # type: ignore[arg-type]

    def pressure(self) -> float:
        return 0.75


def observing() -> tuple[Fake, Observed]:
    fake, observed = Fake(), Observed()
    fake.engine._interference = observed
    return fake, observed


def test_a_block_is_observed_with_its_profiled_times() -> None:
    # Each of three layers took 1.5 ms; on two cores the table has 0.5 ms alone and 4 ms at the highest level.
    fake, observed = observing()
    alone_s, pressed_s = np.array([0.001, 0.0005, 0.0004, 0.0003]), np.array([0.008, 0.004, 0.003, 0.0003])
    seconds = np.tile(np.stack([alone_s, 2 * alone_s, pressed_s], axis=1), (3, 1, 1, 1))
    fake.engine._costs = make_costs({"net": seconds}, (1, 2, 3, 4), (0.0, 0.5, 1.0))
    fake.start(1, 2)
    fake.end(1)
    fake.event()
    assert observed.blocks == [pytest.approx((0.0045, 0.0015, 0.012))]


def test_a_block_that_yielded_is_observed_with_the_profiled_times_of_the_layers_that_it_ran() -> None:
    # Two layers of 1.5 ms each; on two cores the table has 0.5 ms for each.
    fake, observed = observing()
    fake.start(1, 2)
    fake.pool.end_layer(1)
    fake.engine.do(Yield(1))
    fake.pool.end_layer(1)
    fake.event()
    assert observed.blocks == [pytest.approx((0.003, 0.001, 0.001))]


@pytest.mark.parametrize("cores", [(1,), (1, 2), (3,), (2,)])
def test_a_block_that_was_changed_under_way_is_not_observed(cores: tuple[int, ...]) -> None:
    fake, observed = observing()
    fake.start(1, 2)
    for count in cores:
        fake.engine.do(Resize(1, count))
        fake.pool.end_layer(1)
        assert isinstance(fake.event(), Resized)
    fake.end(1)
    assert isinstance(fake.event(), BlockEnd)
    assert observed.blocks == []


def test_there_is_no_pressure_where_nothing_runs() -> None:
    fake, _ = observing()
    assert fake.engine.pressure() == 0.0
    fake.start(1, 1)
    assert fake.engine.pressure() == 0.75
    fake.end(1)
    fake.event()
    assert fake.engine.pressure() == 0.0


def test_slow_blocks_are_a_pressure_for_the_next() -> None:
    source = ObservedSlowdown()
    source.observe(2.0, 1.0, 2.0)
    assert source.pressure() == NEWEST


class RandomLegal:
    """Answers whatever the contract allows."""

    def __init__(self, chance: random.Random, layers: int) -> None:
        self.chance, self.layers = chance, layers

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        free, answers = snapshot.free_cores, list[Answer]()
        for entry in snapshot.pending:
            if free and self.chance.random() < 0.7:
                cores = self.chance.randint(1, free)
                stop = self.chance.randint(entry.next_layer + 1, self.layers)
                block = LayerBlock("net", entry.next_layer, stop)
                answers.append(Allocation(entry.query.id, block, (0,) * len(block), cores))
                free -= cores
        for running in snapshot.running:
            if running.yields:
                continue
            growing = running.target_cores > running.cores
            least = running.target_cores if growing else 1
            cores = self.chance.randint(least, running.reserved_cores + free)
            if self.chance.random() < 0.7:
                free -= max(running.cores, cores) - running.reserved_cores
                answers.append(Resize(running.query.id, cores))
            if self.chance.random() < 0.3:
                answers.append(Yield(running.query.id))
        return answers


@settings(max_examples=80)
@given(st.randoms(use_true_random=False))
def test_no_core_is_ever_used_by_two_blocks_and_all_come_back(chance: random.Random) -> None:
    fake = Fake(layers=6)
    policy: Any = RandomLegal(chance, 6)
    dispatcher = Dispatcher(policy, fake.context)
    finished: list[QueryRecord] = []

    def deliver() -> None:
        event = fake.event()
        assert event is not None
        outcome = dispatcher.handle(event, 0.0, fake.engine.progress())
        for command in outcome.commands:
            fake.engine.do(command)
        finished.extend(outcome.finished)

    for query_id in range(6):
        fake.engine.arrive(query_id, 0, time.monotonic())
    while len(finished) < 6:
        # Notices lie in the queue while layers end: several events may be under way at once.
        for query_id in list(fake.pool.blocks):
            if query_id in fake.pool.blocks and chance.random() < 0.5:
                fake.pool.end_layer(query_id)
        for _ in range(chance.randint(1, 3)):
            deliver()
    assert {record.ending for record in finished} == {Ending.SERVED}
    assert fake.free() == dispatcher.free_cores == 4


# Real workers and Python kernels.


def test_no_core_runs_kernels_of_two_blocks_at_once(make_engine: EngineMaker) -> None:
    busy: list[int] = []

    def kernel() -> None:
        (core,) = os.sched_getaffinity(0)
        assert core not in busy
        busy.append(core)
        time.sleep(0.0005)
        busy.remove(core)

    context = python_context(CORES, 8)
    for path in POLICIES:
        policy = make_policy(path, context, "paper", {})
        records = run(make_engine(context, [kernel] * 8), policy, context, [0] * 12)
        assert [record.ending for record in records] == [Ending.SERVED] * 12


def test_a_kernel_that_fails_ends_the_run_and_is_named(make_engine: EngineMaker) -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    context = python_context(CORES, 3)
    engine = make_engine(context, [lambda: None, fail, lambda: None])
    with pytest.raises(
        EngineError,
        match=r"layer 1 of net failed: broken; build",
    ):
        run(engine, GreedyWhole(3), context, [0])


def test_a_kernel_that_hangs_ends_the_run_and_its_layer_is_named(
    make_engine: EngineMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "PERIOD_S", 0.01)
    go, context = threading.Event(), python_context(CORES, 2)

    def hang() -> None:
        monkeypatch.setattr(watchdog, "HANG_S", 0.05)  # not before: any layer may wait so long
        go.wait(TIMEOUT_S)

    engine = make_engine(context, [lambda: None, hang])
    with pytest.raises(
        EngineError,
        match=r"layer 1 of net has been running for \d+\.\d s, "
        "but took 1 ms at most when it was profiled: its kernel hangs",
    ):
        run(engine, GreedyWhole(2), context, [0])
    assert engine._watchdog.found_hang
    engine.stop()
    go.set()


def test_a_layer_that_is_merely_slow_does_not_hang(
    make_engine: EngineMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "PERIOD_S", 0.005)
    monkeypatch.setattr(watchdog, "HANG_S", 0.01)
    context = python_context(CORES, 1, layer_s=NEVER_S)
    (record,) = run(make_engine(context, [lambda: time.sleep(0.05)]), GreedyWhole(1), context, [0])
    assert record.ending is Ending.SERVED


def test_a_kernel_that_outlasts_the_end_of_the_engine_is_told(make_engine: EngineMaker) -> None:
    go, context = threading.Event(), python_context(CORES, 1)
    engine = make_engine(context, [lambda: go.wait(TIMEOUT_S)], drain_s=0.01)
    run(engine, GreedyWhole(1), context, [0])
    inner = engine._pool.stop
    engine._pool.stop = lambda timeout_s=0.0: inner(0.01)  # type: ignore[method-assign]
    with pytest.raises(EngineError, match=r"\d workers do not end: a kernel hangs"):
        engine.stop()
    engine._pool.stop = inner  # type: ignore[method-assign]
    go.set()


def test_an_error_told_by_another_thread_ends_the_wait(make_engine: EngineMaker) -> None:
    engine = make_engine(python_context(CORES, 1), [lambda: None])
    threading.Timer(0.05, engine.fail, [ZeroDivisionError("load generator")]).start()
    with pytest.raises(ZeroDivisionError, match="load generator"):
        engine.wait()


def test_a_policy_is_woken_at_the_times_it_asked_for_and_not_before(make_engine: EngineMaker) -> None:
    engine = make_engine(python_context(CORES, 1), [lambda: None])
    due_s = [engine.now_s() + delay_s for delay_s in (0.03, 0.01)]
    for time_s in due_s:
        engine.do(Wake(time_s))
    engine.flush()
    woken = [engine.wait(), engine.wait()]
    assert all(
        isinstance(event, Woken) and event.time_s >= time_s
        for event, time_s in zip(woken, sorted(due_s), strict=True)
    )
    assert engine.wait() is None


def test_a_wake_after_the_drain_is_not_waited_for(make_engine: EngineMaker) -> None:
    engine = make_engine(python_context(CORES, 1), [lambda: None], drain_s=0.01)
    engine.do(Wake(NEVER_S))
    engine.flush()
    assert isinstance(engine.wait(), Closed)
    assert engine.wait() is None


def test_the_soonest_wake_comes_first(make_engine: EngineMaker) -> None:
    engine = make_engine(python_context(CORES, 1), [lambda: None], drain_s=0.05)
    engine.do(Wake(NEVER_S))
    engine.do(Wake(engine.now_s() + 0.01))
    engine.flush()
    assert [type(engine.wait()), type(engine.wait())] == [Woken, Closed]


def test_nothing_is_left_once_arrivals_are_flushed_and_nothing_runs(make_engine: EngineMaker) -> None:
    engine = make_engine(python_context(CORES, 1), [lambda: None])
    engine.flush()
    assert engine.wait() is None


def test_a_query_that_outlasts_the_drain_is_unfinished(make_engine: EngineMaker) -> None:
    context, go = python_context(CORES, 1), threading.Event()
    engine = make_engine(context, [lambda: go.wait(TIMEOUT_S)], drain_s=0.05)
    (record,) = run(engine, GreedyWhole(1), context, [0])
    go.set()
    assert (record.ending, record.blocks) == (Ending.UNFINISHED, 1)
    assert not record.on_time


def test_a_policy_that_lets_queries_wait_for_ever_is_an_error_not_a_hang(make_engine: EngineMaker) -> None:
    context = python_context(CORES, 1)
    with pytest.raises(PolicyError, match="Idle stalls: 2 queries wait"):
        run(make_engine(context, [lambda: None]), Idle(), context, [0, 0])


def test_a_policy_that_asked_to_be_woken_does_not_stall(make_engine: EngineMaker) -> None:
    context = python_context(CORES, 1)

    class Later(GreedyWhole):
        asked = False

        def allocate(self, snapshot: Snapshot) -> list[Answer]:
            if not self.asked:
                self.asked = True
                return [Wake(snapshot.time_s + 0.02)]
            return super().allocate(snapshot)

    (record,) = run(make_engine(context, [lambda: None]), Later(1), context, [0])
    assert record.ending is Ending.SERVED


def test_arrivals_are_on_the_clock_of_the_engine(make_engine: EngineMaker) -> None:
    engine = make_engine(python_context(CORES, 1), [lambda: None])
    engine.arrive(3, 0, engine.zero_s + 0.25)
    event = engine.wait()
    assert isinstance(event, Arrival)
    assert (event.query.id, event.query.model, event.query.qos_s) == (3, "net", 10.0)
    assert event.time_s == event.query.arrival_s == pytest.approx(0.25)


def test_instances_are_lent_again_and_no_more_are_made_than_queries_are_open(
    make_engine: EngineMaker,
) -> None:
    context = python_context(CORES, 2)
    engine = make_engine(context, [lambda: None] * 2)
    run(engine, GreedyWhole(2), context, [0] * 20)
    model: Any = engine._models["net"]
    assert model.instances == len(CORES)


def test_warming_up_runs_every_idle_instance_once(make_engine: EngineMaker) -> None:
    runs: list[str] = []
    kernels = [lambda: runs.append("first"), lambda: runs.append("second")]
    make_engine(python_context(CORES, 2), kernels).warm_up()
    assert runs == ["first", "second"] * len(CORES)


def test_a_model_that_is_not_named_is_not_warmed_up(make_engine: EngineMaker) -> None:
    runs: list[str] = []
    engine = make_engine(python_context(CORES, 1), [lambda: runs.append("net")])
    engine.warm_up(["other"])
    assert runs == []
    engine.warm_up(["net"])
    assert runs == ["net"] * len(CORES)


def test_a_model_that_fails_when_warmed_up_is_named(make_engine: EngineMaker) -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    engine = make_engine(python_context(CORES, 1), [fail])
    with pytest.raises(EngineError, match=r"net fails to run: broken; build it anew \(rule `build`\)"):
        engine.warm_up()


def test_a_model_that_hangs_when_warmed_up_is_named(
    make_engine: EngineMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "PERIOD_S", 0.01)
    go = threading.Event()

    def hang() -> None:
        monkeypatch.setattr(watchdog, "HANG_S", 0.05)
        go.wait(TIMEOUT_S)

    engine = make_engine(python_context(CORES, 1), [hang])
    with pytest.raises(EngineError, match=r"layer 0 of net has been running"):
        engine.warm_up()
    engine.stop()
    go.set()


def test_a_cost_table_of_another_machine_is_refused() -> None:
    context = python_context(CORES, 1)
    here = Machine("here", 1, (CORES,), 2**19, 2**24, 1e11, 1e11, validated=False)
    with pytest.raises(EngineError, match=r"the cost table is of toy, this machine is here; measure it here"):
        Engine({}, [], {}, context.costs, here, spread, ObservedSlowdown(), 1.0, FakePool)


# The tiny network.


@pytest.fixture(scope="module")
def tiny_context(tiny_loaded: LoadedModel) -> Context:
    """Return the tiny network on the cores there are, with a table made up."""
    plan = tiny_loaded.plan
    versions = [len(plan.of(layer)) for layer in range(6)]
    counts = tuple(range(1, len(CORES) + 1))
    seconds = np.full((6, max(versions), len(counts), 2), np.nan)
    chance = np.random.default_rng(5)
    for layer, count in enumerate(versions):
        # Versions differ in what is best under pressure, so that policies that know more use them all.
        seconds[layer, :count] = chance.uniform(1e-5, 1e-4, (count, len(counts), 2))
    machine = Machine("toy", 1, (CORES,), 2**19, 2**24, 1e11, 1e11, validated=False)
    model = Model(
        "tiny", tuple(Layer(layer.name, layer.structure, layer.macs) for layer in plan.layers), 10.0
    )
    return Context({"tiny": model}, make_costs({"tiny": seconds}, counts, (0.0, 1.0)), machine)


@pytest.fixture(scope="module")
def tiny_samples() -> list[tuple[str, Sample]]:
    """Return three inputs with ONNX Runtime's answers, and one with a wrong answer."""
    samples = []
    for seed in range(4):
        values = np.random.default_rng(seed).standard_normal((1, 3, 16, 16), dtype=np.float32)
        (answer,) = run_onnx(tiny(), values)
        samples.append(("tiny", Sample((values,), (answer + np.float32(seed == 3),))))
    return samples


def serve_tiny(
    tiny_loaded: LoadedModel, samples: Any, context: Context, policy: str, asked: list[int], launch: Launch
) -> tuple[list[QueryRecord], int]:
    """Return the records and how many answers were wrong."""
    parts = context.costs, context.machine, spread, ObservedSlowdown(), NEVER_S
    engine = Engine({"tiny": tiny_loaded}, samples, {"tiny": 10.0}, *parts, launch)
    try:
        engine.warm_up()
        records = run(engine, make_policy(policy, context, "paper", {}), context, asked)
    finally:
        engine.stop()
    return records, engine.wrong_answers


@pytest.mark.parametrize("policy", POLICIES)
def test_every_query_is_served_and_answered_right_under_load(
    tiny_loaded: LoadedModel, tiny_samples: Any, tiny_context: Context, policy: str, launch: Launch
) -> None:
    records, wrong = serve_tiny(tiny_loaded, tiny_samples, tiny_context, policy, [0, 1, 2] * 20, launch)
    assert sorted(record.query.id for record in records) == list(range(60))
    assert {record.ending for record in records} == {Ending.SERVED}
    assert wrong == 0


def test_each_wrong_answer_is_counted(
    tiny_loaded: LoadedModel, tiny_samples: Any, tiny_context: Context, launch: Launch
) -> None:
    records, wrong = serve_tiny(tiny_loaded, tiny_samples, tiny_context, POLICIES[0], [0, 3, 1, 3, 2], launch)
    assert len(records) == 5
    assert wrong == 2


def test_a_renewed_engine_begins_as_a_new_one_and_makes_no_new_buffers() -> None:
    fake = Fake()
    fake.start(0, 4)
    fake.end(0)
    assert isinstance(fake.event(), BlockEnd)
    fake.engine.flush()
    made = fake.engine._models["net"].instances  # type: ignore[attr-defined]
    began_s = fake.engine.zero_s
    fake.engine.renew()
    assert fake.engine.zero_s > began_s
    assert fake.free() == 4
    fake.start(0, 4)  # the same number again, as each run counts from 0
    fake.end(0)
    assert isinstance(fake.event(), BlockEnd)
    assert fake.engine._models["net"].instances == made  # type: ignore[attr-defined]


def test_a_run_that_was_cut_off_leaves_nothing_to_the_next() -> None:
    fake = Fake(layers=3)
    fake.start(0, 2)  # still runs at the end
    fake.start(1, 2)
    fake.end(1)
    fake.engine.arrive(2, 0, time.monotonic())  # never taken in
    fake.engine.do(Wake(0.0))
    fake.engine.fail(RuntimeError("the run failed"))
    wait, waits = fake.pool.wait, list[float | None]()

    def wait_thrice(timeout_s: float | None) -> Any:
        waits.append(timeout_s)
        if len(waits) == 3:
            fake.end(0)
        return wait(timeout_s)

    fake.pool.wait = wait_thrice
    fake.engine.renew()
    assert len(waits) == 3
    assert (fake.free(), len(fake.engine._blocks), fake.engine.wrong_answers) == (4, 0, 0)
    fake.engine.flush()
    assert fake.engine.wait() is None


def test_buffers_of_a_query_that_was_between_two_blocks_are_lent_again() -> None:
    fake = Fake(layers=3)
    fake.engine.arrive(0, 0, time.monotonic())
    assert isinstance(fake.event(), Arrival)
    fake.engine.do(Allocation(0, LayerBlock("net", 0, 1), (0,), 4))
    fake.end(0)
    assert isinstance(fake.event(), BlockEnd)
    idle = len(fake.engine._idle["net"])
    fake.engine.renew()
    assert len(fake.engine._idle["net"]) == idle + 1


def test_a_renewed_engine_counts_wrong_answers_anew(make_engine: EngineMaker) -> None:
    engine = make_engine(python_context(CORES, 1), [lambda: None])
    engine.wrong_answers = 3
    engine.renew()
    assert engine.wrong_answers == 0


def test_a_background_job_that_never_ends_is_told_when_the_engine_is_renewed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("veltair.serving.engine.engine.STOP_S", 0.05)
    fake, hang = Fake(), threading.Event()
    fake.engine.in_background(hang.wait, lambda: None)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=r"the load of a model has not ended in 0\.05 s"):
        fake.engine.renew()
    hang.set()

"""Outputs under random policies, beside each other, are those of a query alone: to the last bit."""

import os
import random
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.builders import make_costs
from tests.support.serving.engine_builders import NEVER_S
from veltair.compiler.frontend.model import Layer, LayerBlock, Model
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.models.library import LoadedModel
from veltair.machine.topology.placement import spread
from veltair.machine.topology.topology import Machine
from veltair.machine.workers import native_pool
from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import Ended, Launch, Notice, WorkerPool, on_cores
from veltair.serving.engine.engine import Engine, Sample
from veltair.serving.engine.native_engine import NativeEngine, Site
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import Allocation, Answer, Context, Resize, Snapshot, Yield
from veltair.serving.loop.query import Ending

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]
PLANS = 8  # choices of a version for each layer
SAMPLES = 4
OPEN = 6  # queries at a time

Plan = tuple[int, ...]


class Listening:
    """Workers that keep a copy of the outputs of each query that ends."""

    def __init__(self, pool: WorkerPool, outputs: dict[int, list[NDArray[Any]]]) -> None:
        self._pool, self._outputs = pool, outputs

    def wait(self, timeout_s: float | None) -> Sequence[Notice]:
        notices = self._pool.wait(timeout_s)
        for notice in notices:
            if isinstance(notice, Ended) and notice.block.check is not None:
                runnable = cast(Any, notice.block.buffers.runnable)
                self._outputs[notice.block.query_id] = [array.copy() for array in runnable.read_outputs()]
        return notices

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class Chance:
    """Starts blocks of any length on any cores; changes the cores of those that run, and lets them yield."""

    def __init__(self, seed: int, plans: Sequence[Plan]) -> None:
        self._chance, self._plans = random.Random(seed), plans

    def allocate(self, snapshot: Snapshot) -> list[Answer]:
        answers, free = list[Answer](), snapshot.free_cores
        for entry in snapshot.pending:
            must = not snapshot.running and not answers
            if free == 0 or (not must and self._chance.random() < 0.3):
                continue
            plan = self._plans[entry.query.id % PLANS]
            stop = self._chance.randint(entry.next_layer + 1, len(plan))
            cores = self._chance.randint(1, free)
            free -= cores
            block = LayerBlock(entry.query.model, entry.next_layer, stop)
            answers.append(Allocation(entry.query.id, block, plan[entry.next_layer : stop], cores))
        for running in snapshot.running:
            if running.yields:
                continue
            if running.target_cores == running.cores and self._chance.random() < 0.3:
                cores = self._chance.randint(1, running.cores + free)
                free -= max(0, cores - running.cores)
                answers.append(Resize(running.query.id, cores))
            if self._chance.random() < 0.3:
                answers.append(Yield(running.query.id))
        return answers


def context_of(model: LoadedModel) -> Context:
    plan = model.plan
    versions = [len(plan.of(layer)) for layer in range(len(plan.layers))]
    counts = tuple(range(1, len(CORES) + 1))
    seconds = np.full((len(versions), max(versions), len(counts), 1), np.nan)
    for layer, count in enumerate(versions):
        seconds[layer, :count] = 1e-4
    layers = tuple(Layer(layer.name, layer.structure, layer.macs) for layer in plan.layers)
    machine = Machine("toy", 1, (CORES,), 2**19, 2**24, 1e11, 1e11, validated=False)
    return Context(
        {"tiny": Model("tiny", layers, 10.0)}, make_costs({"tiny": seconds}, counts, (0.0,)), machine
    )


def plans_of(model: LoadedModel, seed: int) -> list[Plan]:
    chance = random.Random(seed)
    counts = [len(model.plan.of(layer)) for layer in range(len(model.plan.layers))]
    return [tuple(chance.randrange(count) for count in counts) for _ in range(PLANS)]


def alone(
    model: LoadedModel, plans: Sequence[Plan], inputs: Sequence[NDArray[Any]]
) -> dict[tuple[int, int], list[NDArray[Any]]]:
    """Return the outputs of one query by itself, by plan and sample."""
    instance, outputs = model.instance(), {}
    with on_cores(CORES):
        for number, plan in enumerate(plans):
            for sample, values in enumerate(inputs):
                instance.set_inputs((values,))
                outputs[number, sample] = [array.copy() for array in instance.run(plan)]
    return outputs


def serve_by_chance(model: LoadedModel, launch: Launch, queries: int, seed: int) -> None:
    """Serve so many queries and compare each one's outputs with those of a query alone."""
    plans, context = plans_of(model, seed), context_of(model)
    inputs = [
        np.random.default_rng([seed, n]).standard_normal((1, 3, 16, 16), dtype=np.float32)
        for n in range(SAMPLES)
    ]
    right = alone(model, plans, inputs)
    samples = [("tiny", Sample((one,), tuple(right[0, n]))) for n, one in enumerate(inputs)]
    found: dict[int, list[NDArray[Any]]] = {}
    parts = context.costs, context.machine, spread, ObservedSlowdown(), NEVER_S

    def listening(cores: Sequence[int]) -> WorkerPool:
        return cast(WorkerPool, Listening(launch(cores), found))

    engine = Engine({"tiny": model}, samples, {"tiny": 10.0}, *parts, listening)
    ended = []
    try:
        for number in range(min(OPEN, queries)):
            engine.arrive(number, number % SAMPLES, time.monotonic())
        for record in serve(Dispatcher(Chance(seed, plans), context), engine):
            ended.append((record.query.id, record.ending))
            following = len(ended) + OPEN - 1
            if following < queries:
                engine.arrive(following, following % SAMPLES, time.monotonic())
            elif len(ended) == queries:
                engine.flush()
    finally:
        engine.stop()
    assert sorted(ended) == [(number, Ending.SERVED) for number in range(queries)]
    for number, outputs in found.items():
        for one, other in zip(outputs, right[number % PLANS, number % SAMPLES], strict=True):
            assert one.tobytes() == other.tobytes()
    assert len(found) == queries


def serve_natively_by_chance(model: LoadedModel, launch: Launch, queries: int, seed: int) -> None:
    """Serve queries by the loop in C, which compares the outputs of each with those of a query alone."""
    plans, context = plans_of(model, seed), context_of(model)
    inputs = [
        np.random.default_rng([seed, n]).standard_normal((1, 3, 16, 16), dtype=np.float32)
        for n in range(SAMPLES)
    ]
    right = alone(model, plans, inputs)
    samples = [
        ("tiny", Sample((inputs[n],), tuple(right[plan, n]))) for plan in range(PLANS) for n in range(SAMPLES)
    ]
    site = Site(context, "spread", ObservedSlowdown(), NEVER_S)
    engine = NativeEngine(site, {"tiny": model}, samples, launch)
    ended = []
    try:
        engine.begin(Chance(seed, plans), rings_at_ends=True)
        for number in range(queries):
            engine.arrive(number, number % PLANS * SAMPLES + number // PLANS % SAMPLES, time.monotonic())
        engine.flush()
        ended = [(record.query.id, record.ending) for record in engine.serve()]
    finally:
        engine.stop()
    assert sorted(ended) == [(number, Ending.SERVED) for number in range(queries)]
    assert engine.wrong_answers == 0


@pytest.fixture
def exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an answer be right only if every bit is."""
    monkeypatch.setattr(native_pool, "OUTPUT_TOLERANCE", 0.0)


def test_outputs_of_the_loop_in_c_are_those_of_a_query_alone(
    tiny_loaded: LoadedModel, c_build: Path, exactly: None
) -> None:
    serve_natively_by_chance(tiny_loaded, partial(NativePool, build_dir=c_build), 200, seed=1)


def test_an_answer_that_is_off_by_a_bit_is_found(
    tiny_loaded: LoadedModel, c_build: Path, exactly: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = alone

    def off(*arguments: Any) -> dict[tuple[int, int], list[NDArray[Any]]]:
        found = right(*arguments)
        first = found[0, 0][0]
        first.flat[0] = np.nextafter(first.flat[0], np.float32(np.inf))
        return found

    monkeypatch.setitem(globals(), "alone", off)
    with pytest.raises(AssertionError):
        serve_natively_by_chance(tiny_loaded, partial(NativePool, build_dir=c_build), 20, seed=1)


def test_outputs_are_those_of_a_query_alone(tiny_loaded: LoadedModel, c_build: Path) -> None:
    serve_by_chance(tiny_loaded, partial(NativePool, build_dir=c_build), 200, seed=1)


@pytest.mark.long
def test_ten_thousand_outputs_of_the_loop_in_c_are_those_of_a_query_alone(
    tiny_loaded: LoadedModel, c_build: Path, exactly: None
) -> None:
    serve_natively_by_chance(tiny_loaded, partial(NativePool, build_dir=c_build), 10_000, seed=2)


@pytest.mark.long
def test_ten_thousand_outputs_are_those_of_a_query_alone(tiny_loaded: LoadedModel, c_build: Path) -> None:
    serve_by_chance(tiny_loaded, partial(NativePool, build_dir=c_build), 10_000, seed=2)

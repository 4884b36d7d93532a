"""Runs of the engine in Python: workers are real, LoadGen is a script, and a model is Python functions."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.engine_builders import ZERO, PythonModel, python_context
from tests.support.pool_builders import launch_workers
from veltair.evaluation.measurement import loading_engine
from veltair.evaluation.measurement.equal_blocks import EqualBlocks
from veltair.evaluation.measurement.loading_engine import LoadingEngine
from veltair.evaluation.measurement.study import Measurement, MeasurementSettings
from veltair.machine.interference.source import ObservedSlowdown
from veltair.machine.models.model_memory import ModelMemory, ModelMemoryError
from veltair.serving.loop.query import Ending

CORES = tuple(sorted(os.sched_getaffinity(0)))[:1]
QUERIES = 3


class ScriptedLoadGen:
    """Asks for sample 0 as soon as it is started, so many times."""

    def __init__(self, run: Any, *_: Any) -> None:
        self.pids, self.completed = (os.getpid(),), list[int]()

    def __enter__(self) -> "ScriptedLoadGen":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(
        self, *, on_arrival: Callable[..., None], on_flush: Callable[[], None], on_failure: Any
    ) -> None:
        for number in range(QUERIES):
            on_arrival(number, 0, time.monotonic())
        on_flush()

    def complete(self, sequence: int) -> None:
        self.completed.append(sequence)

    def wait(self, timeout_s: float) -> Any:
        return SimpleNamespace(completed=self.completed)


@dataclass
class Weights:
    """Weights that count how often they were loaded."""

    bytes_needed: int = 6
    loads: list[int] = field(default_factory=list)

    def load(self) -> int:
        self.loads.append(1)
        return self.bytes_needed

    def release(self) -> None:
        pass


@pytest.fixture
def weights() -> Weights:
    return Weights()


@pytest.fixture
def memory(weights: Weights) -> ModelMemory:
    return ModelMemory(10, {"net": weights})


def study_of(memory: ModelMemory, **settings: Any) -> Measurement:
    context = python_context(CORES, layers=2)
    scenario: Any = SimpleNamespace(context=context, qos_s={"net": 10.0})
    models: Any = {"net": PythonModel([lambda: None] * 2)}
    return Measurement(
        scenario,
        "EqualBlocks",
        lambda seen: EqualBlocks(seen, layers=1, cores=1),
        models,
        [("net", ZERO)],
        MeasurementSettings(seconds=1.0, seed=1, drain_qos=6.0, **settings),
        launch_workers,
        ObservedSlowdown(),
        memory,
    )


@pytest.fixture
def engine_of(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[Measurement, ModelMemory], LoadingEngine]]:
    """Return what makes an engine, which is stopped at the end."""
    monkeypatch.setattr(loading_engine, "LoadGenProcess", ScriptedLoadGen)
    monkeypatch.setattr(loading_engine, "LoadGenPerModel", ScriptedLoadGen)
    made: list[LoadingEngine] = []

    def make(study: Measurement, memory: ModelMemory) -> LoadingEngine:
        made.append(LoadingEngine(study, memory))
        return made[-1]

    yield make
    for engine in made:
        engine.stop()


def serve(engine: LoadingEngine, study: Measurement) -> Any:
    run: Any = SimpleNamespace()
    return engine.serve(study, run)


@pytest.mark.parametrize("per_model", [False, True])
def test_every_query_of_loadgen_is_answered_and_completed_once(
    memory: ModelMemory, engine_of: Any, per_model: bool
) -> None:
    study = study_of(memory, loadgen_per_model=per_model)
    answered = serve(engine_of(study, memory), study)
    assert [record.ending for record in answered.records] == [Ending.SERVED] * QUERIES
    assert sorted(answered.summary.completed) == list(range(QUERIES))
    assert (answered.wrong_answers, answered.timeline) == (0, None)


def test_a_model_is_loaded_when_its_first_block_needs_it_and_stays(
    memory: ModelMemory, weights: Weights, engine_of: Any
) -> None:
    study = study_of(memory)
    engine = engine_of(study, memory)
    assert (len(weights.loads), memory.resident) == (0, ())
    serve(engine, study)
    serve(engine, study)
    assert (len(weights.loads), memory.resident) == (1, ("net",))


def test_warming_up_holds_each_model_for_as_long_as_it_runs(memory: ModelMemory, engine_of: Any) -> None:
    study = study_of(memory)
    engine_of(study, memory).warm_up()
    assert memory.resident == ("net",)
    memory.acquire("net")  # it is in use by nobody else
    memory.release("net")


def test_a_timeline_is_recorded_where_it_is_asked_for(memory: ModelMemory, engine_of: Any) -> None:
    study = study_of(memory, timeline=True)
    timeline = serve(engine_of(study, memory), study).timeline
    assert timeline is not None
    assert [len(span.block) for span in timeline.spans] == [1] * 2 * QUERIES
    assert {tenure.core for span in timeline.spans for tenure in span.tenures} == set(CORES)


def test_a_model_larger_than_the_budget_is_refused_before_any_query(engine_of: Any) -> None:
    memory = ModelMemory(5, {"net": Weights()})
    study = study_of(memory)
    with pytest.raises(ModelMemoryError, match=r"engine\.memory_mb"):
        serve(engine_of(study, memory), study)

"""The measured study: LoadGen's Server scenario against the engine, real kernels on this machine's cores."""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from veltair.compiler.frontend.samples import random_samples
from veltair.evaluation.experiment.scenario import MakePolicy, Scenario, scenario_columns
from veltair.evaluation.experiment.timeline_data import write_recorded
from veltair.evaluation.loadgen.arrivals import share_samples
from veltair.evaluation.loadgen.client import END_TIMEOUT_S, LoadGenProcess, ServerRun
from veltair.evaluation.loadgen.logs import LoadGenSummary
from veltair.evaluation.loadgen.per_model import LoadGenPerModel, PerModelSummary, verdict_rows
from veltair.evaluation.measurement.core_use import CoreUse, core_times
from veltair.evaluation.measurement.engine_load import NOT_MEASURED, EngineLoad, ProcessClock, TimedDispatcher
from veltair.evaluation.measurement.rounds import ServedSlot
from veltair.evaluation.measurement.run_quality import RunQuality, run_quality
from veltair.evaluation.measurement.slots import Slot
from veltair.evaluation.measurement.write_run import QUERIES, write_run
from veltair.evaluation.metrics.capacity import warmup_s
from veltair.evaluation.metrics.records import Run, to_frame
from veltair.machine.interference.source import InterferenceSource
from veltair.machine.models.library import LoadedModel
from veltair.machine.models.model_memory import ModelMemory
from veltair.machine.topology.placement import PLACEMENTS
from veltair.machine.workers.pool import Launch, on_cores
from veltair.serving.engine.engine import Engine, Sample
from veltair.serving.engine.on_demand import OnDemand
from veltair.serving.loop.backend import Backend
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.query import QueryRecord
from veltair.serving.loop.timeline import Recorder

SAMPLES_PER_MODEL = 4


@dataclass(frozen=True, slots=True)
class MeasurementSettings:
    """How one rate is measured: for `seconds` and as many queries, both at least.

    `drain_qos` is how long unfinished queries may still run after it. `loadgen_per_model` asks with one for
    each model; `timeline` records which block ran where; `placement` is a name of PLACEMENTS.
    """

    seconds: float
    seed: int
    drain_qos: float
    queries: int = 1
    loadgen_per_model: bool = False
    timeline: bool = False
    placement: str = "spread"


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """One policy on this machine: what all of its runs share.

    `samples` are a model and its input by LoadGen's sample index. `launch` starts the workers.
    `interference` has been started; what it learnt from the blocks of one run it forgets before the next.
    Without a `memory` all models are loaded.
    """

    scenario: Scenario
    policy: str
    make: MakePolicy
    models: Mapping[str, LoadedModel]
    samples: Sequence[tuple[str, Sample]]
    settings: MeasurementSettings
    launch: Launch
    interference: InterferenceSource
    memory: ModelMemory | None = None

    def run_at(self, qps: float) -> Run:
        """Return what the run at a rate is called."""
        columns = scenario_columns(self.scenario, "engine", True)
        return Run(**columns, policy=self.policy, qps=qps, seed=self.settings.seed)


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredRun:
    """One rate as measured: its records by LoadGen's clock, LoadGen's own account, and wrong answers.

    `engine_records` are the same queries from when the engine heard of them to when it had served them.
    """

    qps: float
    records: tuple[QueryRecord, ...]
    engine_records: tuple[QueryRecord, ...]
    count_from_s: float
    summary: LoadGenSummary | PerModelSummary
    wrong_answers: int
    use: CoreUse
    load: EngineLoad = NOT_MEASURED

    @property
    def quality(self) -> RunQuality:
        """How well it could be measured."""
        return run_quality(self.summary, self.use, self.wrong_answers)


def load_models(
    builds: Mapping[str, Path], names: Iterable[str], budget_bytes: int | None
) -> tuple[dict[str, LoadedModel], ModelMemory | None]:
    """Return built models: all in memory, or with a budget none yet, and the memory that loads them."""
    models = {name: LoadedModel(builds[name], load=budget_bytes is None) for name in names}
    if budget_bytes is None:
        return models, None
    return models, ModelMemory(budget_bytes, {name: model.part() for name, model in models.items()})


def make_samples(
    models: Mapping[str, LoadedModel], scenario: Scenario, seed: int, memory: ModelMemory | None = None
) -> list[tuple[str, Sample]]:
    """Return inputs and right answers by sample index, the answers from runs of one query alone."""
    sample_models = share_samples(scenario.weights, SAMPLES_PER_MODEL)
    instances = {name: models[name].instance() for name in scenario.weights}
    samples = []
    with on_cores(scenario.context.machine.core_ids):
        for number, name in enumerate(sample_models):
            instance = instances[name]
            values = random_samples(instance.model.plan.inputs, [seed, number])
            instance.set_inputs(values)
            solo = [int(version) for version in scenario.context.costs.model(name).solo]
            with _in_memory(memory, name):
                samples.append((name, Sample(values, tuple(instance.run(solo)))))
    return samples


@dataclass(frozen=True, slots=True, eq=False)
class PolicyServer:
    """A policy that is made fresh for each slot, on an engine that stays up between them.

    Other policies may be served on the same engine in turn.
    """

    study: Measurement
    engine: Engine

    def serve(self, slot: Slot, folder: Path) -> ServedSlot:
        """Return what became of a slot. Raises as `measure`."""
        study = replace(self.study, settings=replace(self.study.settings, seed=slot.seed))
        run = measure(study, slot.qps, folder, self.engine)
        return ServedSlot(
            to_frame(run.records, study.run_at(run.qps), run.count_from_s),
            run.quality,
            policy_verdicts(study.policy, [run]),
        )


@contextmanager
def open_engine(study: Measurement) -> Iterator[Engine]:
    """Give an engine of the models, samples and cores of a study, warmed up for many runs.

    Raises EngineError or ModelMemoryError if a model fails to run, or has no room.
    """
    engine = _engine(study)
    try:
        _warm_up(study, engine)
        yield engine
    finally:
        engine.stop()
        if study.memory is not None:  # the last run may have been cut off
            study.memory.settle()


def measure(study: Measurement, qps: float, folder: Path, engine: Engine | None = None) -> MeasuredRun:
    """Serve one rate and return what became of its queries, whose records and logs are in the folder.

    Without an `engine` of `open_engine` it opens one for this run. Raises LoadGenError, EngineError or
    ModelMemoryError if the run failed; the engine may serve another one then.
    """
    with open_engine(study) if engine is None else nullcontext(engine) as used:
        return _measure_on(used, study, qps, folder)


def _measure_on(engine: Engine, study: Measurement, qps: float, folder: Path) -> MeasuredRun:
    gc.collect()  # what earlier runs left would be collected during this one
    engine.renew()
    if study.memory is not None:
        study.memory.settle()
    study.interference.forget()
    recorder = _recorder(study, engine) if study.settings.timeline else None
    cores = study.scenario.context.machine.core_ids
    begin = core_times(cores)
    records, summary, load = _ask(study, _server_run(study, qps, folder), engine, recorder)
    use = begin.until(core_times(cores), len(cores))
    joined = summary.join(records, engine.zero_s)
    first_s, last_s = joined[0].query.arrival_s, joined[-1].query.arrival_s
    begin_s = first_s + warmup_s(last_s - first_s, max(study.scenario.qos_s.values()))
    named = study.run_at(qps)
    write_run(to_frame(joined, named, begin_s), summary.verdicts, folder / QUERIES)
    if recorder is not None:
        write_recorded(recorder.timeline(), named, folder)
    by_issue = tuple(sorted(records, key=lambda record: record.query.id))
    return MeasuredRun(qps, joined, by_issue, begin_s, summary, engine.wrong_answers, use, load)


def _ask(
    study: Measurement, server: ServerRun, engine: Engine, recorder: Recorder | None
) -> tuple[list[QueryRecord], LoadGenSummary | PerModelSummary, EngineLoad]:
    """Let LoadGen ask until all queries have ended; return their records, its account, and what both took."""
    records, clock, context = [], ProcessClock(), study.scenario.context
    dispatcher = TimedDispatcher(study.make(context), context)
    per_model = study.settings.loadgen_per_model
    with LoadGenPerModel(server, study.scenario.qos_s) if per_model else LoadGenProcess(server) as loadgen:
        loadgen.start(
            on_ready=lambda: clock.start(loadgen.pids),
            on_arrival=engine.arrive,
            on_flush=engine.flush,
            on_failure=engine.fail,
        )
        for record in _serve(study, engine, recorder, dispatcher):
            loadgen.complete(record.query.id)
            records.append(record)
        load = EngineLoad(dispatcher.decision_s, clock.cores(loadgen.pids))
        return records, loadgen.wait(END_TIMEOUT_S), load


def _server_run(study: Measurement, qps: float, folder: Path) -> ServerRun:
    return ServerRun(
        qps=qps,
        min_duration_ms=round(1000 * study.settings.seconds),
        min_query_count=study.settings.queries,
        seed=study.settings.seed,
        sample_models=tuple(name for name, _ in study.samples),
        target_latency_s=min(study.scenario.qos_s.values()),
        outdir=folder,
    )


def _engine(study: Measurement) -> Engine:
    context, settings = study.scenario.context, study.settings
    return Engine(
        study.models,
        study.samples,
        study.scenario.qos_s,
        context.costs,
        context.machine,
        PLACEMENTS[settings.placement],
        study.interference,
        drain_s=settings.drain_qos * max(study.scenario.qos_s.values()),
        launch=study.launch,
    )


def _recorder(study: Measurement, engine: Engine) -> Recorder:
    placement = study.settings.placement
    return Recorder(engine, study.scenario.context, placement, cores_of=engine.cores_of, now_s=engine.now_s)


def _warm_up(study: Measurement, engine: Engine) -> None:
    if study.memory is None:
        engine.warm_up()
        return
    for name in study.models:
        with study.memory.using(name):
            engine.warm_up([name])


def _in_memory(memory: ModelMemory | None, name: str) -> AbstractContextManager[None]:
    return nullcontext() if memory is None else memory.using(name)


def _serve(
    study: Measurement, engine: Engine, recorder: Recorder | None, dispatcher: Dispatcher
) -> Iterator[QueryRecord]:
    """Yield the records; a block is on the timeline from when it starts, with its model in memory."""
    backend: Backend = engine if recorder is None else recorder
    if study.memory is not None:
        backend = OnDemand(backend, study.memory, tuple(study.models), engine.in_background)
    for record in serve(dispatcher, backend):
        if recorder is not None:
            recorder.end(record)
        yield record


def live_frame(study: Measurement, runs: Sequence[MeasuredRun]) -> pd.DataFrame:
    """Return the records of a policy's runs in one table."""
    frames = [to_frame(run.records, study.run_at(run.qps), run.count_from_s) for run in runs]
    return pd.concat(frames, ignore_index=True)


def run_rows(policy: str, runs: Sequence[MeasuredRun]) -> list[dict[str, Any]]:
    """Return how well each run could be measured."""
    return [
        {
            "policy": policy,
            "qps": run.qps,
            "queries": len(run.records),
            **run.quality.columns(),
            **asdict(run.load),
        }
        for run in runs
    ]


def policy_verdicts(policy: str, runs: Sequence[MeasuredRun]) -> list[dict[str, Any]]:
    """Return LoadGen's verdict on each run beside ours, a row a tenant."""
    return [
        {"policy": policy, "qps": run.qps, **row}
        for run in runs
        for row in verdict_rows(run.summary, run.records)
    ]

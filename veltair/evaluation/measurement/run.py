"""The measured study: LoadGen's Server scenario against the engine, real kernels on this machine's cores."""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from veltair.compiler.frontend.samples import random_samples
from veltair.evaluation.experiment.scenario import Scenario
from veltair.evaluation.experiment.timeline_data import write_recorded
from veltair.evaluation.loadgen.client_runs import ClientRun, DrawnRun, ServerRun
from veltair.evaluation.loadgen.logs import LoadGenSummary
from veltair.evaluation.loadgen.per_model import PerModelSummary, verdict_rows
from veltair.evaluation.loadgen.tenants import LOADGEN_SERVER, drawn_by, drawn_samples, sample_tenants
from veltair.evaluation.measurement.cache_parts import cache_parts
from veltair.evaluation.measurement.core_use import CoreUse, core_times
from veltair.evaluation.measurement.engine_load import NOT_MEASURED, EngineLoad
from veltair.evaluation.measurement.live_engine import LiveEngine
from veltair.evaluation.measurement.loading_engine import LoadingEngine
from veltair.evaluation.measurement.loop_in_c import LoopInC
from veltair.evaluation.measurement.rounds import ServedSlot
from veltair.evaluation.measurement.run_quality import RunQuality, run_quality
from veltair.evaluation.measurement.slots import Slot
from veltair.evaluation.measurement.study import Measurement
from veltair.evaluation.measurement.write_run import QUERIES, write_run
from veltair.evaluation.metrics.capacity import warmup_s
from veltair.evaluation.metrics.records import to_frame
from veltair.machine.models.library import LoadedModel
from veltair.machine.models.model_memory import ModelMemory
from veltair.machine.workers.pool import Sample, on_cores
from veltair.serving.engine.run_log import write_run_log
from veltair.serving.loop.query import QueryRecord

SAMPLES_PER_MODEL = 4
RUN_LOG = "run.log"  # in the folder of each run that records its timeline: `python -m veltair.serving replay`


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
    by_name = {tenant.name: tenant.model for tenant in scenario.senders}
    instances = {name: models[name].instance() for name in scenario.weights}
    samples = []
    with on_cores(scenario.context.machine.core_ids):
        for number, tenant in enumerate(sample_tenants(scenario.senders, SAMPLES_PER_MODEL)):
            name = by_name[tenant]
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
    engine: LiveEngine

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
def open_engine(study: Measurement) -> Iterator[LiveEngine]:
    """Give an engine of the models, samples and cores of a study, warmed up for many runs.

    Raises EngineError or ModelMemoryError if a model fails to run, or has no room.
    """
    engine = LoopInC(study) if study.memory is None else LoadingEngine(study, study.memory)
    try:
        engine.warm_up()
        yield engine
    finally:
        engine.stop()


def measure(study: Measurement, qps: float, folder: Path, engine: LiveEngine | None = None) -> MeasuredRun:
    """Serve one rate and return what became of its queries, whose records and logs are in the folder.

    Without an `engine` of `open_engine` it opens one for this run. Raises LoadGenError, EngineError,
    ModelMemoryError or ResctrlError if the run failed; the engine may serve another one then.
    """
    with open_engine(study) if engine is None else nullcontext(engine) as used:
        return _measure_on(used, study, qps, folder)


def _measure_on(engine: LiveEngine, study: Measurement, qps: float, folder: Path) -> MeasuredRun:
    gc.collect()  # what earlier runs left would be collected during this one
    study.interference.forget()
    cores = study.scenario.context.machine.core_ids
    # The policy that decides is made by the engine; this one only says which cores are whose.
    with cache_parts(study.make(study.scenario.context), study.policy):
        begin = core_times(cores)
        answered = engine.serve(study, client_run(study, qps, folder))
        use = begin.until(core_times(cores), len(cores))
    summary = answered.summary
    joined = by_tenant(study.scenario, summary, summary.join(answered.records, answered.zero_s))
    first_s, last_s = joined[0].query.arrival_s, joined[-1].query.arrival_s
    begin_s = first_s + warmup_s(last_s - first_s, max(study.scenario.qos_s.values()))
    named = study.run_at(qps)
    write_run(to_frame(joined, named, begin_s), summary.verdicts, folder / QUERIES)
    if answered.timeline is not None:
        write_recorded(answered.timeline, named, folder)
    if answered.log and study.settings.timeline and study.source is not None:
        write_run_log(folder / RUN_LOG, study.source, study.scenario.context, answered.log)
    by_issue = tuple(sorted(answered.records, key=lambda record: record.query.id))
    return MeasuredRun(*(qps, joined, by_issue, begin_s, summary, answered.wrong_answers, use, answered.load))


def by_tenant(
    scenario: Scenario, summary: LoadGenSummary | PerModelSummary, joined: tuple[QueryRecord, ...]
) -> tuple[QueryRecord, ...]:
    """Return joined records with the tenants that sent the queries, by the samples that LoadGen asked for."""
    if not scenario.tenants or not isinstance(summary, LoadGenSummary):
        return joined
    names = sample_tenants(scenario.tenants, SAMPLES_PER_MODEL)
    senders = [names[sample] for sample in summary.log.sample_index.tolist()]
    return tuple(
        record._replace(query=record.query._replace(tenant="" if name == record.query.model else name))
        for record, name in zip(joined, senders, strict=True)
    )


def client_run(study: Measurement, qps: float, folder: Path) -> ClientRun:
    """Return what LoadGen is asked for, or our own client where it cannot draw; logs go into the folder."""
    settings, tenants = study.settings, study.scenario.senders
    amount = qps, round(1000 * settings.seconds), settings.queries, settings.seed
    models = tuple(name for name, _ in study.samples)
    target_s = min(study.scenario.qos_s.values())
    if drawn_by(tenants) == LOADGEN_SERVER:
        return ServerRun(*amount, models, target_s, folder)
    times_ns, samples = drawn_samples(tenants, *amount, SAMPLES_PER_MODEL)
    return DrawnRun(times_ns, samples, models, target_s, folder)


def _in_memory(memory: ModelMemory | None, name: str) -> AbstractContextManager[None]:
    return nullcontext() if memory is None else memory.using(name)


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

"""Runs of the engine in Python, for models that are loaded within a budget of memory."""

from collections.abc import Iterator
from dataclasses import replace
from math import nan
from statistics import median

from veltair.evaluation.loadgen.client import END_TIMEOUT_S, LoadGenProcess
from veltair.evaluation.loadgen.client_runs import ClientRun
from veltair.evaluation.loadgen.per_model import LoadGenPerModel
from veltair.evaluation.measurement.engine_load import EngineLoad, ProcessClock, TimedDispatcher
from veltair.evaluation.measurement.live_engine import AnsweredRun
from veltair.evaluation.measurement.study import Measurement
from veltair.machine.models.model_memory import ModelMemory
from veltair.machine.topology.placement import PLACEMENTS
from veltair.serving.engine.engine import Engine
from veltair.serving.engine.on_demand import OnDemand
from veltair.serving.loop.backend import Backend
from veltair.serving.loop.dispatcher import Dispatcher, serve
from veltair.serving.loop.policy import MemoryLimits, limits_of
from veltair.serving.loop.query import QueryRecord
from veltair.serving.loop.timeline import Recorder


class LoadingEngine:
    """Serves runs of studies with the models, samples, memory and cores of one."""

    def __init__(self, study: Measurement, memory: ModelMemory) -> None:
        """Start the workers. Raises EngineError if the cost table is another machine's."""
        context, settings = study.scenario.context, study.settings
        self._memory, self._models = memory, tuple(study.models)
        self._engine = Engine(
            study.models,
            study.samples,
            {name: model.qos_s for name, model in study.scenario.context.models.items()},
            context.costs,
            context.machine,
            PLACEMENTS[settings.placement],
            study.interference,
            drain_s=settings.drain_qos * max(study.scenario.qos_s.values()),
            launch=study.launch,
        )

    def warm_up(self) -> None:
        """Run all buffers once, a model after the other. Raises EngineError, or ModelMemoryError."""
        for name in self._models:
            with self._memory.using(name):
                self._engine.warm_up([name])

    def serve(self, study: Measurement, run: ClientRun) -> AnsweredRun:
        """Let LoadGen ask, and return once all queries have ended. Raises as `LiveEngine.serve`."""
        engine, records, settings = self._engine, list[QueryRecord](), study.settings
        engine.renew()
        self._memory.settle()
        recorder = None
        if settings.timeline:
            named = study.scenario.context, settings.placement
            recorder = Recorder(engine, *named, cores_of=engine.cores_of, now_s=engine.now_s)
        context = replace(study.scenario.context, memory=self._limits())
        dispatcher = TimedDispatcher(policy := study.make(context), context)
        if limits_of(policy, context) is not None:
            self._memory.clear()
        per_model = settings.loadgen_per_model
        with LoadGenPerModel(run, study.scenario.qos_s) if per_model else LoadGenProcess(run) as loadgen:
            loadgen.start(
                on_arrival=engine.arrive,
                on_flush=engine.flush,
                on_failure=engine.fail,
            )
            clock = ProcessClock(loadgen.pids)
            for record in self._serve(dispatcher, recorder):
                loadgen.complete(record.query.id)
                records.append(record)
            load = EngineLoad(dispatcher.decision_s, clock.cores())
            summary = loadgen.wait(END_TIMEOUT_S)
        timeline = None if recorder is None else recorder.timeline()
        return AnsweredRun(tuple(records), summary, engine.zero_s, engine.wrong_answers, load, timeline)

    def pace(self, study: Measurement) -> float:
        """Return NaN: what a query alone takes includes loads, which the profile does not."""
        return nan

    def stop(self) -> None:
        """Stop the workers. Raises EngineError if one does not end."""
        self._engine.stop()
        self._memory.settle()  # the last run may have been cut off

    def _limits(self) -> MemoryLimits | None:
        """Return the limits that policies see: bytes, and times of loads so far, 0 of a model without one.

        None where a model has no room at all: its first load says so.
        """
        memory = self._memory
        nbytes = {name: memory.bytes_needed(name) for name in self._models}
        if max(nbytes.values()) > memory.budget_bytes:
            return None
        timed = {name: memory.load_seconds[name] for name in self._models}
        load_s = {name: median(seconds) if seconds else 0.0 for name, seconds in timed.items()}
        return MemoryLimits(memory.budget_bytes, nbytes, load_s)

    def _serve(self, dispatcher: Dispatcher, recorder: Recorder | None) -> Iterator[QueryRecord]:
        """Yield the records; a block is on the timeline from when it starts, with its model in memory."""
        backend: Backend = self._engine if recorder is None else recorder
        engine = self._engine
        backend = OnDemand(backend, self._memory, self._models, engine.in_background, engine.now_s)
        for record in serve(dispatcher, backend):
            if recorder is not None:
                recorder.end(record)
            yield record

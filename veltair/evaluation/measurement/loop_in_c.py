"""Runs of the engine whose loop is in C: LoadGen's socket is its own, and its log tells what happened."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import nan
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from veltair.evaluation.loadgen.client import END_TIMEOUT_S, LoadGenProcess
from veltair.evaluation.loadgen.client_runs import ClientRun
from veltair.evaluation.loadgen.logs import Stamps
from veltair.evaluation.loadgen.per_model import LoadGenPerModel
from veltair.evaluation.measurement.engine_load import EngineLoad, ProcessClock
from veltair.evaluation.measurement.live_engine import AnsweredRun
from veltair.evaluation.measurement.pace import measure_pace
from veltair.evaluation.measurement.study import Measurement
from veltair.serving.engine.log_entries import Entry, EntryKind
from veltair.serving.engine.log_timeline import timeline_of
from veltair.serving.engine.native_engine import NativeEngine, Site


class LoopInC:
    """Serves runs of studies with the models, samples and cores of one."""

    def __init__(self, study: Measurement) -> None:
        """Start the workers. Raises EngineError if the cost table is another machine's."""
        settings, context = study.settings, study.scenario.context
        drain_s = settings.drain_qos * max(study.scenario.qos_s.values())
        site = Site(context, settings.placement, study.interference, drain_s)
        self._engine = NativeEngine(site, study.models, study.samples, study.launch)

    def warm_up(self) -> None:
        """Run all buffers once. Raises EngineError."""
        self._engine.warm_up()

    def serve(self, study: Measurement, run: ClientRun) -> AnsweredRun:
        """Let LoadGen ask, and return once all queries have ended. Raises as `LiveEngine.serve`."""
        engine, per_model = self._engine, study.settings.loadgen_per_model
        context = study.scenario.context
        engine.begin(study.make(context), rings_at_ends=per_model)
        answered = self._ask_each(study, run) if per_model else self._ask(run)
        if not study.settings.timeline:
            return answered
        timeline = timeline_of(engine.entries(), context, study.settings.placement)
        return replace(answered, timeline=timeline, log=b"".join(engine.log))

    def pace(self, study: Measurement) -> float:
        """Return how many times as long as profiled a query alone takes now. Raises EngineError."""
        return measure_pace(self._engine, study.scenario.context, [name for name, _ in study.samples])

    def entries(self) -> Iterator[Entry]:
        """Yield what happened in the last run."""
        return self._engine.entries()

    def stop(self) -> None:
        """Stop the workers. Raises EngineError if one does not end."""
        self._engine.stop()

    def _ask(self, run: ClientRun) -> AnsweredRun:
        """Let one LoadGen ask, which the loop in C hears and answers itself."""
        engine = self._engine
        with LoadGenProcess(run) as loadgen:
            loadgen.launch()
            loadgen.await_ready()
            engine.listen(loadgen.hand_over(engine), loadgen.check)
            clock = ProcessClock(loadgen.pids)
            loadgen.go()
            records = tuple(engine.serve())
            entries = list(engine.entries())
            load = EngineLoad(decision_s(entries), clock.cores())
            summary = loadgen.wait_after(stamps_of(entries, engine.zero_s), END_TIMEOUT_S)
        return AnsweredRun(records, summary, engine.zero_s, engine.wrong_answers, load)

    def _ask_each(self, study: Measurement, run: ClientRun) -> AnsweredRun:
        """Let a LoadGen of each model ask: this process hands their queries and the answers on."""
        engine, records = self._engine, []
        with LoadGenPerModel(run, study.scenario.qos_s) as loadgens:
            loadgens.start(
                on_arrival=engine.arrive,
                on_flush=engine.flush,
                on_failure=engine.fail,
            )
            clock = ProcessClock(loadgens.pids)
            for record in engine.serve():
                loadgens.complete(record.query.id)
                records.append(record)
            load = EngineLoad(decision_s(engine.entries()), clock.cores())
            summary = loadgens.wait(END_TIMEOUT_S)
        return AnsweredRun(tuple(records), summary, engine.zero_s, engine.wrong_answers, load)


def stamps_of(entries: Sequence[Entry], zero_s: float) -> Stamps:
    """Return when LoadGen sent each query, when it was taken in, and when it ended, from the log of a run."""
    arrived = [entry for entry in entries if entry.kind is EntryKind.ARRIVED]
    ended = [entry for entry in entries if entry.kind is EntryKind.QUERY_ENDED]
    ended.sort(key=lambda entry: entry.id)
    return Stamps(
        sent_ns=_ns([entry.seconds for entry in arrived], zero_s),
        received_s=np.array([entry.time_s for entry in arrived]) + zero_s,
        completed_ns=_ns([entry.time_s for entry in ended], zero_s),
    )


def decision_s(entries: Iterable[Entry]) -> float:
    """Return the mean seconds from an event until it was decided what follows from it; NaN without one."""
    seconds = [entry.seconds for entry in entries if entry.kind is EntryKind.DECIDED]
    return fmean(seconds) if seconds else nan


def _ns(times_s: Sequence[float], zero_s: float) -> NDArray[np.int64]:
    return np.round(1e9 * (np.array(times_s) + zero_s)).astype(np.int64)

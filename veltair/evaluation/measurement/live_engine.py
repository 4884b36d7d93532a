"""What a measurement needs of whatever serves on this machine: one run of LoadGen after the other."""

from dataclasses import dataclass
from typing import Protocol

from veltair.evaluation.loadgen.client_runs import ClientRun
from veltair.evaluation.loadgen.logs import LoadGenSummary
from veltair.evaluation.loadgen.per_model import PerModelSummary
from veltair.evaluation.measurement.engine_load import NOT_MEASURED, EngineLoad
from veltair.evaluation.measurement.study import Measurement
from veltair.serving.loop.query import QueryRecord
from veltair.serving.loop.timeline import Timeline


@dataclass(frozen=True, slots=True, eq=False)
class AnsweredRun:
    """A run that has ended: its records by the engine's clock, and LoadGen's own account.

    `zero_s` is when that clock read 0, on the one of time.monotonic(). `timeline` and `log`, which only the
    loop in C has, are of runs that record them.
    """

    records: tuple[QueryRecord, ...]
    summary: LoadGenSummary | PerModelSummary
    zero_s: float
    wrong_answers: int
    load: EngineLoad = NOT_MEASURED
    timeline: Timeline | None = None
    log: bytes = b""


class LiveEngine(Protocol):
    """Workers with their models, up for many runs; nothing of a run reaches the next."""

    def warm_up(self) -> None:
        """Run all buffers once, so that no query pays for first touches. Raises EngineError."""

    def serve(self, study: Measurement, run: ClientRun) -> AnsweredRun:
        """Let LoadGen ask, a fresh policy of the study decide, and return once all queries have ended.

        The study has the models, samples and cores that the engine was made for. Raises LoadGenError,
        EngineError or PolicyError if the run failed; another may follow.
        """

    def pace(self, study: Measurement) -> float:
        """Return how many times as long as profiled a query alone takes now; NaN where it cannot tell."""

    def stop(self) -> None:
        """Stop the workers. Raises EngineError if one does not end."""

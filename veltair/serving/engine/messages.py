"""What other threads tell the one that decides on an engine."""

from dataclasses import dataclass

from veltair.serving.engine.background import Work


@dataclass(frozen=True, slots=True)
class Arrived:
    """A query came, with the input of that sample."""

    query_id: int
    sample: int
    time_s: float


@dataclass(frozen=True, slots=True)
class Flushed:
    """No more queries will come."""

    time_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The run is to end with an error."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Done:
    """Work beside the decisions ended; this is to follow."""

    then: Work


EngineMessage = Arrived | Flushed | Failed | Done

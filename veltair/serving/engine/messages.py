"""Messages from other threads to the engine's decision thread."""

from dataclasses import dataclass

from veltair.serving.engine.background import OnDone


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
    """A background job ended; `on_done` is to be called on the decision thread."""

    on_done: OnDone


EngineMessage = Arrived | Flushed | Failed | Done

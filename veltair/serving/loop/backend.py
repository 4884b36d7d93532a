"""What the loop and a backend say to each other: events in, commands out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from veltair.serving.loop.policy import Allocation, Evict, Load, Resize, Wake, Yield
from veltair.serving.loop.query import Query


@dataclass(frozen=True, slots=True)
class Arrival:
    """A query arrived."""

    time_s: float
    query: Query


@dataclass(frozen=True, slots=True)
class BlockEnd:
    """The running block of a query ended before layer `next_layer` of its model; its cores are free."""

    time_s: float
    query_id: int
    next_layer: int


@dataclass(frozen=True, slots=True)
class Resized:
    """A running block adopted its new core count at a layer end; cores it gave up are free."""

    time_s: float
    query_id: int
    cores: int


@dataclass(frozen=True, slots=True)
class Woken:
    """A time that the policy asked for has come."""

    time_s: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """The load under way has ended: the model is resident."""

    time_s: float
    model: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The run is over: whatever is still open counts as unfinished."""

    time_s: float


Event = Arrival | BlockEnd | Resized | Loaded | Woken | Closed
Command = Allocation | Resize | Yield | Wake | Load | Evict


class Backend(Protocol):
    """Where time comes from. It never decides.

    Events come in the order of their times; at equal times cores are freed (BlockEnd, Resized) and loads end
    before queries arrive, then wakes; ties go by sequence.
    """

    def do(self, command: Command) -> None:
        """Start a block now, change or end a running one at its next layer end, or deliver Woken at a time.

        Or begin to load a model, and deliver Loaded at the end of that; or take one out of memory.

        A change that comes in a block's last layer has no effect, and no event; nor has one of a block that
        was to yield at the same layer end. A block that is to yield ends at least one layer.
        """

    def wait(self) -> Event | None:
        """Return the next event, or None once nothing is left to arrive, to run or to wake for."""

    def pressure(self) -> float:
        """Return the pressure in [0, 1] that a block started now would meet."""

    def progress(self) -> Mapping[int, int]:
        """Return how many layers of each running block have ended; a live view."""


class BackendWrapper:
    """A backend that passes everything on to another one; a subclass overrides what it is there for."""

    def __init__(self, backend: Backend) -> None:
        """Stand before a backend."""
        self._backend = backend

    def do(self, command: Command) -> None:
        """Pass a command on."""
        self._backend.do(command)

    def wait(self) -> Event | None:
        """Return the next event of the backend."""
        return self._backend.wait()

    def pressure(self) -> float:
        """Return the backend's pressure."""
        return self._backend.pressure()

    def progress(self) -> Mapping[int, int]:
        """Return the backend's view of how many layers of each running block have ended."""
        return self._backend.progress()

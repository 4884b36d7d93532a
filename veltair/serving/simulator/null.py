"""The null backend: every block ends at once, so that what a run takes is our own overhead."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from veltair.serving.loop.dispatcher import BlockEnd, Closed, Event
from veltair.serving.loop.policy import Allocation, Resize
from veltair.serving.loop.query import Query
from veltair.serving.simulator.agenda import Agenda


class NullBackend:
    """Kernels of no duration, in virtual time: a block ends at the time at which it was started.

    What is left of a run is dispatcher and policy: the wall time of `serve` over the queries of the
    trace is their cost. Blocks end in the order of their starts. Each is in its last layer, so a resize
    has no effect. Pressure is always 0.
    """

    def __init__(self, arrivals: Sequence[Query], *, drain_s: float) -> None:
        """Take the trace, ordered by arrival; wakes are heeded until `drain_s` after the last one.

        Raises ValueError if the trace is out of order.
        """
        self._agenda = Agenda(arrivals, drain_s)
        self._now_s = 0.0
        self._started: deque[int] = deque()
        self._ended: dict[int, int] = {}
        self._progress = MappingProxyType(self._ended)

    def start(self, allocation: Allocation) -> None:
        """Run a block: it ends now."""
        self._started.append(allocation.query_id)
        self._ended[allocation.query_id] = len(allocation.block) - 1

    def resize(self, resize: Resize) -> None:
        """Do nothing: a block without duration is always in its last layer."""

    def wake_at(self, time_s: float) -> None:
        """Deliver Woken at that time."""
        self._agenda.wake_at(time_s)

    def wait(self) -> Event | None:
        """Return the next event, or None once nothing is left to arrive, to run or to wake for."""
        if self._started:
            query_id = self._started.popleft()
            del self._ended[query_id]
            return BlockEnd(self._now_s, query_id)
        if self._agenda.next_s == math.inf:
            return None
        if self._agenda.next_s > self._agenda.close_s:
            closed = Closed(self._agenda.close_s)
            self._agenda = Agenda((), 0.0)
            return closed
        event = self._agenda.pop()
        self._now_s = event.time_s
        return event

    def pressure(self) -> float:
        """Return 0: nothing runs beside anything."""
        return 0.0

    def progress(self) -> Mapping[int, int]:
        """Return how many layers of each running block have ended; a live view."""
        return self._progress

"""What is due in virtual time apart from running blocks: loads, arrivals, wakes, and the end of the run."""

import math
from collections.abc import Sequence
from heapq import heappop, heappush

from veltair.serving.loop.backend import Arrival, Loaded, Woken
from veltair.serving.loop.query import Query


class Agenda:
    """The arrivals of a trace, a load and the times that the policy asked for, as they are due.

    `next_s` is when the next one is due (infinity: never) and `close_s` when the run is cut off: `drain_s`
    seconds after the last arrival. At equal times a load ends before a query arrives, and that before a wake;
    a time asked for twice is due once.
    """

    def __init__(self, arrivals: Sequence[Query], drain_s: float) -> None:
        """Check the trace. Raises ValueError if it is out of order, or `drain_s` negative or infinite."""
        if not 0 <= drain_s < math.inf:
            raise ValueError(f"drain_s is {drain_s}; give a finite number of seconds, 0 or more")
        previous_s = 0.0
        for query in arrivals:
            if not previous_s <= query.arrival_s < math.inf:
                raise ValueError(
                    f"trace out of order: query {query.id} arrives at {query.arrival_s} s, after an arrival "
                    f"at {previous_s} s; sort the trace by arrival, from 0 on"
                )
            previous_s = query.arrival_s
        self._arrivals = arrivals
        self._arrived = 0
        self._wakes: list[float] = []
        self._load: Loaded | None = None
        self.close_s = previous_s + drain_s
        self.next_s = arrivals[0].arrival_s if arrivals else math.inf

    def wake_at(self, time_s: float) -> None:
        """Put a wake on the agenda. Raises ValueError if the time is negative or no number."""
        if not time_s >= 0:
            raise ValueError(f"asked to wake at {time_s} s; give a time from 0 on")
        heappush(self._wakes, time_s)
        self.next_s = min(self.next_s, time_s)

    def load_until(self, time_s: float, model: str) -> None:
        """Put the end of the one load on the agenda."""
        self._load = Loaded(time_s, model)
        self.next_s = min(self.next_s, time_s)

    def pop(self) -> Arrival | Loaded | Woken:
        """Take the next entry off the agenda. Raises IndexError if there is none."""
        wakes, time_s = self._wakes, self.next_s
        event: Arrival | Loaded | Woken
        if self._load is not None and self._load.time_s == time_s:
            event, self._load = self._load, None
        elif self._arrived < len(self._arrivals) and self._arrivals[self._arrived].arrival_s == time_s:
            event = Arrival(time_s, self._arrivals[self._arrived])
            self._arrived += 1
        else:
            event = Woken(heappop(wakes))
            while wakes and wakes[0] == time_s:
                heappop(wakes)
        arrival_s = (
            self._arrivals[self._arrived].arrival_s if self._arrived < len(self._arrivals) else math.inf
        )
        load_s = math.inf if self._load is None else self._load.time_s
        self.next_s = min(arrival_s, load_s, wakes[0] if wakes else math.inf)
        return event

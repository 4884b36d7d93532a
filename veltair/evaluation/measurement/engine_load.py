"""What a measured run ran beside: the time of decisions, LoadGen on the cores, the pace of the machine."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path

from veltair.serving.loop.backend import Event
from veltair.serving.loop.dispatcher import Dispatcher, Outcome

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """The mean seconds of a decision, from its event on, and how many cores LoadGen kept busy.

    `pace` is how many times as long as profiled queries took that were alone on the machine just before and
    just after. NaN where it was not measured, or the system does not tell.
    """

    decision_s: float = nan
    loadgen_cores: float = nan
    pace: float = nan


NOT_MEASURED = EngineLoad()


class TimedDispatcher(Dispatcher):
    """A dispatcher that adds up how long it decided about how many events."""

    def __init__(self, *args: object) -> None:
        """Take what a dispatcher takes."""
        super().__init__(*args)  # type: ignore[arg-type]
        self.decisions, self.seconds = 0, 0.0

    @property
    def decision_s(self) -> float:
        """The mean time of a decision; NaN before the first one."""
        return self.seconds / self.decisions if self.decisions else nan

    def handle(self, event: Event, pressure: float, progress: Mapping[int, int]) -> Outcome:
        """Apply an event, ask the policy, and return the commands and the queries that ended."""
        begin_s = time.perf_counter()
        outcome = super().handle(event, pressure, progress)
        self.seconds += time.perf_counter() - begin_s
        self.decisions += 1
        return outcome


class ProcessClock:
    """How many cores some processes keep busy, from when this is made."""

    def __init__(self, process_ids: Sequence[int]) -> None:
        """Begin to count."""
        self._process_ids = process_ids
        self._cpu_s, self._begin_s = cpu_s(process_ids), time.monotonic()

    def cores(self) -> float:
        """Return their processor time since then over the time that has passed."""
        return (cpu_s(self._process_ids) - self._cpu_s) / (time.monotonic() - self._begin_s)


def cpu_s(process_ids: Sequence[int], proc: Path = PROC) -> float:
    """Return the processor time of all threads of some processes; NaN if the system does not tell."""
    total_ns = 0
    for process_id in process_ids:
        threads = list(proc.glob(f"{process_id}/task/*/schedstat"))
        if not threads:
            return nan
        for path in threads:
            try:
                total_ns += int(path.read_text().split()[0])
            except (OSError, ValueError, IndexError):  # a thread that has just ended
                continue
    return 1e-9 * total_ns

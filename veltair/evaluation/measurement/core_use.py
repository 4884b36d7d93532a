"""How much of some cores a measured run had to share: with other processes, and with other guests (steal).

Linux counts the time that each core was idle or stolen, and the processor time of each process. What was
neither idle nor taken by the run itself, LoadGen's process included, others used.
"""

import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path

STAT = Path("/proc/stat")
OTHERS_LIMIT = 0.05  # a run that shares more than this of its cores is disturbed
# Positions in a line of /proc/stat, counted after the name of the core: proc(5).
IDLE, WAITING_FOR_IO, STOLEN = 3, 4, 7


@dataclass(frozen=True, slots=True)
class CoreUse:
    """The shares of a run's cores that others used: all of them, and of these the hypervisor's other guests.

    NaN where the system does not tell.
    """

    others: float
    steal: float

    @property
    def problem(self) -> str:
        """Why the run was disturbed and what to do; "" where it was not."""
        if not isfinite(self.others) or self.others <= OTHERS_LIMIT:
            return ""
        return (
            f"others used {self.others:.1%} of the cores (stolen by other guests: {self.steal:.1%}), over "
            f"{OTHERS_LIMIT:.0%}: stop other programs, or measure on a machine that is not shared"
        )


UNKNOWN = CoreUse(nan, nan)


@dataclass(frozen=True, slots=True)
class CoreTimes:
    """Seconds up to now: of the clock, idle and stolen on some cores, and of this process and its children.

    Children count once they have ended and were waited for.
    """

    at_s: float
    idle_s: float
    stolen_s: float
    own_s: float

    def until(self, later: "CoreTimes", cores: int) -> CoreUse:
        """Return who used so many cores between two readings."""
        elapsed_s = cores * (later.at_s - self.at_s)
        if not elapsed_s > 0.0 or not isfinite(later.idle_s - self.idle_s):
            return UNKNOWN
        steal = max(0.0, later.stolen_s - self.stolen_s) / elapsed_s
        used_s = elapsed_s - (later.idle_s - self.idle_s) - (later.own_s - self.own_s)
        # Whether stolen time counts as that of the process that lost it depends on the kernel.
        return CoreUse(min(1.0, max(0.0, used_s / elapsed_s, steal)), min(1.0, steal))


def core_times(cores: Sequence[int]) -> CoreTimes:
    """Return the times up to now of some cores; NaN for what the system does not tell."""
    # Not os.times(), which counts in ticks and cuts them off.
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    own_s = time.process_time() + spent.ru_utime + spent.ru_stime
    try:
        text = STAT.read_text(encoding="ascii", errors="replace")
    except OSError:
        text = ""
    idle_s, stolen_s = read_stat(text, cores, os.sysconf("SC_CLK_TCK"))
    return CoreTimes(time.monotonic(), idle_s, stolen_s, own_s)


def read_stat(text: str, cores: Sequence[int], ticks_per_s: int) -> tuple[float, float]:
    """Return the idle and the stolen seconds of some cores by /proc/stat; NaN if it lacks one of them."""
    lines = {fields[0]: fields[1:] for line in text.splitlines() if (fields := line.split())}
    idle_s = stolen_s = 0.0
    for core in cores:
        ticks = lines.get(f"cpu{core}", [])
        if len(ticks) <= STOLEN:
            return nan, nan
        idle_s += (int(ticks[IDLE]) + int(ticks[WAITING_FOR_IO])) / ticks_per_s
        stolen_s += int(ticks[STOLEN]) / ticks_per_s
    return idle_s, stolen_s

"""Pressure from the last-level cache's counters, which `perf stat` reads for the whole machine.

What is scored: bytes that misses bring from DRAM over the machine's DRAM bandwidth, the DRAM half of
pressure. What is not: the L3 half. No event of perf tells how much of an L3 others occupy; how much they
read from it is a feature that a fit on co-runs may use (`PressureFit`), and without a fit the L3 half
stays unscored. Where the kernel shows no such counters (`<not supported>`) nothing is scored and the source
refuses to start.

`LLC-load-misses` leaves out stores and, on some processors, prefetches: its traffic is a lower bound. Counts
that perf scaled, because counters took turns, are used as they are. Blocks of our own count as well as
others': the reading is the pressure on whoever starts next, not on a block that runs.

Lines are those of `perf stat -I -j`, described under JSON FORMAT in perf-stat(1): one object each.
"""

import json
import math
import os
import re
import subprocess
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from veltair.machine.interference.source import (
    InterferenceUnavailableError,
    PressureFit,
    Reading,
    SampledSource,
)
from veltair.machine.topology.topology import CACHE_LINE_BYTES, Machine

# Misses and accesses of the last level. The generic pair; then AMD's of Zen 4 and later, and of Zen 1 to 3
# (tools/perf/pmu-events/arch/x86/amdzen*/ in Linux). `cache-misses` is no choice: which cache it means
# depends on the processor.
EVENT_PAIRS = (
    ("LLC-load-misses", "LLC-loads"),
    ("l3_lookup_state.l3_miss", "l3_lookup_state.all_coherent_accesses_to_l3"),
    ("l3_comb_clstr_state.request_miss", "l3_lookup_state.all_l3_req_typs"),
)
# perf-stat(1) warns of the overhead of intervals below 100 ms.
INTERVAL_S = 0.1
TRIAL_TIMEOUT_S = 10.0
FIRST_READING_TIMEOUT_S = 10.0
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
# What perf writes in place of a number: no counter was free in the interval, or none is there.
NOT_COUNTED, NOT_SUPPORTED = "<not counted>", "<not supported>"


@dataclass(frozen=True, slots=True)
class Count:
    """One line: the events counted in the interval that ended `at_s` after the start.

    `value` is None where perf gives a reason in place of a number; `problem` is that reason, else empty.
    `unit` is the kind of core that counted, where a hybrid processor has several; else empty.
    """

    at_s: float
    event: str
    value: float | None
    problem: str
    unit: str = ""


def parse_line(line: str) -> Count | None:
    """Return what a line of `perf stat -I -j` says, None if it is no count (a comment, a metric alone).

    The event's name loses its modifiers: perf adds `:u` by itself where it may not see the kernel. That of a
    hybrid processor loses the kind of core too, as in `cpu_core/LLC-loads/`.
    """
    try:
        fields = json.loads(line)
        at_s, event, counted = float(fields["interval"]), fields["event"], fields["counter-value"]
        value = None if counted.startswith("<") else float(counted)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if not isinstance(event, str) or not (math.isfinite(at_s) and 0 <= (value or 0.0) < math.inf):
        return None
    hybrid = re.fullmatch(r"(cpu_[a-z]+)/([^/=,]+)/[a-zA-Z]*", event)
    unit, name = hybrid.groups() if hybrid else ("", event)
    return Count(at_s, re.sub(r":[a-zA-Z]+$", "", name), value, counted if value is None else "", unit)


class Intervals:
    """Puts counts together: of each interval, in order, one rate an event.

    `events` has the kinds of core that count each event, whose counts are one; there may be but the nameless.
    """

    def __init__(self, events: Mapping[str, Collection[str]]) -> None:
        self._events = tuple(events)
        self._wanted = {(event, unit) for event, units in events.items() for unit in units}
        self._begin_s = self._at_s = 0.0
        self._counts: dict[tuple[str, str], float | None] = {}

    def feed(self, count: Count) -> Reading | None:
        """Return each event's count per second when its interval is complete, else None.

        An interval in which one of them was not counted gives nothing: a missing count is no zero.
        """
        key = count.event, count.unit
        if key not in self._wanted:
            return None
        if count.at_s != self._at_s:
            self._begin_s, self._at_s, self._counts = self._at_s, count.at_s, {}
        self._counts[key] = count.value
        seconds = self._at_s - self._begin_s
        if len(self._counts) < len(self._wanted) or seconds <= 0:
            return None
        totals = dict.fromkeys(self._events, 0.0)
        for (event, _), value in self._counts.items():
            if value is None:
                return None
            totals[event] += value
        return tuple(total / seconds for total in totals.values())


def refusal(complaint: str, status: int, paranoid: str) -> str | None:
    """Return why perf may not count at all, from its stderr; None if only the events were wrong.

    `paranoid` is the setting kernel.perf_event_paranoid, or empty where it cannot be read.
    """
    if re.search(r"Access to performance|No permission|Permission denied|Operation not permitted", complaint):
        return (
            f"perf may not count the whole machine (kernel.perf_event_paranoid is {paranoid or 'unknown'}); "
            "set it to 0 (`sysctl kernel.perf_event_paranoid=0`) or give perf CAP_PERFMON"
        )
    if "unknown switch `j'" in complaint:
        return (
            "this perf cannot write JSON (`perf stat -j`), as that of Linux 6.0 and later can; install the "
            "perf of a newer kernel (it need not be the kernel's own)"
        )
    if status != 0 and "event syntax error" not in complaint:
        said = " ".join(complaint.split())[:200] or "nothing"
        return f"perf failed (exit status {status}) and said: {said}; try `perf stat -a -e LLC-loads true`"
    return None


def find_events(program: str = "perf") -> dict[str, frozenset[str]]:
    """Return the first pair of EVENT_PAIRS that this machine counts, and which kinds of core count each.

    A kind that does not support an event is left out: what the others count is a lower bound. Raises
    InterferenceUnavailableError if perf is missing or not permitted, or the machine counts none.
    """
    tried: dict[str, str] = {}
    for pair in EVENT_PAIRS:
        done = _try(program, pair)
        reason = refusal(done.stderr, done.returncode, _paranoid())
        if reason:
            raise InterferenceUnavailableError(reason)
        counts = [count for line in done.stdout.splitlines() if (count := parse_line(line))]
        if {count.event for count in counts if count.value is not None}.issuperset(pair):
            return {event: _units(counts, event) for event in pair}
        problem = next((count.problem for count in counts if count.problem), "unknown to this perf")
        tried[pair[0]] = problem
    listed = ", ".join(f"{event} is {problem}" for event, problem in tried.items())
    if NOT_COUNTED in tried.values():
        raise InterferenceUnavailableError(
            f"the counters of the last-level cache are taken ({listed}); end whatever else counts events, "
            "such as the watchdog of interrupts (`sysctl kernel.nmi_watchdog=0`), or use the probe"
        )
    raise InterferenceUnavailableError(
        f"this machine shows no counters of its last-level cache ({listed}), as most virtual "
        "machines and containers; use a bare machine, or the probe"
    )


def _units(counts: Iterable[Count], event: str) -> frozenset[str]:
    return frozenset(
        count.unit for count in counts if count.event == event and count.problem != NOT_SUPPORTED
    )


class PerfStat(SampledSource):
    """Reads misses and accesses of the last-level cache, a reading an interval, from a perf of its own.

    A reading is the bytes/s missed in and read from the L3, over the DRAM bandwidth; not clipped.
    """

    name = "perf"
    features: tuple[str, ...] = (
        "L3 misses (share of the DRAM bandwidth)",
        "L3 accesses (share of the DRAM bandwidth)",
    )

    def __init__(
        self,
        machine: Machine,
        interval_s: float = INTERVAL_S,
        fit: PressureFit | None = None,
        program: str = "perf",
    ) -> None:
        """Check the values. Raises ValueError if the interval is below 1 ms or the fit another source's."""
        if not interval_s >= 0.001:
            raise ValueError(f"PerfStat: interval_s is {interval_s}; perf takes 0.001 or more")
        super().__init__(fit)
        self._machine, self._interval_s, self._program = machine, interval_s, program
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start perf, wait for its first interval. Raises InterferenceUnavailableError if there is none."""
        self.stop()
        events = find_events(self._program)
        process = self._process = subprocess.Popen(
            stat_command(self._program, tuple(events), self._interval_s),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            env=_environment(),
        )
        try:
            self._sample(
                lambda: self._read(process, Intervals(events)), 1, self._interval_s + FIRST_READING_TIMEOUT_S
            )
        except RuntimeError as error:
            raise InterferenceUnavailableError(f"perf gave no reading: {error}") from error

    def stop(self) -> None:
        """End perf; harmless if it is not running."""
        self._stopping.set()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        super().stop()

    def pressure(self) -> float:
        """Return the share of the DRAM bandwidth in use, or what the fit makes of the reading."""
        reading = self._recent.middle()
        return min(1.0, reading[0]) if self.fit is None else self.fit.pressure(reading)

    def _read(self, process: "subprocess.Popen[str]", intervals: Intervals) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                count = parse_line(line)
                rates = intervals.feed(count) if count else None
                if rates is not None:
                    share = CACHE_LINE_BYTES / self._machine.dram_bytes_per_s
                    self._recent.add(tuple(rate * share for rate in rates))
        if not self._stopping.is_set():
            self._recent.fail(
                f"perf ended by itself (exit status {process.wait()}), so pressure is not known any more; "
                "run again, or with another source of interference"
            )


def stat_command(program: str, events: tuple[str, ...], interval_s: float) -> list[str]:
    """Return the command that counts events on all cores and prints JSON lines, one an interval and event."""
    interval_ms = round(1000 * interval_s)
    return [
        *(program, "stat", "--all-cpus", "--log-fd", "1", "-j"),
        *("-I", str(interval_ms), "-e", ",".join(events)),
    ]


def _try(program: str, events: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    command = [*stat_command(program, events, INTERVAL_S), "--", "true"]
    try:
        return subprocess.run(
            command,
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
            timeout=TRIAL_TIMEOUT_S,
            env=_environment(),
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise InterferenceUnavailableError(
            f"{program} was not found on PATH; install it (Debian: apt-get install linux-perf; Ubuntu: "
            "apt-get install linux-tools-generic; Fedora: dnf install perf)"
        ) from error
    except PermissionError as error:
        raise InterferenceUnavailableError(f"{program} may not be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise InterferenceUnavailableError(
            f"{program} did not end within {TRIAL_TIMEOUT_S:g} s of counting nothing; free the machine"
        ) from error


def _environment() -> dict[str, str]:
    """Return this process' environment with numbers written the C way."""
    return {**os.environ, "LC_ALL": "C"}


def _paranoid() -> str:
    try:
        return PARANOID.read_text(encoding="ascii").strip()
    except OSError:
        return ""

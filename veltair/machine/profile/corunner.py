"""The co-runner: a process that puts a steady pressure on the machine, from a core of its own."""

import os
import selectors
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from veltair.machine.c_build import compile_c
from veltair.machine.topology.topology import Machine

SOURCE = Path(__file__).with_name("corunner.c")
WARM_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
ALONE = "alone"
# A stream must not fit any L3, nor what a hypervisor hides of it.
STREAM_L3_MULTIPLE = 4
STREAM_MINIMUM_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class AchievedPressure:
    """What a co-runner really did, as shares in [0, 1] of the machine's DRAM bandwidth and of one L3.

    `l3_share` is what it touched again and again. One core rarely streams all of a machine's bandwidth, so at
    high levels `dram_share` stays below the level: a profile records both.
    """

    dram_share: float
    l3_share: float

    def __post_init__(self) -> None:
        if not (0 <= self.dram_share <= 1 and 0 <= self.l3_share <= 1):
            raise ValueError(f"AchievedPressure: {self.dram_share} and {self.l3_share} must lie in [0, 1]")

    @property
    def pressure(self) -> float:
        """The larger of both shares, as pressure is defined."""
        return max(self.dram_share, self.l3_share)


@dataclass(frozen=True, slots=True)
class CoRunnerLoad:
    """What a co-runner does: touches `footprint_bytes` cyclically and streams so many DRAM bytes/s.

    `duty` is the share of its time left by the stream in which it touches. `writes` makes the stream one of
    stores that pass the caches by (where the processor has them) in place of reads.
    """

    footprint_bytes: int
    stream_bytes_per_s: float
    duty: float = 1.0
    writes: bool = False

    def __post_init__(self) -> None:
        if self.footprint_bytes < 0 or not self.stream_bytes_per_s >= 0 or not 0 <= self.duty <= 1:
            raise ValueError(f"{self}: bytes are not negative, and duty lies in [0, 1]")


def load_at(level: float, machine: Machine) -> CoRunnerLoad:
    """Return the load of a pressure level: that share of an L3 and of the machine's DRAM bandwidth."""
    return CoRunnerLoad(int(level * machine.l3_bytes), level * machine.dram_bytes_per_s, level)


def conditions(machine: Machine) -> dict[str, CoRunnerLoad | None]:
    """Return what may run beside a block: nothing, or one core that fills an L3, reads DRAM, or writes it."""
    dram = machine.dram_bytes_per_s
    return {
        ALONE: None,
        "cache": CoRunnerLoad(machine.l3_bytes, 0.0),
        "reads": CoRunnerLoad(0, dram),
        "writes": CoRunnerLoad(0, dram, writes=True),
    }


class CoRunner:
    """A context in which a pressure level is kept up by a process pinned to one core.

    It puts the load of the level on the machine, or the load that is given, as far as one core can. Entering
    returns when it is warm; leaving stops it, and `achieved` can be read. Level 0 starts nothing. The process
    dies with the *thread* that entered, so enter in one that lives on.
    """

    def __init__(
        self, level: float, core: int, machine: Machine, build_dir: Path, load: CoRunnerLoad | None = None
    ) -> None:
        """Check the values. Raises ValueError if the level is not in [0, 1] or the machine lacks the core."""
        if not 0 <= level <= 1:
            raise ValueError(f"CoRunner: level is {level}; give a pressure in [0, 1]")
        if core not in machine.core_ids:
            raise ValueError(f"CoRunner: {machine.name} has no core {core}; give one of {machine.core_ids}")
        self.level = level
        self.load = load_at(level, machine) if load is None else load
        self.core = core
        self.machine = machine
        self.build_dir = build_dir
        self._process: subprocess.Popen[str] | None = None
        self._achieved: AchievedPressure | None = None

    def __enter__(self) -> Self:
        """Start it and wait until it is warm.

        Raises NativeBuildError if it cannot be compiled, RuntimeError if it does not get warm.
        """
        self._achieved = None
        if self.level == 0:
            return self
        program = compile_c(SOURCE, self.build_dir)
        self._process = subprocess.Popen(
            [str(program), *self._arguments()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        try:
            self._wait_until_warm(self._process)
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop it. Raises RuntimeError if it had died before, unless another error is on its way."""
        if self._process is None:
            self._achieved = AchievedPressure(0.0, 0.0)
            return
        self._process.terminate()
        try:
            report, complaint = self._process.communicate(timeout=STOP_TIMEOUT_S)
            self._achieved = self._read_report(report)
        except (subprocess.TimeoutExpired, ValueError) as failure:
            status = self._process.poll()
            complaint = "" if isinstance(failure, subprocess.TimeoutExpired) else complaint.strip()
            self._kill()
            if error is None:
                raise RuntimeError(
                    f"the co-runner at level {self.level} on core {self.core} ended early "
                    f"(exit status {status}) {complaint}; what was measured beside it is void: measure again"
                ) from failure
        self._process = None

    @property
    def pid(self) -> int:
        """The id of its process. Raises RuntimeError at level 0 and once it is stopped: there is none."""
        if self._process is None:
            raise RuntimeError("the co-runner has no process; read `pid` in the with block, above level 0")
        return self._process.pid

    @property
    def achieved(self) -> AchievedPressure:
        """What it did, once it has been stopped. Raises RuntimeError before."""
        if self._achieved is None:
            raise RuntimeError("the co-runner has not been stopped yet; read `achieved` after the with block")
        return self._achieved

    def _arguments(self) -> list[str]:
        load = self.load
        stream_bytes = max(STREAM_L3_MULTIPLE * self.machine.l3_bytes, STREAM_MINIMUM_BYTES)
        numbers = (self.core, load.footprint_bytes, stream_bytes, load.stream_bytes_per_s, load.duty)
        return [*(str(number) for number in (*numbers, os.getpid())), *(["writes"] if load.writes else [])]

    def _wait_until_warm(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None and process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            said = process.stdout.readline() if selector.select(WARM_TIMEOUT_S) else None
        if said is None:
            raise RuntimeError(
                f"the co-runner on core {self.core} was not warm after {WARM_TIMEOUT_S:g} s; free that core"
            )
        if said != "ready\n":
            complaint = process.stderr.read().strip()
            raise RuntimeError(
                f"the co-runner on core {self.core} did not start (exit status {process.wait()}): "
                f"{complaint}; it needs the core in this process's affinity and "
                f"{(STREAM_L3_MULTIPLE + 1) * self.machine.l3_bytes / 2**20:.0f} MiB of memory"
            )

    def _read_report(self, report: str) -> AchievedPressure:
        """Return the shares from its last line. Raises ValueError if it printed none."""
        seconds, streamed, touched = (float(number) for number in report.split())
        footprint_bytes = min(touched, self.load.footprint_bytes, self.machine.l3_bytes)
        return AchievedPressure(
            dram_share=min(1.0, streamed / seconds / self.machine.dram_bytes_per_s),
            l3_share=footprint_bytes / self.machine.l3_bytes,
        )

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

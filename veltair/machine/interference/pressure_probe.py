"""Pressure without counters: how much slower short reads are than on the quiet machine.

A pair of probes: a read of a buffer that an L3 can hold, twice, and one of the next part of a buffer that no
L3 holds. The first L3 read shows what others evicted since the last period, the second what they leave of the
L3's speed, the DRAM read what they leave of memory's. Each as the share of its quiet speed that it lost, from
0 to 1. Without a fit on co-runs (`PressureFit`) the largest is taken for the pressure: a scale of its
own, which rises with pressure but need not equal it.

On machines shared with others (virtual ones) their neighbours may evict the buffer even in quiet times. The
first share is then 0 whatever happens, and the other two are left.
"""

import itertools
import logging
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veltair.machine.c_build import FLAGS, NativeBuildError
from veltair.machine.c_library import CLibrary, load_library
from veltair.machine.interference.source import (
    WINDOW,
    InterferenceUnavailableError,
    PressureFit,
    Reading,
    SampledSource,
)
from veltair.machine.topology.topology import Machine

SOURCE, HEADER = Path(__file__).with_name("pressure_probe.c"), Path(__file__).with_name("pressure_probe.h")
# One to three per cent of one core; a change shows within three periods.
PERIOD_S = 0.02
QUIET_READINGS = 32
START_TIMEOUT_S = 60.0
# A read much larger than an L2 comes from the L3; a still larger one takes longer and shows no more.
L3_READ_L2_MULTIPLE = 4
DRAM_READ_BYTES = 2**20
# The DRAM buffer must not fit any L3, nor what a hypervisor hides of it.
DRAM_L3_MULTIPLE = 4
DRAM_MINIMUM_BYTES = 64 * 2**20
# Above this spread of the quiet readings the machine was hardly quiet.
UNSTEADY = 0.25

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProbeSizes:
    """Bytes of the L3 read, of a DRAM read, and of the buffer in which the DRAM read moves on."""

    l3_bytes: int
    dram_read_bytes: int
    dram_bytes: int

    def __post_init__(self) -> None:
        if not self.l3_bytes > 0 or not 0 < self.dram_read_bytes <= self.dram_bytes:
            raise ValueError(f"{self}: give sizes above 0, and a DRAM buffer that holds a read")


def probe_sizes(machine: Machine) -> ProbeSizes:
    """Return sizes for a machine: some L2s but at most half an L3, and far more than an L3."""
    l3_bytes = min(L3_READ_L2_MULTIPLE * machine.l2_bytes, machine.l3_bytes // 2)
    dram_bytes = max(DRAM_L3_MULTIPLE * machine.l3_bytes, DRAM_MINIMUM_BYTES)
    return ProbeSizes(l3_bytes, DRAM_READ_BYTES, dram_bytes)


def quiet_seconds(taken: Sequence[Reading]) -> tuple[Reading, float]:
    """Return the median seconds of each read over quiet periods, and the largest spread of a read.

    A spread is the distance between the quartiles over the median.
    """
    medians, spreads = [], []
    for seconds in zip(*taken, strict=True):
        low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
        medians.append(middle)
        spreads.append((high - low) / middle)
    return tuple(medians), max(spreads)


def lost_shares(quiet: Reading, seconds: Reading) -> Reading:
    """Return the share of its quiet speed that each read of these times lost, in [0, 1]."""
    pairs = zip(quiet, seconds, strict=True)
    return tuple(max(0.0, 1.0 - before / now) if now > 0 else 0.0 for before, now in pairs)


class ProbePair(SampledSource):
    """Takes a reading each period, in a thread that visits one core of each cache group in turn.

    A reading is the shares of their quiet speed that the three reads lost, each in [0, 1].

    Reads of one cache group show its own L3, so the reading is the middle one over all groups. `start`
    calibrates, so it belongs before any load; a second start keeps the first one's quiet times.
    """

    name = "probe"
    features: tuple[str, ...] = (
        "L3 read after a period (share of its quiet speed lost)",
        "L3 read again (share of its quiet speed lost)",
        "DRAM read (share of its quiet speed lost)",
    )

    def __init__(
        self,
        machine: Machine,
        build_dir: Path,
        cores: Sequence[int] | None = None,
        period_s: float = PERIOD_S,
        fit: PressureFit | None = None,
        sizes: ProbeSizes | None = None,
    ) -> None:
        """Check the values; `cores` is one a cache group, the last of each if not given.

        Raises ValueError for cores that the machine lacks, a period not above 0 or another source's fit.
        """
        self._cores = tuple(group[-1] for group in machine.cache_groups) if cores is None else tuple(cores)
        if not self._cores or not set(self._cores) <= set(machine.core_ids):
            raise ValueError(f"ProbePair: cores {self._cores}; give some of {machine.core_ids}")
        if not period_s > 0:
            raise ValueError(f"ProbePair: period_s is {period_s}; give seconds above 0")
        super().__init__(fit)
        self._build_dir, self._period_s = build_dir, period_s
        self._sizes = sizes or probe_sizes(machine)
        self.quiet: dict[int, Reading] = {}

    def start(self) -> None:
        """Build the probe, calibrate it and wait for the first reading of each group.

        Raises InterferenceUnavailableError if it cannot be built, or lacks its memory or a core.
        """
        self.stop()
        library = _load(self._build_dir)
        visits = (QUIET_READINGS + 1) * len(self._cores)
        timeout_s = START_TIMEOUT_S + visits * self._period_s
        try:
            self._sample(lambda: self._run(library), len(self._cores), timeout_s, WINDOW * len(self._cores))
        except RuntimeError as error:
            raise InterferenceUnavailableError(str(error)) from error

    def pressure(self) -> float:
        """Return the largest share, or what the fit makes of them."""
        reading = self._recent.middle()
        return max(reading) if self.fit is None else self.fit.pressure(reading)

    def _run(self, library: CLibrary) -> None:
        """Calibrate, then read until `stop`; the thread's whole life."""
        sizes = [self._sizes.l3_bytes] * len(self._cores) + [self._sizes.dram_bytes]
        buffers: list[Any] = []
        try:
            for size in sizes:
                buffers.append(_allocate(library, size))
            indices = itertools.cycle(range(0, self._sizes.dram_bytes, self._sizes.dram_read_bytes))
            visits = self._visits(library, buffers, indices)
            self._calibrate(visits)
            for core, seconds in visits:
                self._recent.add(lost_shares(self.quiet[core], seconds))
        except Exception as error:  # whatever it was, whoever asks for the pressure must hear of it
            self._recent.fail(f"the probe on cores {self._cores} cannot work: {error}")
        finally:
            for buffer, size in zip(buffers, sizes, strict=False):
                library.functions.buffer_free(buffer, size)

    def _visits(
        self, library: CLibrary, buffers: Sequence[Any], indices: Iterator[int]
    ) -> Iterator[tuple[int, Reading]]:
        """Yield a core and the seconds of the three reads on it, a period apart, until `stop`."""
        *held, stream = buffers
        room = self._sizes.dram_bytes - self._sizes.dram_read_bytes
        pinned: int | None = None
        for core, buffer in itertools.cycle(zip(self._cores, held, strict=True)):
            if self._stopping.wait(self._period_s):
                return
            if core != pinned:
                os.sched_setaffinity(0, {core})  # of this thread only
                pinned = core
            first_s = library.functions.read_lines(buffer, self._sizes.l3_bytes)
            again_s = library.functions.read_lines(buffer, self._sizes.l3_bytes)
            index = min(next(indices), room)
            dram_s = library.functions.read_lines(stream + index, self._sizes.dram_read_bytes)
            yield core, (first_s, again_s, dram_s)

    def _calibrate(self, visits: Iterator[tuple[int, Reading]]) -> None:
        if self.quiet:
            return
        taken: dict[int, list[Reading]] = {core: [] for core in self._cores}
        for core, seconds in itertools.islice(visits, (QUIET_READINGS + 1) * len(self._cores)):
            taken[core].append(seconds)
        if self._stopping.is_set():
            return
        for core, periods in taken.items():
            # The first of each brings its buffer into the cache.
            self.quiet[core], spread = quiet_seconds(periods[1:])
            if spread > UNSTEADY:
                _log.warning(
                    "the probe's quiet readings on core %d spread by %.0f %%: something else runs here, "
                    "so pressure will read too low; stop it and run again",
                    core,
                    100 * spread,
                )


def _load(build_dir: Path) -> CLibrary:
    """Return the probe's library; its calls release the GIL."""
    try:
        return load_library(SOURCE, [HEADER], build_dir, (*FLAGS, "-shared", "-fPIC"))
    except NativeBuildError as error:
        raise InterferenceUnavailableError(f"the probe cannot be built: {error}") from error


def _allocate(library: CLibrary, size: int) -> Any:
    buffer = library.functions.buffer_new(size)
    if not buffer:
        raise MemoryError(f"there is no {size / 2**20:.0f} MiB of memory for its buffer")
    return library.ffi.cast("char *", buffer)

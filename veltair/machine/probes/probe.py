"""How fast this machine is: peak and memory bandwidth of one core and of all, clock; by a probe in C."""

import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from veltair.compiler.select.core_counts import doubling
from veltair.machine.c_build import compile_c, flags_for
from veltair.machine.topology.cpulist import format_cpu_list
from veltair.machine.topology.topology import Topology

SOURCE = Path(__file__).with_name("probe.c")
REPEATS = 5
SECONDS = 0.15
# Read bytes that do not fit the L3, and not what a hypervisor hides of it.
L3_MULTIPLE = 4
MINIMUM_BYTES = 16 * 2**20

Repeats = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class HostSpeeds:
    """The repeats of the probe; what was not measured is empty.

    FLOP/s of one core, and DRAM bytes/s read by one core and by all together; by cores at work, the FLOP/s of
    all of those. `vector_bits` is the width of the vectors that the FLOP/s were reached with.
    """

    core_flops: Repeats
    core_dram_bytes_per_s_repeats: Repeats
    dram_bytes_per_s_repeats: Repeats
    flops_by_cores: tuple[tuple[int, Repeats], ...] = ()
    vector_bits: int = 256

    @property
    def core_peak_flops(self) -> float:
        """The most one core did while all were at work, or alone if only that is known: a peak is a bound."""
        if not self.flops_by_cores:
            return max(self.core_flops)
        cores, rates = self.flops_by_cores[-1]
        return max(rates) / cores

    @property
    def clock_factors(self) -> tuple[tuple[int, float], ...]:
        """Points (cores at work, speed of each relative to all at work).

        No core is faster for having more of them at work: what looks so is noise, and counts as equal.
        """
        points: list[tuple[int, float]] = []
        for cores, rates in reversed(self.flops_by_cores):
            factor = max(rates) / cores / self.core_peak_flops
            points.append((cores, max(factor, points[-1][1] if points else 1.0)))
        return tuple(reversed(points)) or ((1, 1.0),)

    @property
    def core_dram_bytes_per_s(self) -> float:
        """The median of one core's DRAM reads."""
        return statistics.median(self.core_dram_bytes_per_s_repeats)

    @property
    def dram_bytes_per_s(self) -> float:
        """The median of all cores' DRAM reads together; at least one core's, whatever the noise."""
        return max(statistics.median(self.dram_bytes_per_s_repeats), self.core_dram_bytes_per_s)


def probe(build_dir: Path, topology: Topology, cpu: str = "auto") -> HostSpeeds:
    """Return this machine's speeds, measured in about five seconds with all its cores.

    `cpu` is what the probe is compiled for, a name as in `build.cpu`: the peak is that of such kernels.
    Raises NativeBuildError if the probe cannot be compiled, RuntimeError if it fails.
    """
    program = compile_c(SOURCE, build_dir, flags_for(cpu))
    cores = [core for group in topology.cache_groups for core in group]
    size = len(topology.cache_groups[0])
    alone = max(L3_MULTIPLE * topology.l3_bytes, MINIMUM_BYTES)
    together = max(alone // size, MINIMUM_BYTES)
    vector_bits, _ = run(program, "fma", 0, cores[:1])  # warms the clock up, too
    flops = [(count, run(program, "fma", 0, cores[:count])[1]) for count in doubling(len(cores))]
    return HostSpeeds(
        core_flops=flops[0][1],
        core_dram_bytes_per_s_repeats=run(program, "read", alone, cores[:1])[1],
        dram_bytes_per_s_repeats=run(program, "read", together, cores)[1],
        flops_by_cores=tuple(flops),
        vector_bits=vector_bits,
    )


def run(program: Path, mode: str, buffer_bytes: int, cores: Sequence[int]) -> tuple[int, Repeats]:
    """Return the bits of the probe's vectors, and the rate of each repeat, on some cores.

    Raises RuntimeError if it fails.
    """
    numbers = (SECONDS, REPEATS, buffer_bytes, *cores)
    done = subprocess.run(
        [str(program), mode, *(str(number) for number in numbers)],
        capture_output=True,
        check=False,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"the probe failed on cores {format_cpu_list(cores)} (exit status {done.returncode}): "
            f"{done.stderr.strip()}; it needs {buffer_bytes * len(cores) >> 20} MiB of memory and these cores"
        )
    bits, *rates = done.stdout.split()
    return int(bits), tuple(float(rate) for rate in rates)

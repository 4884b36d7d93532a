"""What candidates would cost on a described machine, by which its versions are chosen."""

from collections.abc import Callable, Sequence

from veltair.compiler.select import doubling
from veltair.compiler.tiling import traffic_bytes
from veltair.compiler.version import Candidate
from veltair.machine.topology import Machine


def modelled_costs(machine: Machine, core_peak_flops: float) -> Callable[[Candidate], Sequence[float]]:
    """Return a candidate's modelled seconds, alone, on doubling core counts of a machine.

    `core_peak_flops` is the peak of the core that measured the candidates; where it is not known (0), that of
    the machine is taken. The model is the one of `tables.derive`: the longer of computing, which is the time
    on one core by peak and rounds, and of moving the traffic into the L3 from the DRAM.
    """
    ratio = core_peak_flops / machine.core_peak_flops if core_peak_flops else 1.0
    counts = doubling(machine.cores, machine.core_unit)

    def seconds(candidate: Candidate) -> Sequence[float]:
        return [
            max(
                candidate.seconds_on(cores) * ratio,
                traffic_bytes(candidate.tiling, cores, machine.total_l3_bytes) / machine.dram_bytes_per_s,
            )
            for cores in counts
        ]

    return seconds

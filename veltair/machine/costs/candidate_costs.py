"""What candidates would cost on a described machine, by which its versions are chosen."""

from collections.abc import Callable, Sequence
from math import inf

from veltair.compiler.footprint.version import Candidate
from veltair.compiler.select.core_counts import doubling
from veltair.machine.costs.cost_model import (
    LayerCostModel,
    MachineCostModel,
    block_bytes_per_s,
    block_l3_bytes,
    predicted_seconds,
    spread_dram_bytes,
)
from veltair.machine.topology.topology import Machine

# Candidates were timed on one core by the search; how much of that was memory time nobody measured.
_LAW = MachineCostModel(inf, {})
# What others leave of the L3 and of the bandwidth: a version is judged alone, beside some, and among many.
PRESSURES = (0.0, 0.5, 1.0)


def modelled_costs(machine: Machine, core_peak_flops: float) -> Callable[[Candidate], Sequence[float]]:
    """Return a candidate's modelled seconds on doubling core counts of a machine, at several shares of it.

    At a pressure p a block of c of C cores has the share max(1 - p, c / C) of the L3 and of the bandwidth, as
    in derived tables; a block on all cores is alone. `core_peak_flops` is the peak of the core that measured
    the candidates; where it is not known (0), that of the machine is taken. The model is that of derived
    tables, with the longer of computing and moving data; computing is all of the measured time on one core,
    by peak.
    """
    ratio = core_peak_flops / machine.core_peak_flops if core_peak_flops else 1.0
    cells = [
        (cores, max(1.0 - pressure, cores / machine.cores), pressure)
        for cores in doubling(machine.cores, machine.core_unit)
        for pressure in (PRESSURES if cores < machine.cores else PRESSURES[:1])
    ]

    def seconds(candidate: Candidate) -> Sequence[float]:
        cost_model = LayerCostModel(ratio * candidate.seconds_on(1), candidate.tiling)
        return [
            predicted_seconds(
                cost_model,
                _LAW,
                machine,
                cores,
                spread_dram_bytes(candidate.tiling, machine, cores, block_l3_bytes(machine, cores, share)),
                block_bytes_per_s(machine, cores, share),
                round(cores + pressure * (machine.cores - cores)),
            )
            for cores, share, pressure in cells
        ]

    return seconds

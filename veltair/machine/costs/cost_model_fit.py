"""The cost model fitted to measured times: computing times, how these combine with memory, a fork's cost.

Pure: functions of numbers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, nan

import numpy as np
from numpy.typing import NDArray

from veltair.compiler.footprint.traffic import Tiling
from veltair.machine.costs.cost_model import (
    LayerCostModel,
    MachineCostModel,
    block_bytes_per_s,
    block_l3_bytes,
    net_of_memory,
    predicted_seconds,
    spread_dram_bytes,
)
from veltair.machine.topology.topology import Machine

# From the sum of both to the longer one; in between times differ by less than the measurement's noise.
EXPONENTS = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 8.0, inf)
# What others leave of an older query's bytes: nothing.
COLD = 0.0
# A cycle loads two vectors and multiplies and adds two (`registers.py`): 8 bytes a lane, and 4 FLOP.
LOADED_BYTES_PER_FLOP = 2
# Costs of a fork that are tried: quantiles of what layers took longer than the rest of the model explains.
QUANTILES = tuple(range(0, 101, 2))


@dataclass(frozen=True, slots=True)
class ScaledLayer:
    """One version of a layer on a number of cores, alone: measured there, and on one core.

    `solo_s` is the time on one core, `seconds` that on `cores`; `macs` counts multiply-accumulates.
    """

    model: str
    layer: int
    version: int
    tiling: Tiling
    macs: int
    solo_s: float
    cores: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted cost model: exponent, a fork's cost by core count, median |ln(modelled / measured)|."""

    exponent: float
    fork_s: Mapping[int, float]
    error: float


def compute_seconds(tiling: Tiling, macs: int, solo_s: float, machine: Machine, exponent: float) -> float:
    """Return a version's computing time on one core at the all-core clock, from its time on one core alone.

    It is net of the memory time modelled there, and no less than its multiply-adds at the peak. Where it is
    known what a layer finds in its network, it may find all; then it takes no less than its bytes through the
    core's two loads a cycle. The profile runs networks in one version after another, so that inputs are warm
    and weights are not.
    """
    moved = spread_dram_bytes(tiling, machine, 1, block_l3_bytes(machine, 1), warm=COLD)
    memory_s = moved / block_bytes_per_s(machine, 1)
    clock = machine.clock(1)
    loaded = 0.0 if tiling.residency is None else tiling.compulsory_bytes / LOADED_BYTES_PER_FLOP
    least_s = max(2 * macs, loaded) / (machine.core_peak_flops * clock)
    return clock * net_of_memory(solo_s, memory_s, exponent, least_s)


def modelled_seconds(cell: ScaledLayer, machine: Machine, fit: Fit) -> float:
    """Return what a fitted cost model, told the time on one core, expects of a cell: alone on the machine."""
    launch_s = fit.fork_s.get(cell.cores, machine.launch_s + machine.join_s)
    return predicted_seconds(
        LayerCostModel(_compute(cell, machine, fit.exponent), cell.tiling),
        MachineCostModel(fit.exponent, {}),
        replace(machine, launch_s=launch_s, join_s=0.0),
        cell.cores,
        spread_dram_bytes(cell.tiling, machine, cell.cores, block_l3_bytes(machine, cell.cores), warm=COLD),
        block_bytes_per_s(machine, cell.cores),
        cell.cores,
    )


def fit_cost_model(cells: Iterable[ScaledLayer], machine: Machine) -> Fit:
    """Return the fit of least error over cells of several cores; of equal ones that of the largest exponent.

    The cost of a fork is fitted along, for times were taken by whatever runs kernels there, and that costs
    more or less than what the workers were probed with. Without cells nothing is lost.
    """
    fits = fits_by_exponent(cells, machine)
    best = min((fit.error for fit in fits.values()), default=inf)
    found = [fit for fit in fits.values() if fit.error <= best]
    return max(found, key=lambda fit: fit.exponent, default=Fit(inf, {}, nan))


def fits_by_exponent(cells: Iterable[ScaledLayer], machine: Machine) -> Mapping[float, Fit]:
    """Return the best fit of each exponent; none without cells of several cores."""
    several = [cell for cell in cells if cell.cores > 1]
    return {exponent: _fit(several, machine, exponent) for exponent in EXPONENTS} if several else {}


def _fit(cells: Sequence[ScaledLayer], machine: Machine, exponent: float) -> Fit:
    counts = sorted({cell.cores for cell in cells})
    bare = Fit(exponent, dict.fromkeys(counts, 0.0), nan)
    forks: dict[int, float] = {}
    errors: list[NDArray[np.float64]] = []
    for count in counts:
        here = [cell for cell in cells if cell.cores == count]
        modelled = np.array([modelled_seconds(cell, machine, bare) for cell in here])
        measured = np.array([cell.seconds for cell in here])
        pays = np.array([cell.tiling.parallelism > 1 for cell in here])
        forks[count], error = _best_fork(modelled, measured, pays)
        errors.append(error)
    return Fit(exponent, forks, float(np.median(np.concatenate(errors))))


def _best_fork(
    modelled: NDArray[np.float64], measured: NDArray[np.float64], pays: NDArray[np.bool_]
) -> tuple[float, NDArray[np.float64]]:
    """Return the cost of a fork that leaves the least median of |ln(modelled / measured)|, and these."""
    missing = (measured - modelled)[pays]
    tried = np.unique(np.clip(np.percentile(missing, QUANTILES), 0.0, None)) if missing.size else np.zeros(1)
    errors = [np.abs(np.log((modelled + fork_s * pays) / measured)) for fork_s in tried]
    best = int(np.argmin([np.median(error) for error in errors]))
    return float(tried[best]), errors[best]


def _compute(cell: ScaledLayer, machine: Machine, exponent: float) -> float:
    return compute_seconds(cell.tiling, cell.macs, cell.solo_s, machine, exponent)

"""What a layer presses on others with, and its profiled time by pressure: a cost table made ready."""

import math
from bisect import bisect_right
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from veltair.machine.costs.cost_model import LayerCostModel
from veltair.machine.costs.table import CostTable
from veltair.machine.topology.topology import Machine


@dataclass(frozen=True, slots=True)
class LayerDemand:
    """One version of a layer on a number of cores: its time by pressure, and how it presses on others.

    `seconds` has an entry for each of `levels`, and `slopes` the rise from there to the next one, in seconds
    per unit of pressure (0 after the last). `dram_share` and `l3_share` are shares of the machine's, not
    clipped. It takes `least_s` at least, as it may draw no more of memory. `cost_model` is what its time
    follows on a described machine, and `bytes_per_s` the most that it may draw there.
    """

    levels: tuple[float, ...]
    seconds: tuple[float, ...]
    slopes: tuple[float, ...]
    dram_share: float
    l3_share: float
    cost_model: LayerCostModel | None = None
    least_s: float = 0.0
    bytes_per_s: float = math.inf

    def seconds_at(self, pressure: float, stretch: float = 1.0) -> float:
        """Return the time of the layer at a pressure in [0, 1], `stretch` times that of cores of its own."""
        below = bisect_right(self.levels, pressure) - 1
        seconds = self.seconds[below] + (pressure - self.levels[below]) * self.slopes[below]
        return max(seconds * stretch, self.least_s)

    def limited(self, bytes_per_s: float, machine: Machine) -> "LayerDemand":
        """Return the demand of the layer where it may draw so many bytes/s of memory at most."""
        most = bytes_per_s / machine.dram_bytes_per_s
        if self.dram_share <= most:
            return replace(self, bytes_per_s=bytes_per_s)
        least_s = self.dram_share * self.seconds[0] / most
        return replace(self, dram_share=most, least_s=least_s, bytes_per_s=bytes_per_s)


@dataclass(frozen=True, slots=True, eq=False)
class ModelDemandCurves:
    """The demands of a model, all versions and core counts: the arrays behind `LayerDemand`.

    `seconds` and `slopes` have shape (layers, versions, core counts, levels), `dram_share` (layers, versions,
    core counts) and `l3_share` (layers, versions). A version that was not profiled takes for ever.
    """

    seconds: NDArray[np.float64]
    slopes: NDArray[np.float64]
    dram_share: NDArray[np.float64]
    l3_share: NDArray[np.float64]


def make_curves(costs: CostTable, machine: Machine, model: str, scale: float = 1.0) -> ModelDemandCurves:
    """Return the demands of a model; `scale` multiplies what pressure adds to a layer's time.

    Raises ValueError for bytes that are negative or no number.
    """
    of = costs.model(model)
    _check_bytes(costs, model)
    seconds = of.seconds.copy()
    if scale != 1.0:
        alone = seconds[..., :1]
        with np.errstate(invalid="ignore"):  # infinite less infinite: a version that was not profiled
            seconds = np.where(np.isfinite(alone), alone + scale * (seconds - alone), math.inf)
    if machine.cores in costs.cores:
        # Nobody can run beside a block on all cores, so it has no time under pressure.
        whole = costs.core_index(machine.cores)
        seconds[:, :, whole] = seconds[:, :, whole, :1]
    dram = of.traffic_bytes[..., 0] / seconds[..., 0] / machine.dram_bytes_per_s
    return ModelDemandCurves(
        seconds, _slopes(seconds, costs.levels), dram, of.footprint_bytes / machine.total_l3_bytes
    )


def _slopes(seconds: NDArray[np.float64], levels: tuple[float, ...]) -> NDArray[np.float64]:
    slopes = np.zeros(seconds.shape)
    for position in range(len(levels) - 1):
        low, high = seconds[..., position], seconds[..., position + 1]
        with np.errstate(invalid="ignore"):  # infinite less infinite: a version that was not profiled
            slopes[..., position] = (high - low) / (levels[position + 1] - levels[position])
    return slopes


def _check_bytes(costs: CostTable, model: str) -> None:
    of = costs.model(model)
    for what, values in (("traffic_bytes", of.traffic_bytes), ("footprint_bytes", of.footprint_bytes)):
        bad = np.argwhere(~(np.isfinite(values) & (values >= 0)))
        if len(bad):
            layer, version = (int(index) for index in bad[0][:2])
            raise ValueError(
                f"cost table of {costs.machine}: {what} of layer {layer} of {model}, version {version}, is "
                f"{values[tuple(bad[0])]}; bytes are finite, 0 or more: rerun rule `profile`"
            )

"""Cost tables altered for a validation: without noise, or with another demand."""

import pandas as pd

from veltair.machine.costs.table import CostTable

CELL = ["model", "layer", "version", "cores"]


def without_noise(costs: CostTable) -> CostTable:
    """Return a table of one repeat a cell, its median: every service takes the time of the table."""
    values = ["seconds", "traffic_bytes", "footprint_bytes"]
    medians: pd.DataFrame = costs.repeats.groupby([*CELL, "level"], sort=False)[values].median()
    return CostTable(medians.reset_index().assign(repeat=0), costs.machine)


def with_demand(costs: CostTable, scale: float) -> CostTable:
    """Return a table whose versions move, and keep in the caches, `scale` times as many bytes.

    What a version presses on others with grows by that; its own times stay. Raises ValueError unless the
    scale is above 0.
    """
    if not 0 < scale < float("inf"):
        raise ValueError(f"the scale of demand is {scale}; give a finite number above 0")
    moved = {name: scale * costs.repeats[name] for name in ("traffic_bytes", "footprint_bytes")}
    return CostTable(costs.repeats.assign(**moved), costs.machine)

"""What `interference_sensitivity` measures, made up with an effect of known size."""

import numpy as np
import pandas as pd

from veltair.machine.profile.corunner import ALONE


def made_up_times(
    local_slowdown: float = 1.0,
    parallel_slowdown: float = 1.0,
    parallel_alone: float = 1.2,
    noise: float = 0.01,
    structures: int = 12,
    processes: int = 6,
    condition: str = "reads",
) -> pd.DataFrame:
    """Return times of a network whose layers have a local version of 1 s and a parallel one.

    They are measured alone and beside a co-runner; noise is the standard deviation of the logarithm.
    """
    random = np.random.default_rng(0)
    slower = {ALONE: (1.0, 1.0), condition: (local_slowdown, parallel_slowdown)}
    rows = [
        (process, kind, "net", layer, version, number, seconds * factors[version] * error)
        for process in range(processes)
        for kind, factors in slower.items()
        for layer in range(structures)
        for version, seconds in enumerate((1.0, parallel_alone))
        for number, error in enumerate(np.exp(noise * random.standard_normal(3)))
    ]
    columns = ["process", "condition", "model", "layer", "version", "round", "seconds"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(
        structure="s" + table["layer"].astype(str),
        parallelism=np.where(table["version"] == 0, 2, 64),
        blocking_bytes=np.where(table["version"] == 0, 800_000, 10_000),
    )

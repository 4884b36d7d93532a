"""Tables of modelled beside simulated traffic, made up."""

from math import nan

import pandas as pd

from veltair.evaluation.validation.cachegrind import COLUMNS

MIB = 2**20


def traffic_table(
    *pairs_mib: tuple[float, float], cache_bytes: int = MIB, model: str = "net", compulsory_mib: float = 2
) -> pd.DataFrame:
    """Return a row for each pair of modelled and simulated MiB, of layers 0, 1, … of a model."""
    size = (8, MIB // 2, int(compulsory_mib * MIB), cache_bytes)
    rows = [
        (*(model, layer, 0, f"kernel{layer}", 10**6), *size, int(modelled * MIB), int(simulated * MIB))
        for layer, (modelled, simulated) in enumerate(pairs_mib)
    ]
    table = pd.DataFrame(rows, columns=COLUMNS[:-1])
    return table.assign(ratio=table["modelled_bytes"] / table["simulated_bytes"].replace(0, nan))


SIZES_TABLE = pd.concat(
    [
        traffic_table((1, 2), (2, 2), (4, 2), cache_bytes=2**18),
        traffic_table((1, 2), (2, 2), cache_bytes=2**20),
        traffic_table((8, 2), cache_bytes=2**20, model="other"),
    ],
    ignore_index=True,
)

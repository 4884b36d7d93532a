"""How far modelled traffic of whole networks is off what callgrind simulates. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from veltair.evaluation.experiment.benchmark_file import BenchmarkResult
from veltair.evaluation.metrics.markdown import markdown_table
from veltair.evaluation.metrics.policies_table import number
from veltair.evaluation.validation.traffic_errors import size_text

# Below it the curves of single layers decide, not what these find of each other.
LEAST_CACHE_BYTES = 2**21
# Of a network that stays in the cache hardly anything moves, and a ratio says nothing.
LEAST_NETWORK_BYTES = 2**20
LEAST_LAYER_BYTES = 2**16
GOAL, GOAL_90 = 1.1, 1.25
SIMULATED = "simulated"
# The law, the same of each layer alone, and a model that fetches the weights and nothing else.
LAWS = {"": "modelled", "alone": "alone_bytes", "weights": "constant_bytes"}
_KEY = ["model", "state", "cores", "cache_bytes"]


@dataclass(frozen=True, slots=True)
class Factors:
    """How far off some ratios are: exp of the median and of the 90 % quantile of |ln ratio|."""

    median: float
    high: float

    @staticmethod
    def of(ratios: NDArray[np.float64]) -> "Factors":
        """Return those of some ratios."""
        off = np.abs(np.log(ratios))
        return Factors(exp(float(np.median(off))), exp(float(np.quantile(off, 0.9))))


def network_totals(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each network, state and cache: fills and write-backs, simulated and by each law."""
    both = table.assign(
        simulated=table["simulated_fills"] + table["simulated_write_backs"],
        modelled=table["fills"] + table["write_backs"],
    )
    columns = [SIMULATED, *LAWS.values()]
    return both.groupby(_KEY, sort=False, as_index=False)[columns].sum()


def network_factors(table: pd.DataFrame) -> dict[str, Factors]:
    """Return how far off each law is over all networks and caches of 2 MiB or more; none without such."""
    totals = network_totals(table)
    known = totals[(totals["cache_bytes"] >= LEAST_CACHE_BYTES) & (totals[SIMULATED] >= LEAST_NETWORK_BYTES)]
    if known.empty:
        return {}
    simulated = known[SIMULATED].to_numpy(float)
    return {law: Factors.of(known[column].to_numpy(float) / simulated) for law, column in LAWS.items()}


def layer_factors(table: pd.DataFrame) -> Factors | None:
    """Return how far off the fills of single layers are, of those that fetch 64 KiB or more."""
    known = table[
        (table["cache_bytes"] >= LEAST_CACHE_BYTES) & (table["simulated_fills"] >= LEAST_LAYER_BYTES)
    ]
    if known.empty:
        return None
    # A layer that is modelled to find everything is off by its bytes, not without end.
    modelled = np.maximum(known["fills"].to_numpy(float), 1.0)
    return Factors.of(modelled / known["simulated_fills"].to_numpy(float))


def network_figures(table: pd.DataFrame, command: str) -> dict[str, BenchmarkResult]:
    """Return the numbers as a benchmark has them; none if nothing was simulated."""
    texts = {"": "", "alone": "; each layer alone", "weights": "; weights only"}
    made = {}
    for law, factors in network_factors(table).items():
        name = "_".join(filter(None, ("traffic_network_factor", law)))
        unit = f"times too much or too little, fills and write-backs of networks from 2 MiB on{texts[law]}"
        made[name] = _result(factors.median, f"{unit}; median", command)
        made[f"{name}_90"] = _result(factors.high, f"{unit}; 90 % quantile", command)
    if (layers := layer_factors(table)) is not None:
        unit = "times too much or too little, fills of a layer in its network from 2 MiB on"
        made["traffic_layer_factor"] = _result(layers.median, f"{unit}; median", command)
        made["traffic_layer_factor_90"] = _result(layers.high, f"{unit}; 90 % quantile", command)
    return made


def network_lines(table: pd.DataFrame) -> list[str]:
    """Return the report: how far off each law is, and the ratio of each network, state and cache."""
    factors = network_factors(table)
    if not factors:
        return [
            "Not compared with callgrind: nothing was simulated; the logs of rule `network_traffic` say why."
        ]
    law, alone, weights = (factors[name] for name in LAWS)
    met = "met" if law.median <= GOAL and law.high <= GOAL_90 else "missed"
    return [
        f"Fills and write-backs of whole networks from 2 MiB on are off by a factor of {number(law.median)} "
        f"(median) and {number(law.high)} (90 % quantile); goals {GOAL} and {GOAL_90}: {met}. Each layer "
        f"alone: {number(alone.median)} and {number(alone.high)}; weights only: {number(weights.median)} "
        f"and {number(weights.high)}.",
        "",
        "Modelled ÷ simulated bytes of the first query, which finds the cache cold, and of the second one; "
        "none where less than 1 MiB moves:",
        "",
        *_ratio_table(network_totals(table)),
    ]


def _ratio_table(totals: pd.DataFrame) -> list[str]:
    sizes = sorted(set(totals["cache_bytes"]))
    rows = []
    for (model, state, cores), group in totals.groupby(["model", "state", "cores"], sort=False):
        by_size: Mapping[int, pd.Series] = {int(row["cache_bytes"]): row for _, row in group.iterrows()}
        rows.append([model, state, cores, *(_ratio_text(by_size.get(size)) for size in sizes)])
    return markdown_table(["network", "query", "cores", *map(size_text, sizes)], rows, numbers=True)


def _ratio_text(row: pd.Series | None) -> str:
    if row is None or row[SIMULATED] < LEAST_NETWORK_BYTES:
        return ""
    return number(float(row["modelled"]) / float(row[SIMULATED]))


def _result(value: float, unit: str, command: str) -> BenchmarkResult:
    return BenchmarkResult(value, unit, (value,), command)

"""How far modelled traffic is off what cachegrind simulates. Pure: a table in, numbers and texts out."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
import pandas as pd

from veltair.evaluation.experiment.benchmark_file import BenchmarkResult
from veltair.evaluation.metrics.policies_table import number

MIB = 2**20


@dataclass(frozen=True, slots=True)
class TrafficRatios:
    """Modelled over simulated bytes of a sample: a ratio a row, and how far off it and the null model are.

    `factor` is exp(median |ln ratio|): half of the rows are off by less. The null model fetches each byte
    once, whatever the cache.
    """

    ratios: tuple[float, ...]
    factor: float
    null_factor: float

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """The quartiles of the ratios, the median in the middle."""
        low, middle, high = np.percentile(self.ratios, (25, 50, 75)).tolist()
        return low, middle, high


def traffic_ratios(table: pd.DataFrame) -> TrafficRatios | None:
    """Return how far off the modelled traffic is over all rows of a table; None if none was simulated."""
    known = table[table["simulated_bytes"] > 0]
    if known.empty:
        return None
    simulated = known["simulated_bytes"].astype(float)
    factor, null_factor = (
        exp(float(np.median(np.abs(np.log(known[column].astype(float) / simulated)))))
        for column in ("modelled_bytes", "compulsory_bytes")
    )
    return TrafficRatios(tuple(map(float, known["ratio"])), factor, null_factor)


def traffic_figures(table: pd.DataFrame, command: str) -> dict[str, BenchmarkResult]:
    """Return the numbers as a benchmark has them; none if nothing was simulated."""
    found = traffic_ratios(table)
    if found is None:
        return {}
    low, middle, high = found.quartiles
    unit = f"modelled / simulated bytes; cachegrind, one core, caches of {_sizes(table)}"
    values = {"median": middle, "low_quartile": low, "high_quartile": high}
    values |= {"min": min(found.ratios), "max": max(found.ratios)}
    made = {
        f"traffic_ratio_{name}": BenchmarkResult(
            value, f"{unit}; {name.replace('_', ' ')}", found.ratios, command
        )
        for name, value in values.items()
    }
    text = "times too much or too little, median"
    made["traffic_factor"] = BenchmarkResult(found.factor, text, found.ratios, command)
    null = f"{text}; if each byte were fetched once"
    return made | {
        "traffic_factor_null": BenchmarkResult(found.null_factor, null, (found.null_factor,), command)
    }


def traffic_lines(table: pd.DataFrame | None) -> list[str]:
    """Return the section of the report: how far off, and the layers that are furthest off."""
    if table is None:
        return []
    lines = ["", "## Traffic", ""]
    found = traffic_ratios(table)
    if found is None:
        reason = "valgrind is not installed here, or cannot run these kernels"
        return [*lines, f"Not compared with cachegrind: {reason}; the log of rule `traffic` says which."]
    low, middle, high = (number(value) for value in found.quartiles)
    return [
        *lines,
        f"Modelled ÷ simulated bytes that one core fetches into caches of {_sizes(table)}: median {middle}, "
        f"quartiles {low} and {high}, from {number(min(found.ratios))} to {number(max(found.ratios))}, n = "
        f"{len(found.ratios)} ({_layers(table)}). Half of them are off by a factor of less than "
        f"{number(found.factor)}; if each byte were fetched once, by {number(found.null_factor)}.",
        "",
        "Furthest off:",
        "",
        *(_line(row) for row in _furthest(table)),
    ]


def size_text(size: float) -> str:
    """Return a number of bytes as MiB or KiB."""
    return f"{number(size / MIB)} MiB" if size >= MIB else f"{number(size / 1024)} KiB"


def _furthest(table: pd.DataFrame, count: int = 3) -> Sequence[Mapping[Hashable, Any]]:
    known = table[table["simulated_bytes"] > 0]
    off = np.abs(np.log(known["ratio"].to_numpy(float)))
    return known.iloc[np.argsort(-off, kind="stable")[:count]].to_dict("records")


def _line(row: Mapping[Hashable, Any]) -> str:
    return (
        f"- {row['model']} layer {row['layer']}, version {row['version']}, {size_text(row['cache_bytes'])}: "
        f"{number(row['ratio'])}, modelled {number(row['modelled_bytes'] / MIB)} MiB, simulated "
        f"{number(row['simulated_bytes'] / MIB)} MiB; {row['parallelism']} iterations of "
        f"{number(row['blocking_bytes'] / MIB)} MiB, together {number(row['compulsory_bytes'] / MIB)} MiB"
    )


def _layers(table: pd.DataFrame) -> str:
    layers = len(table[["model", "layer"]].drop_duplicates())
    return f"{layers} layers of {', '.join(dict.fromkeys(table['model']))}"


def _sizes(table: pd.DataFrame) -> str:
    return " and ".join(size_text(size) for size in sorted(set(table["cache_bytes"])))

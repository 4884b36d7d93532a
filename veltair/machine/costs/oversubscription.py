"""What sharing cores costs, from samples of the probe: how much longer layers take than on an equal part."""

from functools import cache
from pathlib import Path

import pandas as pd

from veltair.data import shipped

Points = tuple[tuple[float, float], ...]
"""Threads a core, ascending, and how many times as long layers take as on an equal part of the core."""

# Of the machine that its provenance names: rule `oversubscription`.
RECORDED = shipped("engine") / "oversubscription.parquet"


@cache
def recorded_oversubscription(path: Path = RECORDED) -> Points:
    """Return what sharing cores was measured to cost. Raises LookupError if there is no such record."""
    try:
        return oversubscription(pd.read_parquet(path))
    except OSError as error:
        raise LookupError(
            f"what sharing cores costs was not recorded in {path} ({error}); run rule `oversubscription` and "
            "copy its result there"
        ) from error


def oversubscription(samples: pd.DataFrame) -> Points:
    """Return the points that samples of `measure_oversubscription` amount to: medians of ratios, by repeat.

    More threads never cost less: what looks so is noise, and counts as equal. Raises LookupError without
    samples of one thread a core.
    """
    rates = samples.pivot(index="repeat", columns="teams", values="rounds_per_s")
    if 1 not in rates.columns:
        raise LookupError("no core was measured with one thread alone; rerun rule `oversubscription`")
    points: list[tuple[float, float]] = []
    for teams in sorted(rates.columns):
        longer = float((rates[1] / rates[teams]).median())
        points.append((float(teams), max(longer, points[-1][1] if points else 1.0)))
    return tuple(points)


def scaled(points: Points, scale: float) -> Points:
    """Return the points of sharing that costs so many times as much; 0: nothing but the part itself."""
    return tuple((threads, 1.0 + scale * (longer - 1.0)) for threads, longer in points)

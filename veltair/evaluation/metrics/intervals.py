"""Means over seeds with their 95 % intervals, and policies compared seed by seed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite, nan

import numpy as np
from scipy.special import stdtrit  # scipy.stats has the same, and takes seconds to import

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over `count` values and the interval that holds the true one; NaN where it cannot be known.

    One value has a mean and no interval; no value has neither.
    """

    mean: float
    low: float
    high: float
    count: int

    def __post_init__(self) -> None:
        if self.count < 0 or self.low > self.mean or self.mean > self.high:
            raise ValueError(
                f"Interval of {self.count} values: mean {self.mean} in [{self.low}, {self.high}]; give a "
                "count of 0 or more and low <= mean <= high"
            )


def mean_interval(values: Iterable[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of independent values, one a seed, and Student's interval of it.

    NaN among the values is refused with ValueError: whether a seed without an answer counts is the caller's
    decision.
    """
    known = np.asarray(list(values), dtype=np.float64)
    if not np.isfinite(known).all():
        raise ValueError(f"values are {known.tolist()}; leave out seeds that have no answer")
    if not len(known):
        return Interval(nan, nan, nan, 0)
    mean = float(known.mean())
    if len(known) == 1:
        return Interval(mean, nan, nan, 1)
    half = float(stdtrit(len(known) - 1, (1 + confidence) / 2) * known.std(ddof=1) / len(known) ** 0.5)
    return Interval(mean, mean - half, mean + half, len(known))


def paired_ratio(numerator: Mapping[int, float], denominator: Mapping[int, float]) -> Interval:
    """Return the mean of the ratios of each seed, and its interval; both are by seed.

    Equal seeds give equal arrivals, so the ratio of a seed is free of what the seed does to both. Seeds that
    only one side has, or whose denominator is not above 0, are left out.
    """
    shared = [seed for seed in numerator if seed in denominator]
    return mean_interval(
        numerator[seed] / denominator[seed]
        for seed in shared
        if denominator[seed] > 0 and isfinite(denominator[seed]) and isfinite(numerator[seed])
    )

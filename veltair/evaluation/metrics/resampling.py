"""Intervals by bootstrap over rounds: a round is drawn whole, for all who were measured in it alike."""

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from veltair.evaluation.metrics.bounds import Bounds
from veltair.evaluation.metrics.intervals import CONFIDENCE

RESAMPLES = 2000
LEAST_ROUNDS = 3  # of fewer there is hardly an interval

Floats = NDArray[np.float64]
Times = NDArray[np.int64]


def resamples(rounds: int, generator: np.random.Generator, count: int = RESAMPLES) -> Times:
    """Return how often each round is in each resample, shape (count, rounds): as many draws as rounds."""
    drawn: Times = generator.multinomial(rounds, np.full(rounds, 1.0 / rounds), size=count)
    return drawn


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """A number as found in all rounds, and in resamples of them: their bounds have shape (resamples,).

    Two with the same resamples are paired: what a round does to both leaves their ratio alone.
    """

    found: Bounds
    at_least: Floats
    at_most: Floats
    rounds: int

    def over(self, other: "Resampled") -> "Resampled":
        """Return the quotient, in all rounds and resample by resample."""
        with np.errstate(divide="ignore"):
            least = self.at_least / other.at_most
            # A bound of nothing is a bound of no quotient either.
            most = np.where(other.at_least > 0.0, self.at_most / other.at_least, np.inf)
        return Resampled(self.found.over(other.found), least, most, self.rounds)

    @property
    def estimate(self) -> "BoundedEstimate":
        """The number with its interval."""
        low, high = _percentiles(self.at_least, self.at_most, self.rounds)
        return BoundedEstimate(self.found, low, high, self.rounds)


@dataclass(frozen=True, slots=True)
class BoundedEstimate:
    """A number, or a bound of it, and its 95 % interval over so many rounds.

    `low` is 0 where the interval reaches below all that was tried, `high` infinite where it reaches above.
    One round has no interval: both are NaN.
    """

    found: Bounds
    low: float
    high: float
    rounds: int


def best(of: "list[Resampled]") -> Resampled:
    """Return the largest of several paired numbers, in all rounds and resample by resample."""
    at_least = np.max([one.at_least for one in of], axis=0)
    at_most = np.max([one.at_most for one in of], axis=0)
    found = Bounds(max(one.found.at_least for one in of), max(one.found.at_most for one in of))
    return Resampled(found, at_least, at_most, of[0].rounds)


def share_interval(shares: Floats, rounds: int) -> tuple[Floats, Floats]:
    """Return the interval of each of several shares by their resamples, shape (resamples, shares)."""
    bands = [_percentiles(column, column, rounds) for column in shares.T]
    low, high = np.array(bands, dtype=np.float64).T
    return low, high


def _percentiles(least: Floats, most: Floats, rounds: int) -> tuple[float, float]:
    """Return the lower percentile of the lower bounds, and the upper one of the upper bounds.

    Plain percentiles of few rounds are too narrow, so they are taken further out, as Student's t is wider
    than the normal: the expanded percentile interval of Hesterberg, What Teachers Should Know About the
    Bootstrap, arXiv 1411.5279.
    """
    if rounds < 2:
        return nan, nan
    reach = sqrt(rounds / (rounds - 1)) * float(stdtrit(rounds - 1, (1 + CONFIDENCE) / 2))
    tail = float(ndtr(-reach))
    # Bounds may be infinite, so none are averaged.
    low = float(np.quantile(least, tail, method="inverted_cdf"))
    return low, float(np.quantile(most, 1.0 - tail, method="inverted_cdf"))

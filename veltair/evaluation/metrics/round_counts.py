"""What was on time in each round, rate and tenant of one server, and the curves and crossings of that."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from veltair.evaluation.metrics.bounds import Bounds
from veltair.evaluation.metrics.capacity import Criterion
from veltair.evaluation.metrics.resampling import Floats, Resampled, Times
from veltair.evaluation.metrics.satisfaction_curve import crossing, non_rising

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RoundCounts:
    """Counted queries of a server, and those of them on time, both of shape (rounds, rates, tenants).

    `qps` are the rates, ascending. A rate that was left out of a round has no queries in it.
    """

    qps: Floats
    counted: Counts
    on_time: Counts

    def __post_init__(self) -> None:
        shape = self.counted.shape
        if self.on_time.shape != shape or len(shape) != 3 or shape[1] != len(self.qps):
            raise ValueError(
                f"RoundCounts: {shape} counted and {self.on_time.shape} on time at {len(self.qps)} rates; "
                "give both of shape (rounds, rates, tenants)"
            )
        if (self.on_time > self.counted).any() or (self.on_time < 0).any():
            raise ValueError("RoundCounts: more queries on time than counted; give on_time <= counted")

    @property
    def rounds(self) -> int:
        """How many rounds there are."""
        return len(self.counted)

    def curve(self, criterion: Criterion = Criterion.POOLED) -> Floats:
        """Return the fitted satisfaction at each rate, NaN at one without any query; shape (rates,)."""
        curve: Floats = self.curves(self._once, criterion)[0]
        return curve

    def shares(self) -> Floats:
        """Return the satisfaction at each rate as measured, over all rounds; shape (rates,)."""
        shares: Floats = self._shares(self._once, Criterion.POOLED)[0][0]
        return shares

    def curves(self, times: Times, criterion: Criterion = Criterion.POOLED) -> Floats:
        """Return the fitted satisfaction in resamples of the rounds, shape (resamples, rates)."""
        shares, weights = self._shares(times, criterion)
        fitted = np.full_like(shares, np.nan)
        for row, share, weight in zip(fitted, shares, weights, strict=True):
            known = weight > 0
            if known.any():
                row[known] = non_rising(share[known], weight[known])
        return fitted

    def crossings(self, times: Times, target: float, criterion: Criterion = Criterion.POOLED) -> Resampled:
        """Return where the curve falls below the target, in all rounds and in resamples of them.

        A resample that lacks a rate is crossed between those that it has. Raises ValueError if no round has a
        query at all.
        """
        found = [self._crossing(curve, target) for curve in self.curves(times, criterion)]
        return Resampled(
            self._crossing(self.curve(criterion), target),
            np.array([one.at_least for one in found], dtype=np.float64),
            np.array([one.at_most for one in found], dtype=np.float64),
            self.rounds,
        )

    @property
    def _once(self) -> Times:
        """All rounds once, as a resample."""
        return np.ones((1, self.rounds), dtype=np.int64)

    def _crossing(self, curve: Floats, target: float) -> Bounds:
        known = np.isfinite(curve)
        return crossing(self.qps[known], curve[known], target)

    def _shares(self, times: Times, criterion: Criterion) -> tuple[Floats, Floats]:
        """Return the satisfaction in resamples and the queries behind it, both (resamples, rates)."""
        counted, on_time = (np.tensordot(times, part, axes=1) for part in (self.counted, self.on_time))
        queries: Floats = counted.sum(axis=2).astype(np.float64)
        with np.errstate(invalid="ignore"):
            if criterion is Criterion.POOLED:
                return on_time.sum(axis=2) / queries, queries
            # A tenant that a resample does not ask for says nothing of the least.
            by_tenant = np.where(counted > 0, on_time / counted, np.inf)
        return by_tenant.min(axis=2), queries


def round_counts(counts: pd.DataFrame) -> dict[str, RoundCounts]:
    """Return the counts of each server of one workload, by name, all at the same rates and rounds.

    `counts` has the columns `policy`, `round`, `qps`, `tenant`, `counted` and `on_time`, a row a server,
    round, rate and tenant; what is missing had no query.
    """
    qps, rounds = (np.sort(counts[name].unique()) for name in ("qps", "round"))
    tenants = list(dict.fromkeys(counts["tenant"]))
    found = {}
    for name, own in counts.groupby("policy", sort=False):
        shape = (len(rounds), len(qps), len(tenants))
        tables = {column: np.zeros(shape, dtype=np.int64) for column in ("counted", "on_time")}
        places = (
            np.searchsorted(rounds, own["round"]),
            np.searchsorted(qps, own["qps"]),
            np.array([tenants.index(tenant) for tenant in own["tenant"]]),
        )
        for column, table in tables.items():
            np.add.at(table, places, own[column].to_numpy(dtype=np.int64))
        found[str(name)] = RoundCounts(qps.astype(np.float64), tables["counted"], tables["on_time"])
    return found

"""Which repeats of a measurement were disturbed: they tell of a shared machine, not of a layer. Pure."""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# Share of a repeat for which the core of its leading worker was taken away, by other programs or by other
# guests of the hypervisor; NaN, or no such column, where nobody noted it.
AWAY = "away_share"
# A repeat that lost more of its core than this is disturbed: as much as a whole run may share (core_use.py).
AWAY_LIMIT = 0.05
# Of repeats that nobody watched those are taken for disturbed that took longer than this multiple of the
# median: an assumption, by pyperf's check of whether a benchmark is stable ("50 % greater than the mean").
UNWATCHED_LIMIT = 1.5

KeptRepeats = Literal["undisturbed", "all", "none"]


def noise_factors(
    factors: NDArray[np.float64], away: NDArray[np.float64], kept: KeptRepeats
) -> NDArray[np.float64]:
    """Return the factors that service noise is drawn from, at least one.

    `factors` are repeats over the median of their cell, `away` their `AWAY`; both have shape (repeats,).
    `kept` says which: "all", those that were "undisturbed", or "none" of them, which leaves 1.
    """
    if kept == "none":
        return np.ones(1)
    return factors if kept == "all" else factors[~disturbed(factors, away)]


def disturbed(factors: NDArray[np.float64], away: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which repeats were disturbed, of shape (repeats,): never all of them.

    It is known of those that were watched, and assumed of the others. Where every one lost its core, all are
    judged as if nobody had watched.
    """
    assumed = factors > UNWATCHED_LIMIT
    found: NDArray[np.bool_] = np.where(np.isnan(away), assumed, away > AWAY_LIMIT)
    return assumed if found.all() else found


def away_shares(repeats: pd.DataFrame) -> NDArray[np.float64]:
    """Return the `AWAY` of repeats, shape (repeats,): NaN where nobody noted it.

    Raises ValueError for what is no share.
    """
    if AWAY not in repeats.columns:
        return np.full(len(repeats), np.nan)
    away = repeats[AWAY].to_numpy(dtype=np.float64)
    if ((away < 0) | (away > 1)).any():
        raise ValueError(f"{AWAY} is from {np.nanmin(away)} to {np.nanmax(away)}; shares lie in [0, 1]")
    return away


def disturbance_note(repeats: pd.DataFrame) -> str:
    """Return in a line what is known of the disturbances of a table's repeats."""
    away = away_shares(repeats)
    if np.isnan(away).all():
        return (
            f"its repeats are unmarked: nobody noted whether their cores were taken away, and those over "
            f"{UNWATCHED_LIMIT:g} x the median of their cell are taken for disturbed"
        )
    share = float(np.mean(away[~np.isnan(away)] > AWAY_LIMIT))
    return f"{share:.1%} of its repeats lost more than {AWAY_LIMIT:.0%} of their core"

"""What a run gives its tenants beside each other: how evenly, and how fast against each of them alone.

Sources: Jain, Chiu, Hawe, DEC-TR-301, 1984; Eyerman, Eeckhout, IEEE Micro 28(3), 2008, where a tenant is what
they call a programme and its normalized turnaround time is its mean latency over that of a query alone.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def minimum_satisfaction(satisfaction: ArrayLike) -> tuple[int, float]:
    """Return which tenant fares worst, the first of equals, and its share of queries on time.

    Raises ValueError without tenants.
    """
    values = np.asarray(satisfaction, dtype=np.float64)
    if not len(values):
        raise ValueError("no tenant has a counted query, so none fares worst; count a longer run")
    worst = int(values.argmin())
    return worst, float(values[worst])


def jain_index(values: ArrayLike) -> float:
    """Return (sum x)^2 / (n sum x^2), in [1/n, 1]: 1 if all get the same, 1/n if one gets all.

    Values are 0 or more, shape (n,); NaN if all are 0 or there are none. Source: Jain et al., 1984.
    """
    got = np.asarray(values, dtype=np.float64)
    squares = len(got) * float((got**2).sum())
    return float(got.sum()) ** 2 / squares if squares else math.nan


def antt(turnarounds: ArrayLike) -> float:
    """Return the average normalized turnaround time: how many times as long as alone; less is better.

    `turnarounds`, shape (n,), are those of the tenants, 1 where it is as fast as alone; those without a
    latency (NaN) are left out. NaN if none has one. Source: Eyerman, Eeckhout, 2008.
    """
    known = _known(turnarounds)
    return float(known.mean()) if len(known) else math.nan


def stp(turnarounds: ArrayLike) -> float:
    """Return the system throughput: the progress of all tenants together, in tenants served as if alone.

    `turnarounds` as of `antt`. A tenant without a latency makes no progress, so it adds 0. Source: as `antt`.
    """
    return float((1 / _known(turnarounds)).sum())


def _known(turnarounds: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(turnarounds, dtype=np.float64)
    return values[~np.isnan(values)]

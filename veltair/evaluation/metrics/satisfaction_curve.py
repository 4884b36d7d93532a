"""Where satisfaction falls below its target: a curve over the offered rate, and the rate where it crosses.

More load does not help, so of all curves that do not rise the one nearest to what was measured stands for it:
isotonic regression by least squares, a rate weighted by its queries. Between two rates it is a straight line.
"""

from math import inf

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from veltair.evaluation.metrics.bounds import Bounds

# A share of 95 % that was averaged may be off by its last bits.
ROUNDING = 1e-12

Floats = NDArray[np.float64]


def non_rising(shares: Floats, weights: Floats) -> Floats:
    """Return the curve that does not rise and is nearest to `shares`, by squares weighted.

    Both have shape (rates,), by ascending rate; weights are above 0. Runs that rise become their mean.
    """
    fitted: Floats = isotonic_regression(shares, weights=weights, increasing=False).x
    return fitted


def crossing(qps: Floats, curve: Floats, target: float) -> Bounds:
    """Return the rate where a curve that does not rise falls below the target, both of shape (rates,).

    It is below the lowest rate where that one misses the target, and above the highest where that one meets
    it. Raises ValueError for rates that do not ascend.
    """
    if not len(qps) or len(qps) != len(curve) or not (np.diff(qps) > 0.0).all():
        raise ValueError(f"rates {qps.tolist()} for {len(curve)} points; give ascending ones, one a point")
    met = int((curve >= target - ROUNDING).sum())
    if met == 0:
        return Bounds(0.0, float(qps[0]))
    if met == len(qps):
        return Bounds(float(qps[-1]), inf)
    above, below = float(curve[met - 1]), float(curve[met])
    share = max(0.0, (above - target) / (above - below))
    at_qps = float(qps[met - 1] + share * (qps[met] - qps[met - 1]))
    return Bounds(at_qps, at_qps)

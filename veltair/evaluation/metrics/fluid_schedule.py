"""The most queries that a schedule could serve on time which knows all arrivals and divides work at will.

A linear programme. Between two neighbours among all arrivals and deadlines nothing comes and nothing is due,
so a schedule is how much of each query is done in each such interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_array


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """What each query takes of one resource, shape (queries,), and how much of it there is a second."""

    of_each: NDArray[np.float64]
    per_s: float

    def __post_init__(self) -> None:
        if not self.per_s > 0 or np.isnan(self.of_each).any() or (self.of_each < 0).any():
            raise ValueError(
                f"Demand of {self.per_s} a second: give a capacity above 0, and demands of 0 or more"
            )


def most_on_time(
    arrivals_s: NDArray[np.float64], deadlines_s: NDArray[np.float64], demands: Sequence[Demand]
) -> float:
    """Return how many queries can be done between their arrival and deadline, in fractions of queries.

    Both times have shape (queries,). One whose demand is infinite cannot be done at all. Raises ValueError
    for a deadline before its arrival, or if the solver fails.
    """
    if (deadlines_s < arrivals_s).any():
        raise ValueError("a query is due before it arrives; give deadlines that are no earlier")
    possible = np.all([np.isfinite(demand.of_each) for demand in demands], axis=0)
    arrivals_s, deadlines_s = arrivals_s[possible], deadlines_s[possible]
    if not len(arrivals_s):
        return 0.0
    times = np.unique(np.concatenate([arrivals_s, deadlines_s]))
    first, stop = np.searchsorted(times, arrivals_s), np.searchsorted(times, deadlines_s)
    query = np.repeat(np.arange(len(first)), stop - first)
    # The intervals [first, stop) of each query, one after the other.
    starts = np.repeat(np.cumsum(stop - first) - (stop - first), stop - first)
    interval = np.arange(len(query)) - starts + first[query]
    limits = [np.ones(len(first))]
    rows, values = [query], [np.ones(len(query))]
    for index, demand in enumerate(demands):
        rows.append(len(first) + index * (len(times) - 1) + interval)
        values.append(demand.of_each[possible][query])
        limits.append(demand.per_s * np.diff(times))
    return _most(np.concatenate(rows), np.concatenate(values), np.concatenate(limits), len(query))


def _most(
    rows: NDArray[np.int64], values: NDArray[np.float64], limits: NDArray[np.float64], variables: int
) -> float:
    """Return the largest sum of variables, 0 or more, whose weighted sums by row are within limits."""
    if not variables:
        return 0.0
    columns = np.tile(np.arange(variables), len(rows) // variables)
    # Rows of like size are easier on the solver, and 1 is what the first ones have.
    scale = np.maximum(limits, np.finfo(np.float64).tiny)
    matrix = coo_array((values / scale[rows], (rows, columns)), shape=(len(limits), variables)).tocsr()
    solved = linprog(-np.ones(variables), A_ub=matrix, b_ub=np.ones(len(limits)), method="highs")
    if solved.x is None:
        raise ValueError(f"the linear programme of {variables} parts was not solved: {solved.message}")
    return float(-solved.fun)

"""What each query is held to: its QoS on a machine, and the least work that can meet it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from veltair.compiler.frontend.model import Model
from veltair.machine.costs.table import CostTable
from veltair.machine.topology.topology import Machine

RELAX = 2.3  # 15 ms of ResNet-50 / its 6.6 ms alone on the 64 cores of Liu et al., ASPLOS 2022
SATISFACTION = 0.95  # the share of queries that must be on time
ROUNDING = 1e-6  # by what share sums of some hundred times may be off, late in a long run
TARGET_COLUMNS = (
    "machine",
    "model",
    "qos_table_s",
    "isolated_latency_s",
    "qos_s",
    "relaxed",
    "work_optimal_core_s",
)


def targets(models: Sequence[Model], costs: CostTable, relax: float = RELAX) -> pd.DataFrame:
    """Return one row a model with the columns of `TARGET_COLUMNS`: computed once per machine.

    `qos_s` is the larger of the model's own target and `relax` times its latency alone on the core count that
    suits it best; `relaxed` says that the machine was too slow for the target. Raises LookupError if a model
    was not profiled and ValueError if `relax` is negative.
    """
    if not relax >= 0:
        raise ValueError(f"relax is {relax}; give 0 (never relax) or more")
    rows = []
    for model in models:
        isolated_s = costs.isolated_latency_s(model.name)
        qos_s = max(model.qos_s, relax * isolated_s)
        work = work_optimal_core_s(costs, model.name, qos_s)
        rows.append((costs.machine, model.name, model.qos_s, isolated_s, qos_s, qos_s > model.qos_s, work))
    return pd.DataFrame(rows, columns=list(TARGET_COLUMNS))


def work_optimal_core_s(
    costs: CostTable, model: str, qos_s: float, counted: CostTable | None = None
) -> float:
    """Return a lower bound on the core-seconds of one query that meets `qos_s` alone; inf if none can.

    It is W* = max over prices mu >= 0 of [sum over layers of min over versions and cores of (c + mu) T(c),
    less mu QoS] at level 0: the Lagrangian dual of the least sum of c T(c) with sum of T(c) <= QoS. The
    minimum over versions stands inside the sum, because a policy may choose another version for each layer:
    with one version for the whole model it would bound such a policy too tightly. The maximum is exact, not
    scanned: it is the linear relaxation, which trades time for work along each layer's lower convex hull,
    cheapest trade first.

    `counted` is a table of the same cells that work is counted by, while time still passes by `costs`.
    """
    work_s = None if counted is None else counted.model(model).seconds[..., 0]
    plan = least_plan(costs.model(model).seconds[..., 0], costs.cores, work_s)
    surplus_s = sum(plan.base_s.tolist()) - qos_s
    total: float = sum(plan.base_core_s.tolist())
    for saved_s, spent_core_s in zip(plan.saved_s.tolist(), plan.spent_core_s.tolist(), strict=True):
        if surplus_s <= 0:
            break
        total += min(1.0, surplus_s / saved_s) * spent_core_s
        surplus_s -= saved_s
    rounding_s = 1e-12 * qos_s
    return total if surplus_s <= rounding_s else math.inf


@dataclass(frozen=True, slots=True, eq=False)
class LeastPlan:
    """The plan of least work, and the trades that make it faster, the cheapest core-second a second first.

    `base_s` and `base_core_s`, shape (layers,), are the time and the work of each layer in the version and on
    the cores where it works least. A trade along the lower convex hull of layer `trade_layer` saves `saved_s`
    for `spent_core_s`; these have shape (trades,).
    """

    base_s: NDArray[np.float64]
    base_core_s: NDArray[np.float64]
    trade_layer: NDArray[np.int64]
    saved_s: NDArray[np.float64]
    spent_core_s: NDArray[np.float64]

    def core_s(self, factors: NDArray[np.float64], qos_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the least core-seconds of queries, each within its target; inf where none is enough.

        `factors`, shape (queries, layers), multiply the times of a query's layers, on every core count and in
        every version alike; `qos_s` and the result have shape (queries,). As a factor stretches a layer's
        time and work alike, the trades keep their order.
        """
        weights = factors[:, self.trade_layer]
        saved_s = weights * self.saved_s
        left_s = (factors @ self.base_s - qos_s)[:, None] - (np.cumsum(saved_s, axis=1) - saved_s)
        traded = np.clip(left_s / saved_s, 0.0, 1.0)
        total = factors @ self.base_core_s + (traded * weights * self.spent_core_s).sum(axis=1)
        lacking_s = factors @ self.base_s - saved_s.sum(axis=1) - qos_s
        least: NDArray[np.float64] = np.where(lacking_s > ROUNDING * qos_s, math.inf, total)
        return least


def least_plan(
    seconds: NDArray[np.float64], cores: Sequence[int], work_s: NDArray[np.float64] | None = None
) -> LeastPlan:
    """Return the plan of least work of a model whose layers take `seconds`.

    `seconds` has shape (layers, versions, core counts), infinite where there is no such version; so have
    `work_s`, the seconds that work is counted by, where these are others.
    """
    work = (seconds if work_s is None else work_s) * np.asarray(cores, dtype=np.float64)
    hulls = [_hull(times.ravel(), works.ravel()) for times, works in zip(seconds, work, strict=True)]
    saved = np.concatenate([-np.diff(times) for times, _ in hulls])
    spent = np.concatenate([np.diff(works) for _, works in hulls])
    layer = np.repeat(np.arange(len(hulls)), [len(times) - 1 for times, _ in hulls])
    order = np.argsort(spent / saved, kind="stable")
    return LeastPlan(
        np.array([times[0] for times, _ in hulls]),
        np.array([works[0] for _, works in hulls]),
        layer[order],
        saved[order],
        spent[order],
    )


def _hull(times: NDArray[np.float64], works: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return the lower convex hull of (time, work), from the least work on: times fall, works rise."""
    corners: list[tuple[float, float]] = []
    finite = np.isfinite(times)
    for time, work in sorted(zip(times[finite].tolist(), works[finite].tolist(), strict=True)):
        if corners and work >= corners[-1][1]:
            continue  # slower and no less work
        while len(corners) > 1 and not _convex(corners[-2], corners[-1], (time, work)):
            corners.pop()
        corners.append((time, work))
    hull = np.array(corners[::-1], dtype=np.float64)
    return hull[:, 0], hull[:, 1]


def _convex(first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]) -> bool:
    before = (middle[1] - first[1]) * (last[0] - middle[0])
    after = (last[1] - middle[1]) * (middle[0] - first[0])
    return before < after


def fluid_capacity(machine: Machine) -> float:
    """Return the most work that a machine does in a second, in core-seconds at the clock of all its cores.

    b cores at work do b x their clock, as a layer gains no more from a higher clock than that, and b at most
    where their clock is lower, as moving data loses nothing. So this bounds what any policy gets done, with
    work counted by the times that layers take at the clock of all cores.
    """
    return max(active * machine.clock(active) for active in range(1, machine.cores + 1))


def fluid_bound(
    work: Mapping[str, float],
    shares: Mapping[str, float],
    cores: float,
    *,
    satisfaction: float = SATISFACTION,
) -> float:
    """Return the highest rate, in queries/s, whose on-time work fits into the core-time there is.

    No policy beats it without batching; inf where the queries that must be on time need no work. `work` holds
    the least core-seconds of an on-time query by model (`work_optimal_core_s`; inf: never on time), `shares`
    the models' shares of the queries, which sum to 1: to check one run, the realised ones. At most
    1 - satisfaction of the queries may be shed, the costliest first (a linear programme that greed solves
    exactly). Raises ValueError on shares that do not sum to 1, LookupError on a model without work.
    """
    if not shares or min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"shares {dict(shares)} must be 0 or more and sum to 1")
    if cores < 1 or not 0 < satisfaction <= 1:
        raise ValueError(
            f"fluid bound of {cores} cores and satisfaction {satisfaction}: give cores, and a satisfaction "
            "in (0, 1]"
        )
    missing = [model for model in shares if model not in work]
    if missing:
        raise LookupError(f"models {missing} have shares but no work (work has {', '.join(work)})")
    pooled = _least_pooled_work(work, shares, satisfaction)
    return cores / pooled if pooled > 0 else math.inf


def _least_pooled_work(work: Mapping[str, float], shares: Mapping[str, float], satisfaction: float) -> float:
    left, total = satisfaction, 0.0
    for model in sorted(shares, key=lambda model: work[model]):
        served = min(shares[model], left)
        if served > 1e-12:  # below it lies rounding of the shares, not a query
            total += served * work[model]
        left -= served
    return total

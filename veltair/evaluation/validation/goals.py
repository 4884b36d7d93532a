"""What a validation amounts to: each error beside a null model's and its goal, and whether it is met.

Pure: errors in, findings out. The null model has no contention: a co-run takes as long as alone, and the
simulator lets nobody slow anybody down. Definitions and goals: docs/validation.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isnan, nan
from statistics import median

import pandas as pd

from veltair.evaluation.validation.trace_errors import (
    PairOrder,
    pooled_errors,
    ranking_tau,
    significant,
)

LEAST_CORES = 16  # of a machine whose validation speaks for many-core machines


class GoalStatus(StrEnum):
    """Whether a goal is met."""

    MET = "met"
    MISSED = "missed"
    NOT_COMPUTED = "not computed"


@dataclass(frozen=True, slots=True)
class Goal:
    """What an error is, in which unit, and the value that it may reach; `at_least`: must reach."""

    name: str
    meaning: str
    unit: str
    limit: float
    at_least: bool = False

    def verdict(self, value: float) -> GoalStatus:
        """Return whether a value meets the goal; NaN is a number that could not be computed."""
        if isnan(value):
            return GoalStatus.NOT_COMPUTED
        met = value >= self.limit if self.at_least else value <= self.limit
        return GoalStatus.MET if met else GoalStatus.MISSED

    @property
    def text(self) -> str:
        """The goal as it is printed."""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


RELATIVE = "share of the measured value"
GOALS = {
    goal.name: goal
    for goal in (
        Goal("cost_error_median", "cost model against held-out measured layers, median", RELATIVE, 0.10),
        Goal("corun_error_median", "slowdown of co-runs, held out, median", RELATIVE, 0.10),
        Goal("qps_error", "queries served per second, mean of runs", RELATIVE, 0.05),
        Goal("p50_error", "median latency, mean of runs", RELATIVE, 0.08),
        Goal("p95_error", "95th percentile of latency, mean of runs", RELATIVE, 0.08),
        Goal("satisfaction_error_points", "satisfaction, mean of runs", "percentage points", 2.0),
        Goal("ranking_tau", "order of policies by mean latency", "Kendall's τ, -1 to 1", 0.9, at_least=True),
    )
}
METRIC_OF = {
    "qps_error": "served_qps",
    "p50_error": "latency_p50_s",
    "p95_error": "latency_p95_s",
    "satisfaction_error_points": "satisfaction",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One error with the null model's, each sample that it is made of, and of what these are.

    `value` is NaN where it could not be computed; `note` then says why and what to do.
    """

    goal: Goal
    value: float
    null: float
    samples: tuple[float, ...]
    of: str
    note: str = ""

    def __post_init__(self) -> None:
        if isnan(self.value) and not self.note:
            raise ValueError(f"{self.goal.name} is not computed; say in `note` why, and what to do")

    @property
    def verdict(self) -> GoalStatus:
        """Whether its goal is met."""
        return self.goal.verdict(self.value)


def cost_finding(cells: pd.DataFrame) -> Finding:
    """Return the cost model's error from measured_s, modelled_s and null_s of held-out cells, a row each."""
    held_out = cells[cells["held_out"].astype(bool)]
    errors, nulls = (
        (held_out[column] - held_out["measured_s"]).abs() / held_out["measured_s"]
        for column in ("modelled_s", "null_s")
    )
    return _of_medians(
        "cost_error_median", errors, nulls, "held-out cells", "profile more than one core count"
    )


def co_run_finding(co_runs: pd.DataFrame) -> Finding:
    """Return the error of predicted slowdowns from a table of `co_run_table`."""
    tested = co_runs[co_runs["held_out"].astype(bool)]
    of = "sides of held-out co-runs"
    return _of_medians("corun_error_median", tested["error"], tested["null_error"], of, "measure more pairs")


def trace_findings(errors: pd.DataFrame, pairs: Sequence[PairOrder]) -> list[Finding]:
    """Return the errors of replayed traces, from a table of `trace_errors`, and of the order of policies."""
    findings = []
    for name, metric in METRIC_OF.items():
        value, null, samples = pooled_errors(errors, metric)
        note = "" if samples else "no run served a query; measure at a lower rate"
        findings.append(Finding(GOALS[name], value, null, samples, "runs", note))
    return [*findings, ranking_finding(pairs)]


def ranking_finding(pairs: Sequence[PairOrder]) -> Finding:
    """Return how alike engine and simulator rank policies, over the pairs that differ significantly."""
    clear = significant(pairs)
    note = ""
    if not clear:
        note = (
            f"none of {len(pairs)} pairs of policies differs significantly; measure longer "
            "(`measured.seconds`), or policies that differ more"
        )
    value, null = (ranking_tau(clear, quantity) for quantity in ("simulated_s", "null_s"))
    orders = tuple(ranking_tau([pair]) for pair in clear)
    return Finding(GOALS["ranking_tau"], value, null, orders, f"pairs of {len(pairs)}", note)


def by_policy(errors: pd.DataFrame) -> pd.DataFrame:
    """Return the mean errors of each policy, as `METRIC_OF` names them; a row a policy, `runs` of each."""
    rows = []
    for policy, own in errors.groupby("policy", sort=False):
        means = {name: pooled_errors(own, metric)[:2] for name, metric in METRIC_OF.items()}
        row: dict[str, object] = {
            "policy": policy,
            "runs": len(own[["workload", "qps", "seed"]].drop_duplicates()),
        }
        for name, (value, null) in means.items():
            row |= {name: value, f"{name}_null": null}
        rows.append(row)
    return pd.DataFrame(rows)


def may_be_validated(findings: Sequence[Finding], cores: int) -> tuple[bool, str]:
    """Return whether a machine may be labelled validated, and why not: 16 cores or more and all goals met."""
    missing = sorted(GOALS.keys() - {finding.goal.name for finding in findings})
    reasons = [f"{name} was not looked at" for name in missing]
    if cores < LEAST_CORES:
        reasons.append(f"it has {cores} cores, {LEAST_CORES} or more are asked for")
    for verdict in (GoalStatus.MISSED, GoalStatus.NOT_COMPUTED):
        names = [finding.goal.name for finding in findings if finding.verdict is verdict]
        if names:
            reasons.append(f"{verdict}: {', '.join(names)}")
    return not reasons, "; ".join(reasons)


def _of_medians(
    name: str, errors: "pd.Series[float]", nulls: "pd.Series[float]", of: str, advice: str
) -> Finding:
    samples = tuple(map(float, errors))
    if not samples:
        return Finding(GOALS[name], nan, nan, (), of, f"there are no {of}; {advice}")
    return Finding(GOALS[name], median(samples), float(nulls.median()), samples, of)

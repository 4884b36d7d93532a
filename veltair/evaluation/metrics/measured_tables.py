"""The tables of measured runs: satisfaction by rate, QPS at 95 % QoS, and its ratios between policies.

All policies of a workload were measured at the same rates in the same rounds, so that all are resampled by
the same rounds: `round_counts` and `resampling` say how.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from veltair.evaluation.metrics.capacity import Criterion
from veltair.evaluation.metrics.capacity_table import REFERENCE, SECOND_REFERENCE
from veltair.evaluation.metrics.policies_table import SCENARIO_COLUMNS
from veltair.evaluation.metrics.records import check_columns
from veltair.evaluation.metrics.resampling import Resampled, Times, resamples, share_interval
from veltair.evaluation.metrics.round_counts import RoundCounts, round_counts

SCENARIO = (*SCENARIO_COLUMNS, "validated")
COUNT_COLUMNS = (*SCENARIO, "policy", "round", "share", "qps", "tenant", "counted", "on_time")
CURVE_COLUMNS = (
    *(*SCENARIO, "policy", "share", "qps", "seed", "rounds", "queries"),
    *("satisfaction", "fitted", "low", "high"),
)
# Of rates.csv.
MEAN_METRICS = ("latency_mean_s", "latency_p95_s", "cpu_efficiency", "conflict_rate")
RATIO_COLUMNS = (*SCENARIO, "policy", "reference", "at_least", "at_most", "low", "high", "rounds")
MEASURED_COLUMNS = (
    *(*SCENARIO, "policy", "seed", "rounds", "queries", "fluid_qps"),
    *("at_least_qps", "at_most_qps", "low_qps", "high_qps"),
    *("minimum_at_least_qps", "minimum_at_most_qps"),
)


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredWorkload:
    """The counts of all policies on one workload of this machine, and resamples of its rounds."""

    scenario: Mapping[str, Any]
    counts: Mapping[str, RoundCounts]
    times: Times
    target: float
    crossings: Mapping[str, Resampled] = field(init=False)

    def __post_init__(self) -> None:
        crossings = {name: own.crossings(self.times, self.target) for name, own in self.counts.items()}
        object.__setattr__(self, "crossings", crossings)

    def curve_rows(self, shares: Mapping[float, float], seed: int) -> Iterator[dict[str, Any]]:
        """Yield a row a policy and rate; `shares` gives the share of the grid by rate."""
        for policy, own in self.counts.items():
            low, high = share_interval(own.curves(self.times), own.rounds)
            columns = (own.qps, own.shares(), own.curve(), low, high, own.counted.sum(axis=(0, 2)))
            for qps, satisfaction, fitted, least, most, queries in zip(*columns, strict=True):
                yield {
                    **self.scenario,
                    "policy": policy,
                    "share": shares[float(qps)],
                    "qps": float(qps),
                    "seed": seed,
                    "rounds": own.rounds,
                    "queries": int(queries),
                    "satisfaction": float(satisfaction),
                    "fitted": float(fitted),
                    "low": float(least),
                    "high": float(most),
                }

    def capacity_rows(self, fluid_qps: float, seed: int) -> Iterator[dict[str, Any]]:
        """Yield a row a policy: where its curve crosses the target, pooled and of the worst model."""
        for policy, own in self.counts.items():
            pooled = self.crossings[policy].estimate
            minimum = own.crossings(self.times[:0], self.target, Criterion.MINIMUM).found
            yield {
                **self.scenario,
                "policy": policy,
                "seed": seed,
                "rounds": own.rounds,
                "queries": int(own.counted.sum(axis=(0, 2)).min()),
                "fluid_qps": fluid_qps,
                "at_least_qps": pooled.found.at_least,
                "at_most_qps": pooled.found.at_most,
                "low_qps": pooled.low,
                "high_qps": pooled.high,
                "minimum_at_least_qps": minimum.at_least,
                "minimum_at_most_qps": minimum.at_most,
            }

    def ratio_rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row a policy and reference that both take part, paired by round."""
        for reference in (REFERENCE, SECOND_REFERENCE):
            for policy, own in self.crossings.items():
                if reference not in self.crossings:
                    continue
                ratio = own.over(self.crossings[reference]).estimate
                yield {
                    **self.scenario,
                    "policy": policy,
                    "reference": reference,
                    "at_least": ratio.found.at_least,
                    "at_most": ratio.found.at_most,
                    "low": ratio.low,
                    "high": ratio.high,
                    "rounds": ratio.rounds,
                }


def slot_counts(records: pd.DataFrame, slots: pd.DataFrame) -> pd.DataFrame:
    """Return the queries counted and on time of each policy, round, rate and tenant: `COUNT_COLUMNS`.

    `records` are those of measured runs. `slots` say of each `workload` and `seed`, which a round gives one
    rate only, which `round` and `share` it is, and whether it was `kept`; other slots give no row.
    """
    check_columns(slots, ("workload", "round", "share", "seed", "kept"), "slots")
    columns = ["workload", "round", "share", "seed"]
    named = slots.loc[slots["kept"].astype(bool), columns].drop_duplicates()
    by = ["workload", "seed"]
    counted = records[records["counted"]].merge(named, on=by, how="inner", validate="many_to_one")
    keys = [*SCENARIO, "policy", "round", "share", "qps", "tenant"]
    table = counted.groupby(keys, sort=False, observed=True)["on_time"].agg(["size", "sum"]).reset_index()
    return table.rename(columns={"size": "counted", "sum": "on_time"})[list(COUNT_COLUMNS)]


def with_metrics(curves: pd.DataFrame, rates: pd.DataFrame) -> pd.DataFrame:
    """Return curves with the columns `models` and `MEAN_METRICS`: the means of these over the rounds."""
    keys = [*SCENARIO_COLUMNS, "policy", "qps"]
    grouped = rates.groupby(keys, sort=False, observed=True)
    means = grouped[list(MEAN_METRICS)].mean()
    return curves.merge(means.assign(models=grouped["models"].first()).reset_index(), on=keys, how="left")


def with_clients(curves: pd.DataFrame, slots: pd.DataFrame) -> pd.DataFrame:
    """Return curves with the column `client`: who sent a workload's queries, as its slots say."""
    named = slots[slots["client"] != ""].groupby("workload")["client"].first()
    return curves.assign(client=curves["workload"].map(named))


def measured_workloads(
    counts: pd.DataFrame, target: float, generator: np.random.Generator
) -> list[MeasuredWorkload]:
    """Return what was measured, workload by workload, in the order of the table of counts."""
    check_columns(counts, COUNT_COLUMNS, "counts")
    found = []
    for key, own in counts.groupby(list(SCENARIO), sort=False, observed=True):
        by_policy = round_counts(own)
        times = resamples(own["round"].nunique(), generator)
        scenario = dict(zip(SCENARIO, key, strict=True))
        found.append(MeasuredWorkload(scenario, by_policy, times, target))
    return found

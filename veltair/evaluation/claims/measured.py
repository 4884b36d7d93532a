"""The numbers of claims from measured runs: ratios paired by round, at the rates that all policies share."""

from dataclasses import dataclass
from math import nan

import pandas as pd

from veltair.evaluation.claims.rules import CapacityRatio, LatencyRatio
from veltair.evaluation.metrics.bounds import Bounds, Reach
from veltair.evaluation.metrics.confidence import BySeed
from veltair.evaluation.metrics.equal_load import NEAR
from veltair.evaluation.metrics.intervals import Interval, paired_ratio
from veltair.evaluation.metrics.policies_table import number


class MissingNumberError(LookupError):
    """Tables lack what a claim needs."""


@dataclass(frozen=True, slots=True)
class MeasuredClaimTables:
    """measured_ratios.csv, measured_capacity.csv and rates.csv of measured runs."""

    ratios: pd.DataFrame
    capacities: pd.DataFrame
    rates: pd.DataFrame

    def of(self, machine: str) -> "MeasuredClaimTables":
        """Return the rows of one machine. Raises MissingNumberError if there are none."""
        parts = [table[table["machine"] == machine] for table in (self.ratios, self.capacities, self.rates)]
        if parts[1].empty:
            raise MissingNumberError(f"measured_capacity.csv has nothing of {machine}")
        return MeasuredClaimTables(*parts)

    def capacity_ratio(self, metric: CapacityRatio, to: str) -> tuple[Interval, bool]:
        """Return the ratio of two policies' QPS at 95 % QoS, and whether it is only a lower bound.

        Raises MissingNumberError where the rates that were measured do not tell.
        """
        rows = self.ratios[self.ratios["reference"] == to]
        row = _only(rows, metric.policy, metric.workload, f"ratio to {to}")
        found = Bounds(row["at_least"], row["at_most"])
        if found.reach is Reach.KNOWN:
            low, high = min(row["low"], found.value), max(row["high"], found.value)
            return Interval(found.value, low, high, int(row["rounds"])), False
        if found.reach is Reach.ABOVE:
            return Interval(found.value, nan, nan, 1), True
        raise MissingNumberError(
            f"{metric.policy} over {to} on {metric.workload}: "
            + (f"only known to be below {number(found.value)}" if found.reach is Reach.BELOW else "not known")
        )

    def latency_ratio(self, metric: LatencyRatio, to: str) -> Interval:
        """Return the ratio of mean latencies at the rate nearest to the load, paired by round.

        Raises MissingNumberError where no rate is near it.
        """
        own = _only(self.capacities, metric.to, metric.workload, "capacity")
        reference = Bounds(own["at_least_qps"], own["at_most_qps"])
        if reference.reach is not Reach.KNOWN:
            raise MissingNumberError(f"{metric.to} on {metric.workload} serves {reference} queries/s")
        here = self.rates[self.rates["workload"] == metric.workload]
        wanted_qps = metric.load * reference.value
        near = here[(here["qps"] / wanted_qps - 1).abs() <= NEAR]
        if near.empty:
            raise MissingNumberError(f"no rate of {metric.workload} is near {number(wanted_qps)} queries/s")
        nearest_qps = min(near["qps"].unique().tolist(), key=lambda qps: abs(qps - wanted_qps))
        at_rate = near[near["qps"] == nearest_qps]
        found = paired_ratio(_latencies(at_rate, metric.policy), _latencies(at_rate, to))
        if not found.count:
            raise MissingNumberError(f"{metric.policy} and {to} on {metric.workload} share no round")
        return found


def _only(table: pd.DataFrame, policy: str, workload: str, what: str) -> dict[str, float]:
    rows = table[(table["policy"] == policy) & (table["workload"] == workload)].to_dict("records")
    if not rows:
        raise MissingNumberError(f"the tables have no {what} of {policy} on {workload}")
    return {str(key): value for key, value in rows[0].items()}


def _latencies(runs: pd.DataFrame, policy: str) -> BySeed:
    own = runs[runs["policy"] == policy]
    return dict(zip(own["seed"].astype(int), own["latency_mean_s"].astype(float), strict=True))

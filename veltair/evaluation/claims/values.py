"""What tables and benchmarks say of a claim: its number, its interval, and where its verdict changes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from veltair.evaluation.claims.measured import MeasuredClaimTables, MissingNumberError
from veltair.evaluation.claims.rules import (
    NO_EFFECT,
    Benchmark,
    CapacityRatio,
    Claim,
    GainQuotient,
    LatencyRatio,
    Source,
    Verdict,
    judge_claim,
    point_verdict,
)
from veltair.evaluation.metrics.capacity_table import PairedRatio, capacity_ratio, quotient
from veltair.evaluation.metrics.confidence import BySeed
from veltair.evaluation.metrics.equal_load import runs_at_load
from veltair.evaluation.metrics.intervals import Interval, mean_interval, paired_ratio
from veltair.evaluation.metrics.policies_table import MEASURED, at_source, number


@dataclass(frozen=True, slots=True)
class ClaimTables:
    """The tables that claims are read from; None where a run has not written one.

    `capacity` has a row a policy, workload, source and seed (`capacity_seeds.csv`), `rates` one a run,
    `sensitivity` one an assumption, value, policy and seed. `measured` are those of measured runs alone.
    `benchmarks` are figures by file and name.
    """

    capacity: pd.DataFrame | None = None
    rates: pd.DataFrame | None = None
    sensitivity: pd.DataFrame | None = None
    measured: MeasuredClaimTables | None = None
    benchmarks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JudgedClaim:
    """A claim with its verdict, the number that was found, what is printed beside it, and where it flips.

    `tested` are the assumptions under which the verdict was tried; `flips` say at which values it changes.
    `unexamined` are those that were varied for other workloads only, with these.
    """

    claim: Claim
    source: Source
    validated: bool
    verdict: Verdict
    reason: str
    found: Interval
    beside: Mapping[str, Interval]
    tested: Sequence[str] = ()
    unexamined: Mapping[str, Sequence[str]] = field(default_factory=dict)
    flips: Sequence[str] = ()

    @property
    def fragile(self) -> bool:
        """Whether the verdict changes inside the plausible range of an assumption."""
        return bool(self.flips)


@dataclass(frozen=True, slots=True)
class _Fragility:
    """What of `JudgedClaim` tells where a verdict changes."""

    tested: Sequence[str] = ()
    unexamined: Mapping[str, Sequence[str]] = field(default_factory=dict)
    flips: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Number:
    """A number that was found; `note` says which seeds count 0, `at_least` that it is a lower bound."""

    interval: Interval
    note: str = ""
    at_least: bool = False


def judge_from_tables(claim: Claim, source: Source, tables: ClaimTables) -> JudgedClaim:
    """Return the verdict on a claim from the tables, NOT COMPUTED where they lack its number."""
    validated = _validated(claim, source, tables)
    try:
        found, beside = _found(claim, source, tables)
        verdict, reason = _verdict(claim, found)
    except MissingNumberError as error:
        nothing = mean_interval(())
        return JudgedClaim(claim, source, validated, Verdict.NOT_COMPUTED, str(error), nothing, {})
    tried = _fragility(claim, source, tables)
    return JudgedClaim(
        *(claim, source, validated, verdict, reason, found.interval, beside),
        *(tried.tested, tried.unexamined, tried.flips),
    )


def _verdict(claim: Claim, found: _Number) -> tuple[Verdict, str]:
    """Return the verdict and the reason; a lower bound can prove a gain upwards or a trend, nothing else."""
    verdict, reason = judge_claim(claim, found.interval)
    if found.at_least:
        upwards = claim.rule == "trend" or (claim.rule == "gain" and claim.value > NO_EFFECT)
        if verdict is Verdict.DEVIATES or not upwards:
            raise MissingNumberError(f"the number is only known to be {number(found.interval.mean)} or more")
        reason += "; a lower bound"
    return verdict, f"{reason}; {found.note} (counted as 0)" if found.note else reason


def _found(claim: Claim, source: Source, tables: ClaimTables) -> tuple[_Number, dict[str, Interval]]:
    metric = claim.metric
    if isinstance(metric, Benchmark):
        return _benchmark(metric, tables)
    if source.backend == MEASURED:
        return _measured(metric, source, tables)
    capacity = _at(tables.capacity, source, "capacity_seeds.csv")
    if isinstance(metric, GainQuotient):
        return _quotient(metric, capacity), {}
    if isinstance(metric, LatencyRatio):
        rates = _at(tables.rates, source, "rates.csv")
        found = _latency_ratio(metric, metric.to, rates, capacity)
        others = {"to": lambda other: _latency_ratio(metric, other, rates, capacity)}
    else:
        found = _capacity_ratio(metric, metric.to, capacity)
        others = {
            "to": lambda other: _capacity_ratio(metric, other, capacity),
            "minimum": lambda other: _capacity_ratio(metric, other, capacity, "qps_at_95_minimum"),
        }
    return found, dict(_beside(metric, others))


def _measured(
    metric: CapacityRatio | LatencyRatio | GainQuotient, source: Source, tables: ClaimTables
) -> tuple[_Number, dict[str, Interval]]:
    """Return the same of measured runs."""
    if tables.measured is None:
        raise MissingNumberError("there are no tables of measured runs")
    known = tables.measured.of(source.machine)
    if isinstance(metric, GainQuotient):
        raise MissingNumberError("rounds of two workloads are no pairs, so their ratios are not divided")

    def ratio(to: str) -> _Number:
        if isinstance(metric, LatencyRatio):
            return _Number(known.latency_ratio(metric, to))
        interval, at_least = known.capacity_ratio(metric, to)
        return _Number(interval, at_least=at_least)

    return ratio(metric.to), dict(_beside(metric, {"to": ratio}))


def _beside(
    metric: CapacityRatio | LatencyRatio, others: Mapping[str, Callable[[str], _Number]]
) -> list[tuple[str, Interval]]:
    """Return the numbers that are printed and not judged, those that the tables have."""
    wanted = [(f"to {metric.beside}", "to", metric.beside)] if metric.beside else []
    if "minimum" in others:
        wanted.append(("minimum over models", "minimum", metric.to))
    found = []
    for name, kind, other in wanted:
        try:
            found.append((name, others[kind](str(other)).interval))
        except MissingNumberError:
            continue
    return found


def _capacity_ratio(
    metric: CapacityRatio | GainQuotient, to: str, capacity: pd.DataFrame, column: str = "qps_at_95"
) -> _Number:
    return _number(_ratio(metric, to, metric.workload, capacity, column))


def _ratio(
    metric: CapacityRatio | GainQuotient,
    to: str,
    workload: str,
    capacity: pd.DataFrame,
    column: str = "qps_at_95",
) -> PairedRatio:
    """Return the ratio of two policies' capacities. Raises MissingNumberError where there is none."""
    here = capacity[capacity["workload"] == workload]
    own, of_reference = (here[here["policy"] == policy] for policy in (metric.policy, to))
    for policy, rows in ((metric.policy, own), (to, of_reference)):
        if rows.empty:
            raise MissingNumberError(f"the tables have no capacity of {policy} on {workload}")
    found = capacity_ratio(own, of_reference, to, column)
    if not found.by_seed:
        raise MissingNumberError(
            f"{to} serves no rate of {workload} that {metric.policy} could be compared with, by seed"
            if found.note == f"no {to}"
            else f"{metric.policy} over {to} on {workload}: {found.note}"
        )
    return found


def _quotient(metric: GainQuotient, capacity: pd.DataFrame) -> _Number:
    one, other = (_ratio(metric, metric.to, name, capacity) for name in (metric.workload, metric.than))
    found = quotient(one, other)
    if not found.by_seed:
        raise MissingNumberError(
            f"{metric.policy}'s gain on {metric.workload} cannot be divided by that on {metric.than}: "
            f"{found.note}"
        )
    return _number(found)


def _number(ratio: PairedRatio) -> _Number:
    return _Number(ratio.interval, ratio.note, ratio.at_least)


def _latency_ratio(metric: LatencyRatio, to: str, rates: pd.DataFrame, capacity: pd.DataFrame) -> _Number:
    """Return the ratio of mean latencies, both at the load as a share of the first denominator's capacity."""
    here, runs = (table[table["workload"] == metric.workload] for table in (capacity, rates))
    at_load = runs_at_load(runs, here, metric.load, reference=metric.to)
    at_load = at_load[at_load["of"] == metric.to]
    found = paired_ratio(*(_latencies(at_load, policy) for policy in (metric.policy, to)))
    if not found.count:
        raise MissingNumberError(
            f"no seed has {metric.policy} and {to} on {metric.workload} at {metric.load:g} of "
            f"{metric.to}'s capacity"
        )
    return _Number(found)


def _latencies(runs: pd.DataFrame, policy: str) -> BySeed:
    own = runs[runs["policy"] == policy]
    return dict(zip(own["seed"].astype(int), own["latency_mean_s"].astype(float), strict=True))


def _benchmark(metric: Benchmark, tables: ClaimTables) -> tuple[_Number, dict[str, Interval]]:
    figures = tables.benchmarks.get(metric.file, {})
    if metric.figure not in figures:
        raise MissingNumberError(f"benchmarks/{metric.file}.json has no {metric.figure}")
    beside = {
        name: _samples(figures[name]) for name in (metric.beside,) if name is not None and name in figures
    }
    return _Number(_samples(figures[metric.figure])), beside


def _samples(figure: Mapping[str, Any]) -> Interval:
    samples = [float(sample) for sample in figure["samples"]]
    return mean_interval(samples if len(samples) > 1 else [float(figure["value"])])


def _at(table: pd.DataFrame | None, source: Source, name: str) -> pd.DataFrame:
    if table is None:
        raise MissingNumberError(f"there is no {name}")
    rows = table[at_source(table, (source.backend, source.machine))]
    if rows.empty:
        raise MissingNumberError(f"{name} has nothing of {source.machine} ({source.backend})")
    return rows


def _validated(claim: Claim, source: Source, tables: ClaimTables) -> bool:
    """Return whether a measurement on such a machine stands behind a number."""
    if isinstance(claim.metric, Benchmark) and not claim.metric.modelled:
        return True
    if source.backend == MEASURED:
        return True
    if tables.capacity is None:
        return False
    rows = tables.capacity[at_source(tables.capacity, (source.backend, source.machine))]
    return bool(len(rows)) and bool(rows["validated"].astype(bool).all())


def _fragility(claim: Claim, source: Source, tables: ClaimTables) -> _Fragility:
    """Return the assumptions that the verdict was tried under, and at which plausible values it changes.

    Numbers stand for themselves here, without intervals: the grid has few seeds. What was varied for another
    workload says nothing of this one.
    """
    metric, table = claim.metric, tables.sensitivity
    if not isinstance(metric, CapacityRatio) or table is None:
        return _Fragility()
    rows = table[at_source(table, (source.backend, source.machine)) & table["plausible"].astype(bool)]
    tested, flips = [], []
    for assumption, group in rows[rows["workload"] == metric.workload].groupby("assumption", sort=False):
        values = _varied(metric, group)
        base = [value for _, is_default, value in values if is_default]
        if not base or len(values) < 2:
            continue
        tested.append(str(assumption))
        before = point_verdict(claim, base[0])
        for label, _, value in values:
            after = point_verdict(claim, value)
            if after is not before:
                flips.append(f"{assumption} {label}: {after} at {number(value)}")
    return _Fragility(tuple(tested), _elsewhere(rows, tested), tuple(flips))


def _elsewhere(rows: pd.DataFrame, tested: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the workloads that each assumption was varied for, of those that this claim was not tried under.

    Where the workload itself is what varies there is nothing to try.
    """
    found: dict[str, list[str]] = {}
    for (assumption, workload), group in rows.groupby(["assumption", "workload"], sort=False):
        if group["value"].nunique() > 1 and assumption not in tested:
            found.setdefault(str(assumption), []).append(str(workload))
    return {assumption: tuple(workloads) for assumption, workloads in found.items()}


def _varied(metric: CapacityRatio, group: pd.DataFrame) -> list[tuple[str, bool, float]]:
    """Return label, whether it is the default, and ratio of each value of an assumption that has one."""
    found = []
    for _, rows in group.groupby("value", sort=True):
        first = rows.iloc[0]
        label = f"{first['label'] or number(float(first['value']))} {first['unit'] or ''}".strip()
        try:
            ratio = _capacity_ratio(metric, metric.to, rows).interval.mean
        except MissingNumberError:
            continue
        found.append((label, bool(first["is_default"]), ratio))
    return found

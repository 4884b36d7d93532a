"""Capacity ratios and reference rates of simulated runs, decided once.

Who serves how much more, and what loads are shares of; of measured runs `measured_tables` says the first.

An answer of a search is one of four. It is closed: a rate met the target and a slightly higher one is known
to miss it. It is a lower bound: a rate met the target, but no rate above it is known to miss (open), a run of
the search was invalid, or the search was cut short. It is unservable: even the lowest rate missed. Or it is
unknown: no rate met the target, and the search ended before one was found.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite, isinf

import pandas as pd

from veltair.evaluation.metrics.capacity import FIRST_SHARE
from veltair.evaluation.metrics.confidence import BySeed, Key, estimates, scenario_policies
from veltair.evaluation.metrics.intervals import Interval, mean_interval, paired_ratio
from veltair.evaluation.metrics.policies_table import SCENARIO_COLUMNS, Row, number
from veltair.evaluation.metrics.records import check_columns

REFERENCE, SECOND_REFERENCE = "Planaria", "LayerWise"
WINNER = "Veltair-FULL"
EQUAL_LOAD = 0.7  # of the reference rate: where policies are compared
LATENCY_LOADS = (0.5, 0.7, 0.9)  # at which latencies are compared; the paper names no load
FLUID = "a tenth of the fluid bound"  # what a reference rate is of, where it is of no policy
SEED_COLUMNS = (
    *("backend", "machine", "validated", "workload", "policy", "seed", "queries", "fluid_qps"),
    *("qps_at_95", "high_qps", "qps_at_95_minimum", "resolution", "cut", "unservable", "invalid"),
)


@dataclass(frozen=True, slots=True)
class PairedRatio:
    """A policy's QPS at 95 % QoS over the reference's, by seed.

    `by_seed` is empty where there is no ratio, and `note` says why; with a ratio it names the seeds that
    count 0. `at_least` marks a lower bound.
    """

    by_seed: BySeed = field(default_factory=dict)
    note: str = ""
    at_least: bool = False

    @property
    def interval(self) -> Interval:
        """The mean over seeds and its interval; NaN where there is no ratio."""
        return mean_interval(self.by_seed.values())


def capacity_ratio(
    own: pd.DataFrame, of_reference: pd.DataFrame, reference: str, column: str = "qps_at_95"
) -> PairedRatio:
    """Return the ratio of two policies' capacities over the seeds that both were run with.

    `own` and `of_reference` are rows of `capacity_seeds.csv` of one workload, a row a seed. A seed in which
    the policy is unservable counts 0: left out, it would flatter the policy. There is no ratio at all where
    the reference is unservable or unknown with one of these seeds, as the rest would flatter the reference;
    where the reference's answer is a lower bound, over which a ratio bounds nothing from below; and where an
    answer of the policy is unknown. The policy's lower bounds give a lower bound.
    """
    upper, lower = _by_seed(own, column), _by_seed(of_reference, column)
    shared = [seed for seed in upper if seed in lower]
    note = unserved_note(own)
    if not shared or not all((lower[seed] or 0) > 0 for seed in shared):
        return PairedRatio(note=note or f"no {reference}")
    if not is_closed(of_reference[of_reference["seed"].isin(shared)]).all():
        return PairedRatio(note=note or f"{reference}: a lower bound")
    found = {seed: value / (lower[seed] or 0) for seed in shared if (value := upper[seed]) is not None}
    if len(found) < len(shared):
        return PairedRatio(note=note)
    return PairedRatio(found, note, not is_closed(own).all())


def quotient(one: PairedRatio, other: PairedRatio) -> PairedRatio:
    """Return a ratio over another, seed by seed: a lower bound, a 0 or no ratio cannot be divided by."""
    if other.note or other.at_least:
        return PairedRatio(note=other.note or "over a lower bound")
    if not one.by_seed:
        return one
    both = one.by_seed.keys() & other.by_seed.keys()
    shared = {seed: one.by_seed[seed] / other.by_seed[seed] for seed in sorted(both)}
    return PairedRatio(shared, one.note if shared else "no seed in common", one.at_least)


def ratios(seeds: pd.DataFrame, reference: str = REFERENCE, column: str = "qps_at_95") -> pd.DataFrame:
    """Return the capacity ratio of every policy, workload, machine and backend, as `capacities`.

    A `note` beside a mean says with how many seeds a policy is unservable, which count 0.
    """
    check_seeds(seeds)
    own = dict(scenario_policies(seeds))
    nothing = seeds[:0]
    found = {
        key: capacity_ratio(rows, own.get((*key[:-1], reference), nothing), reference, column)
        for key, rows in own.items()
    }
    return estimates(
        seeds,
        {key: one.interval for key, one in found.items()},
        {key: one.note for key, one in found.items()},
        {key: not is_closed(rows).all() for key, rows in own.items()},
    )


def ratio_text(row: Row) -> str:
    """Return a ratio of `ratios` as figures and tables print it: with its interval, or why there is none.

    A policy that is unservable with some seeds is told by these seeds: its mean holds zeros.
    """
    if row["note"] or not row["count"]:
        return str(row["note"]) or "no valid run"
    bound = "≥ " if row["bound"] else ""
    if not row["high"] > row["low"]:
        return f"{bound}{number(row['mean'])}"
    return f"{bound}{number(row['mean'])} [{number(row['low'])}, {number(row['high'])}]"


def capacities(seeds: pd.DataFrame, column: str = "qps_at_95") -> pd.DataFrame:
    """Return the mean over seeds of a policy's QPS at 95 % QoS, or of another column of the table.

    `seeds` has a row a workload, machine, backend, policy and seed. The result has the columns of
    `confidence.ESTIMATE_COLUMNS`: `note` says why there is no number ("unservable", with the seeds if not in
    all of them), `bound` whether a seed's answer is only a lower bound. Raises ValueError on missing columns
    or rows that are there twice.
    """
    check_seeds(seeds)
    own = scenario_policies(seeds)
    return _of_seeds(seeds, {key: mean_interval(_served(rows, column).values()) for key, rows in own})


def shares_of_bound(seeds: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over seeds of QPS at 95 % QoS over the fluid bound; as `capacities`."""
    check_seeds(seeds)
    shares = {}
    for key, rows in scenario_policies(seeds):
        bounds = dict(zip(rows["seed"], rows["fluid_qps"], strict=True))
        shares[key] = paired_ratio(_served(rows), bounds)
    return _of_seeds(seeds, shares)


def over_seeds(capacity: pd.DataFrame) -> pd.DataFrame:
    """Return one row a policy: the mean over seeds (0 where unservable), the widest bracket, their spread."""
    keys = ["backend", "machine", "validated", "workload", "policy"]
    merged = capacity.groupby(keys, sort=False).agg(
        qps_at_95=("qps_at_95", "mean"),
        qps_at_95_std=("qps_at_95", "std"),
        high_qps=("high_qps", "max"),
        qps_at_95_minimum=("qps_at_95_minimum", "mean"),
        fluid_qps=("fluid_qps", "first"),
        resolution=("resolution", "max"),
        cut=("cut", "any"),
        unservable=("unservable", "all"),
        invalid=("invalid", "max"),
        answer=("answer", "first"),
        seeds=("seed", "nunique"),
    )
    return merged.reset_index()


def reference_rate(
    answers: Mapping[str, float], fluid_qps: float, reference: str = REFERENCE
) -> tuple[float, str]:
    """Return the rate that loads are shares of, and the policy whose it is: the reference's QPS at 95 % QoS.

    Where the reference does not take part it is the best policy's. Where that serves nothing it is
    a tenth of the fluid bound: so a rate never depends on which other policies are compared with the
    reference. `answers` are QPS at 95 % QoS by policy; a lower bound is a rate like another, as it is only
    offered.
    """
    of = reference if reference in answers else max(answers, key=lambda policy: answers[policy])
    return (answers[of], of) if answers[of] > 0 else (FIRST_SHARE * fluid_qps, FLUID)


def reference_rates(seeds: pd.DataFrame, reference: str = REFERENCE) -> pd.DataFrame:
    """Return the reference rate of each workload, machine, backend and seed, and `of`, whose it is.

    Columns: those of the scenario, `seed`, `reference_qps` and `of`.
    """
    rows = []
    for key, here in seeds.groupby([*SCENARIO_COLUMNS, "seed"], sort=False):
        answers = dict(zip(here["policy"], here["qps_at_95"], strict=True))
        found = reference_rate(answers, float(here["fluid_qps"].iloc[0]), reference)
        rows.append((*key, *found))
    return pd.DataFrame(rows, columns=[*SCENARIO_COLUMNS, "seed", "reference_qps", "of"])


def is_closed(seeds: pd.DataFrame) -> "pd.Series[bool]":
    """Return which answers tell closely how much is served, so that something may be divided by them.

    Not one that no rate bounds from above, nor one whose search was cut short or met an invalid run.
    """
    bounded = seeds["high_qps"].map(isfinite).astype(bool) & ~seeds["cut"].astype(bool)
    return bounded & (seeds["invalid"].fillna("") == "")


def unserved_note(rows: pd.DataFrame) -> str:
    """Return why a policy has no number over all seeds; "" if it served with each."""
    unservable = int(rows["unservable"].astype(bool).sum())
    if unservable and unservable == len(rows):
        return "unservable"
    if unservable:
        return f"unservable, {unservable} of {len(rows)} seeds"
    return "" if (rows["qps_at_95"] > 0).all() else "no valid run"


def capacity_text(row: Row | None) -> str:
    """Return a policy's QPS at 95 % QoS as tables print it, from its row of `over_seeds` if it was run."""
    if row is None:
        return "not run"
    mark = "†" if row["cut"] else ""
    if row["unservable"]:
        return "unservable"
    if not row["qps_at_95"] > 0:
        return f"< {number(row['high_qps'])}{mark}" if isfinite(row["high_qps"]) else "no valid run"
    return f"{'≥ ' if isinf(row['high_qps']) or row['invalid'] else ''}{number(row['qps_at_95'])}{mark}"


def check_seeds(seeds: pd.DataFrame) -> None:
    """Raise ValueError if a table of capacities by seed lacks a column, or has two rows of a seed."""
    check_columns(seeds, SEED_COLUMNS, "capacity_seeds")
    twice = seeds[seeds.duplicated([*SCENARIO_COLUMNS, "policy", "seed"])]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(
            f"capacity_seeds has two rows for {row['policy']} on {row['workload']} ({row['backend']}, "
            f"{row['machine']}) with seed {row['seed']}; give one row a seed"
        )


def _by_seed(rows: pd.DataFrame, column: str) -> dict[int, float | None]:
    """Return a policy's number by seed: 0 where it is unservable, None where it is unknown."""
    return dict(_answers(rows, column))


def _answers(rows: pd.DataFrame, column: str) -> Iterator[tuple[int, float | None]]:
    for row in rows.to_dict("records"):
        known = row["qps_at_95"] > 0 and isfinite(row[column])
        yield int(row["seed"]), 0.0 if row["unservable"] else float(row[column]) if known else None


def _served(rows: pd.DataFrame, column: str = "qps_at_95") -> BySeed:
    """Return a policy's number by seed; none at all if it could not serve with one of the seeds."""
    if unserved_note(rows):
        return {}
    return {seed: value for seed, value in _answers(rows, column) if value is not None}


def _of_seeds(seeds: pd.DataFrame, found: Mapping[Key, Interval]) -> pd.DataFrame:
    own = dict(scenario_policies(seeds))
    return estimates(
        seeds,
        found,
        {key: unserved_note(rows) for key, rows in own.items()},
        {key: not is_closed(rows).all() for key, rows in own.items()},
    )

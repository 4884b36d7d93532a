"""Metrics of runs at equal load: all policies offered one share of the reference rate, seed by seed."""

from math import isfinite

import pandas as pd

from veltair.evaluation.metrics.capacity_table import (
    EQUAL_LOAD,
    REFERENCE,
    check_seeds,
    reference_rates,
)
from veltair.evaluation.metrics.confidence import BySeed, Key, estimates, scenario_policies
from veltair.evaluation.metrics.intervals import mean_interval, paired_ratio
from veltair.evaluation.metrics.metrics import RATE_COLUMNS
from veltair.evaluation.metrics.policies_table import SCENARIO_COLUMNS
from veltair.evaluation.metrics.records import check_columns

SAME_RATE = 0.02  # a run this near to a wanted rate, as a share of it, was run at it
NEAR = 0.25  # a run further off than this does not stand for the rate, even with the rate beside it
SEED_KEYS = [*SCENARIO_COLUMNS, "seed"]


def at_load(
    rates: pd.DataFrame, seeds: pd.DataFrame, metric: str, load: float, reference: str | None = None
) -> pd.DataFrame:
    """Return the mean over seeds of a metric where a share `load` of the reference rate is offered.

    With a `reference` the estimate is that of the ratio to its metric with the same seed. Columns:
    `confidence.ESTIMATE_COLUMNS`; no row for a policy that was not run at that load.
    """
    check_seeds(seeds)
    check_columns(rates, (*SCENARIO_COLUMNS, "validated", "policy", "qps", "seed", metric), "rates")
    runs = runs_at_load(rates, seeds, load)
    by_seed: dict[Key, BySeed] = {
        key: {seed: value for seed, value in zip(rows["seed"], rows[metric], strict=True) if isfinite(value)}
        for key, rows in scenario_policies(runs)
    }
    if reference is None:
        return estimates(runs, {key: mean_interval(values.values()) for key, values in by_seed.items()})
    found = {
        key: paired_ratio(values, by_seed.get((*key[:-1], reference), {})) for key, values in by_seed.items()
    }
    return estimates(runs, found)


def runs_at_load(
    rates: pd.DataFrame,
    seeds: pd.DataFrame,
    load: float,
    within: float = SAME_RATE,
    reference: str = REFERENCE,
) -> pd.DataFrame:
    """Return each policy's run nearest to a share `load` of the reference rate, a row a seed.

    `within` is how far off it may be, as a share. `wanted_qps` is the rate wanted, and `of` whose it is a
    share of, as in `reference_rates`.
    """
    wanted = reference_rates(seeds, reference)
    wanted["wanted_qps"] = load * wanted["reference_qps"]
    return _nearest(rates, wanted[[*SEED_KEYS, "wanted_qps", "of"]], SEED_KEYS, within)


def at_loads(rates: pd.DataFrame, seeds: pd.DataFrame, share: float = EQUAL_LOAD) -> pd.DataFrame:
    """Return metrics at `load` "equal" (`share` of the reference rate) and "own" (the policy's capacity).

    One row a scenario, policy and load: the runs nearest to the wanted rates, all numbers averaged over
    seeds. A policy without a run within `NEAR` of them has no row.
    """
    check_columns(rates, RATE_COLUMNS, "rates")
    check_seeds(seeds)
    served = seeds[~seeds["unservable"].astype(bool) & (seeds["qps_at_95"] > 0)]
    own = served[[*SEED_KEYS, "policy", "qps_at_95"]].rename(columns={"qps_at_95": "wanted_qps"})
    parts = {
        "equal": runs_at_load(rates, seeds, share, NEAR),
        "own": _nearest(rates, own, [*SEED_KEYS, "policy"], NEAR),
    }
    rows = [
        {**runs.iloc[0].to_dict(), **runs.select_dtypes("number").mean().to_dict(), "load": load}
        for load, table in parts.items()
        for _, runs in scenario_policies(table)
    ]
    return pd.DataFrame(rows, columns=[*RATE_COLUMNS, "load", "wanted_qps"])


def _nearest(rates: pd.DataFrame, wanted: pd.DataFrame, keys: list[str], within: float) -> pd.DataFrame:
    """Return of each policy and seed the run nearest to its wanted rate, if one is near enough."""
    runs = rates.merge(wanted, on=keys, how="inner")
    off = (runs["qps"] / runs["wanted_qps"] - 1).abs()
    near = runs.assign(off=off)[off <= within]
    best = near.groupby([*SEED_KEYS, "policy"], sort=False)["off"].idxmin()
    return near.loc[best.sort_values()].drop(columns="off")

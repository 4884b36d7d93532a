"""What figures of policies draw: an estimate a site, workload and policy, with its interval over seeds."""

from collections.abc import Hashable, Mapping
from dataclasses import asdict
from math import isfinite, nan
from typing import Any

import pandas as pd

from veltair.evaluation.metrics.intervals import Interval, mean_interval, paired_ratio
from veltair.evaluation.metrics.policies_table import (
    EQUAL_LOAD,
    REFERENCE,
    SITE,
    is_closed,
    number,
    valid_runs,
)
from veltair.evaluation.metrics.records import check_columns

SEED_COLUMNS = (
    *("backend", "machine", "validated", "workload", "policy", "seed", "queries", "fluid_qps"),
    *("qps_at_95", "high_qps", "qps_at_95_minimum", "resolution", "cut", "unservable", "invalid"),
)
ESTIMATE_COLUMNS = (*SITE, "validated", "policy", "mean", "low", "high", "count", "note", "bound")
SAME_RATE = 0.02  # a run this near to a wanted rate, as a share of it, was run at it
Key = tuple[Hashable, ...]
BySeed = dict[int, float]


def capacities(seeds: pd.DataFrame, column: str = "qps_at_95") -> pd.DataFrame:
    """Return the mean over seeds of a policy's QPS at 95 % QoS, or of another column of the table.

    `seeds` has a row a site, workload, policy and seed. The result has the columns of `ESTIMATE_COLUMNS`:
    `note` says why there is no number ("unservable", with the seeds if not in all of them), `bound` whether a
    seed's answer is only a lower bound. Raises ValueError on missing columns or rows that are there twice.
    """
    _check(seeds)
    return _frame(
        seeds,
        {key: mean_interval(_answers(rows, column).values()) for key, rows in _policies(seeds)},
    )


def shares_of_bound(seeds: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over seeds of QPS at 95 % QoS over the fluid bound; as `capacities`."""
    _check(seeds)
    shares = {}
    for key, rows in _policies(seeds):
        bounds = dict(zip(rows["seed"], rows["fluid_qps"], strict=True))
        shares[key] = paired_ratio(_answers(rows), bounds)
    return _frame(seeds, shares)


def ratios(seeds: pd.DataFrame, reference: str = REFERENCE) -> pd.DataFrame:
    """Return the mean over seeds of QPS at 95 % QoS over the reference's with the same seed.

    As `capacities`; the note tells where the reference has no number to compare with.
    """
    _check(seeds)
    answers = {key: _answers(rows) for key, rows in _policies(seeds)}
    found, notes = {}, {}
    for key, own in answers.items():
        of_reference = answers.get((*key[:-1], reference), {})
        found[key] = paired_ratio(own, of_reference)
        if own and not found[key].count:
            notes[key] = f"no {reference}"
    return _frame(seeds, found, notes, reference)


def at_load(
    rates: pd.DataFrame, seeds: pd.DataFrame, metric: str, load: float, reference: str | None = None
) -> pd.DataFrame:
    """Return the mean over seeds of a metric where a share `load` of Planaria's capacity is offered.

    Each seed's rate is compared with Planaria's QPS at 95 % QoS with the same seed. With a `reference` the
    estimate is that of the ratio to its metric with the same seed. Columns: `ESTIMATE_COLUMNS`; no row for a
    policy that was not run at that load.
    """
    _check(seeds)
    check_columns(rates, (*SITE, "validated", "policy", "qps", "seed", metric), "rates")
    runs = valid_runs(rates)
    runs = runs[(_loads(runs, seeds) / load - 1).abs() <= SAME_RATE]
    by_seed: dict[Key, BySeed] = {
        key: {seed: value for seed, value in zip(rows["seed"], rows[metric], strict=True) if isfinite(value)}
        for key, rows in _policies(runs)
    }
    if reference is None:
        return _frame(runs, {key: mean_interval(values.values()) for key, values in by_seed.items()})
    found = {
        key: paired_ratio(values, by_seed.get((*key[:-1], reference), {})) for key, values in by_seed.items()
    }
    return _frame(runs, found)


def relaxed_changes(relaxed: pd.DataFrame) -> list[str]:
    """Return of each row of a table of targets what it was relaxed from, and to what."""
    return [
        f"{row['model']} {number(1e3 * row['qos_table_s'])} to {number(1e3 * row['qos_s'])} ms"
        for row in relaxed.to_dict("records")
    ]


def _loads(runs: pd.DataFrame, seeds: pd.DataFrame) -> "pd.Series[float]":
    """Return each run's offered rate as a share of Planaria's capacity with its seed; NaN if it has none.

    Two optional columns stand in where Planaria has none: `load` of the runs, and `common_qps` of the seeds,
    the rate at which measured policies are compared.
    """
    own = seeds[(seeds["policy"] == REFERENCE) & ~seeds["unservable"].astype(bool) & (seeds["qps_at_95"] > 0)]
    if "common_qps" in seeds:
        named = seeds[seeds["common_qps"].notna()]
        common = named.assign(qps_at_95=named["common_qps"] / EQUAL_LOAD)
        own = pd.concat([common, own])
    keys = [*SITE, "seed"]
    of_reference = own.drop_duplicates(keys)[[*keys, "qps_at_95"]]
    merged = runs[keys].merge(of_reference, on=keys, how="left")["qps_at_95"]
    found = pd.Series(runs["qps"].to_numpy() / merged.to_numpy(), index=runs.index, dtype="float64")
    return found.fillna(runs["load"]) if "load" in runs else found


def _answers(rows: pd.DataFrame, column: str = "qps_at_95") -> BySeed:
    """Return a policy's number by seed; none at all if it could not serve with one of the seeds."""
    if (rows["unservable"].astype(bool) | ~(rows["qps_at_95"] > 0)).any():
        return {}
    return {
        int(seed): float(value)
        for seed, value in zip(rows["seed"], rows[column], strict=True)
        if isfinite(value)
    }


def _policies(table: pd.DataFrame) -> list[tuple[Key, pd.DataFrame]]:
    return [(tuple(key), rows) for key, rows in table.groupby([*SITE, "policy"], sort=False)]


def _frame(
    table: pd.DataFrame,
    found: Mapping[Key, Interval],
    notes: Mapping[Key, str] | None = None,
    reference: str | None = None,
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for key, own in _policies(table):
        *site, policy = key
        rows.append(
            {
                **dict(zip(SITE, site, strict=True)),
                "validated": bool(own["validated"].astype(bool).all()),
                "policy": policy,
                **asdict(found[key]),
                "note": _note(own) or (notes or {}).get(key, ""),
                "bound": _is_bound(own),
            }
        )
    frame = pd.DataFrame(rows, columns=list(ESTIMATE_COLUMNS))
    if reference is None:
        return frame
    # Over a lower bound a ratio is an upper one, if it is anything.
    loose = frame[frame["bound"] & (frame["policy"] == reference)].set_index(list(SITE)).index
    hidden = frame.set_index(list(SITE)).index.isin(loose) & (frame["note"] == "").to_numpy()
    frame.loc[hidden, ["mean", "low", "high"]] = nan
    frame.loc[hidden, "note"] = f"{reference}: a lower bound"
    return frame


def _note(rows: pd.DataFrame) -> str:
    """Return why a policy has no number: the table of seeds says it, the table of runs has no such column."""
    if "unservable" not in rows:
        return ""
    unservable = int(rows["unservable"].astype(bool).sum())
    if unservable == len(rows):
        return "unservable"
    if unservable:
        return f"unservable, {unservable} of {len(rows)} seeds"
    return "" if (rows["qps_at_95"] > 0).all() else "no valid run"


def _is_bound(rows: pd.DataFrame) -> bool:
    return "high_qps" in rows and not is_closed(rows).all()


def _check(seeds: pd.DataFrame) -> None:
    check_columns(seeds, SEED_COLUMNS, "capacity_seeds")
    twice = seeds[seeds.duplicated([*SITE, "policy", "seed"])]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(
            f"capacity_seeds has two rows for {row['policy']} on {row['workload']} ({row['backend']}, "
            f"{row['machine']}) with seed {row['seed']}; give one row a seed"
        )

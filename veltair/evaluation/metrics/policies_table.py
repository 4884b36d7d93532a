"""Policies side by side: in one order, as ratios, and at equal load."""

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from veltair.evaluation.metrics.metrics import RATE_COLUMNS
from veltair.evaluation.metrics.records import check_columns

POLICY_ORDER = (
    *("FcfsMin", "FcfsAll", "EdfMin", "FixedBlocks-20", "FixedBlocks-11", "FixedBlocks-6", "LayerWise"),
    *("Planaria", "Planaria-aware", "Veltair-AS", "Veltair-AC", "Veltair-FULL", "Veltair-FULL-shipped"),
    "Veltair-Elastic",
)
REFERENCE = "Planaria"
MEASURED = "engine"  # the backend whose numbers are measured; the others' are not
EQUAL_LOAD = 0.7  # of the reference's capacity
NONE = "\N{EN DASH}"  # printed where there is no number
NEAR = 0.25  # a run at a rate further off than this, as a share of it, does not stand for the rate
SITE = ("backend", "machine", "workload")
Row = Mapping[Hashable, Any]
CAPACITY_COLUMNS = (
    "backend",
    "machine",
    "validated",
    "workload",
    "policy",
    "qps_at_95",
    "qps_at_95_minimum",
    "resolution",
    "cut",
    "unservable",
)


def check_capacity(capacity: pd.DataFrame) -> pd.DataFrame:
    """Return the capacity table with its optional columns filled in: `high_qps`, `invalid`, `fluid_qps`.

    One row a policy, workload, machine and backend. `high_qps` is the lowest rate above that missed the
    target (inf: none did, the answer is a lower bound), `invalid` why a run of the search said nothing ("" if
    none did), `fluid_qps` the fluid bound. Raises ValueError on missing columns or double rows.
    """
    check_columns(capacity, CAPACITY_COLUMNS, "capacity")
    twice = capacity[capacity.duplicated([*SITE, "policy"])]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(
            f"capacity has two rows for {row['policy']} on {row['workload']} ({row['backend']}, "
            f"{row['machine']}); average over seeds first"
        )
    filled = capacity.copy()
    if "high_qps" not in filled:
        filled["high_qps"] = filled["qps_at_95"] * (1 + filled["resolution"])
    if "invalid" not in filled:
        filled["invalid"] = ""
    if "fluid_qps" not in filled:
        filled["fluid_qps"] = np.nan
    filled["high_qps"] = filled["high_qps"].fillna(np.inf)
    filled["invalid"] = filled["invalid"].fillna("")
    return filled


def order_policies(names: Iterable[str]) -> list[str]:
    """Return each name once: the paper's policies in their fixed order, then others as they come."""
    distinct = list(dict.fromkeys(names))
    return [name for name in POLICY_ORDER if name in distinct] + [
        n for n in distinct if n not in POLICY_ORDER
    ]


def servable(capacity: pd.DataFrame) -> "pd.Series[bool]":
    """Return which rows of a capacity table hold a rate that met the target."""
    return ~capacity["unservable"].astype(bool) & (capacity["qps_at_95"] > 0)


def is_lower_bound(row: Row) -> bool:
    """Return whether no rate above a row's QPS is known to miss the target."""
    return bool(math.isinf(row["high_qps"]) or row["invalid"])


def is_at_least(row: Row) -> bool:
    """Return whether a row's QPS may be well below what is served: a lower bound, or a search cut short."""
    return is_lower_bound(row) or bool(row["cut"])


def is_closed(capacity: pd.DataFrame) -> "pd.Series[bool]":
    """Return which rows tell closely how much is served, so that something may be divided by it.

    Not one that no rate bounds from above, nor one whose search was cut short or met an invalid run.
    """
    bounded = capacity["high_qps"].map(math.isfinite) & ~capacity["cut"].astype(bool)
    valid = capacity["invalid"].fillna("") == ""
    return bounded & valid


def ratio_to(capacity: pd.DataFrame, reference: str = REFERENCE) -> "pd.Series[float]":
    """Return pooled QPS at 95 % QoS over the reference's on the same site and workload.

    NaN where either has none, or where the reference's is not known closely (`is_closed`).
    """
    rate = capacity["qps_at_95"].where(servable(capacity)).astype("float64")
    of_reference = rate.where((capacity["policy"] == reference) & is_closed(capacity))
    return rate / of_reference.groupby([capacity[column] for column in SITE]).transform("max")


def equal_load(
    capacity: pd.DataFrame, share: float = EQUAL_LOAD, reference: str = REFERENCE
) -> dict[tuple[Hashable, ...], float]:
    """Return the rate at which policies are compared, by (backend, machine, workload).

    It is the rate that all policies were run at, where the optional column `common_qps` names one; else
    `share` of the reference's pooled QPS at 95 % QoS, or of the least among the others' where the reference
    was not run or has none. Where no policy can serve and no rate is named, there is none.
    """
    loads: dict[tuple[Hashable, ...], float] = {}
    if "common_qps" in capacity:
        named = capacity[capacity["common_qps"].notna()]
        loads = {
            site: float(rows["common_qps"].min()) for site, rows in named.groupby(list(SITE), sort=False)
        }
    for site, rows in capacity[servable(capacity)].groupby(list(SITE), sort=False):
        of_reference = rows.loc[rows["policy"] == reference, "qps_at_95"]
        qps = share * float((of_reference if len(of_reference) else rows["qps_at_95"]).min())
        loads.setdefault(site, qps)
    return loads


def at_loads(rates: pd.DataFrame, capacity: pd.DataFrame, share: float = EQUAL_LOAD) -> pd.DataFrame:
    """Return each policy's metrics at `load` "equal" (see `equal_load`) and "own" (its own capacity).

    One row a site, policy and load: the run whose rate is nearest to `wanted_qps`, metrics averaged over
    seeds. A policy without a run within `NEAR` of it has no row.
    """
    check_columns(rates, RATE_COLUMNS, "rates")
    checked = check_capacity(capacity)
    equal = equal_load(checked, share)
    own: dict[tuple[Hashable, ...], float] = {
        (*(row[column] for column in SITE), row["policy"]): float(row["qps_at_95"])
        for row in checked[servable(checked)].to_dict("records")
    }
    picked = []
    for key, runs in valid_runs(rates).groupby([*SITE, "policy"], sort=False):
        for load, wanted_qps in (("equal", equal.get(key[:-1])), ("own", own.get(key))):
            nearest = None if wanted_qps is None else _nearest(runs, wanted_qps)
            if nearest is not None:
                picked.append({**nearest, "load": load, "wanted_qps": wanted_qps})
    return pd.DataFrame(picked, columns=[*RATE_COLUMNS, "load", "wanted_qps"])


def valid_runs(rates: pd.DataFrame) -> pd.DataFrame:
    """Return the runs whose optional column `invalid` gives no reason to leave them out."""
    return rates[rates["invalid"].fillna("") == ""] if "invalid" in rates else rates


def sites(*tables: pd.DataFrame) -> list[tuple[str, str]]:
    """Return each (backend, machine) of the tables once: measured ones first, else as they come."""
    pairs = [pair for table in tables for pair in zip(table["backend"], table["machine"], strict=True)]
    return sorted(dict.fromkeys(pairs), key=lambda pair: pair[0] != MEASURED)


def site_name(site: tuple[str, str], *tables: pd.DataFrame) -> str:
    """Return how figures and tables name where numbers come from; a described machine is marked."""
    validated = all(table.loc[at_site(table, site), "validated"].astype(bool).all() for table in tables)
    how = "measured here" if site[0] == MEASURED else "simulated" if site[0] == "simulator" else site[0]
    return f"{site[1]}, {how}" + ("" if validated else ": UNVALIDATED")


def at_site(table: pd.DataFrame, site: tuple[str, str]) -> "pd.Series[bool]":
    """Return which rows belong to a (backend, machine)."""
    return (table["backend"] == site[0]) & (table["machine"] == site[1])


def relaxed_models(targets: pd.DataFrame, machine: str) -> list[str]:
    """Return the models whose QoS on the machine is not the table's."""
    rows = targets[(targets["machine"] == machine) & targets["relaxed"].astype(bool)]
    return [str(name) for name in rows["model"]]


def notes(
    site: tuple[str, str], capacity: pd.DataFrame, rates: pd.DataFrame, targets: pd.DataFrame
) -> list[str]:
    """Return what a reader of a site's numbers must know, one sentence each: size, resolution, exceptions."""
    rows = check_capacity(capacity)
    rows = rows[at_site(rows, site)]
    runs = rates[at_site(rates, site)]
    seeds = sorted(set(runs["seed"]))
    sentences = [
        f"n = {span(runs['queries'])} counted queries a run over {span(runs['window_s'])} s, "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds)) or '?'}; "
        f"resolution of QPS {span(100 * rows['resolution'][servable(rows)])} %."
    ]
    relaxed = targets[(targets["machine"] == site[1]) & targets["relaxed"].astype(bool)]
    changes = [
        f"{row['model']} {number(1e3 * row['qos_table_s'])} to {number(1e3 * row['qos_s'])} ms"
        for row in relaxed.to_dict("records")
    ]
    if changes:
        sentences.append(f"* QoS relaxed, as the machine is too slow for the table's: {', '.join(changes)}.")
    for row in rows.to_dict("records"):
        name = f"{row['policy']} on {row['workload']}"
        if row["unservable"]:
            sentences.append(f"{name} is unservable: no rate that was tried met the QoS.")
        elif row["cut"]:
            sentences.append(f"† {name}: search cut short, {_how_far(row)}.")
        if row["invalid"]:
            sentences.append(f"{name}: a run of the search was invalid ({row['invalid']}).")
    return sentences


def _how_far(row: Row) -> str:
    if not row["qps_at_95"] > 0:
        down_to = f" down to {number(row['high_qps'])} queries/s" if math.isfinite(row["high_qps"]) else ""
        return f"no rate met the QoS{down_to}"
    if is_lower_bound(row):
        return "no rate above is known to miss the QoS"
    return f"at a resolution of {number(100 * row['resolution'])} %"


def capacity_text(row: Row | None) -> str:
    """Return a policy's QPS at 95 % QoS as figures and tables print it, from its row if it was run."""
    if row is None:
        return "not run"
    mark = "†" if row["cut"] else ""
    if row["unservable"]:
        return "unservable"
    if not row["qps_at_95"] > 0:
        return f"< {number(row['high_qps'])}{mark}" if math.isfinite(row["high_qps"]) else "no valid run"
    return f"{'≥ ' if is_lower_bound(row) else ''}{number(row['qps_at_95'])}{mark}"


def number(value: float) -> str:
    """Return a number with three significant digits and no exponent; an en dash for NaN."""
    if not np.isfinite(value):
        return NONE if np.isnan(value) else str(value)
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def span(values: Iterable[float]) -> str:
    """Return "low-high" of some numbers, one number if they agree as printed, "?" if there are none."""
    known = [float(value) for value in values if np.isfinite(value)]
    if not known:
        return "?"
    low, high = number(min(known)), number(max(known))
    return low if low == high else f"{low}\N{EN DASH}{high}"


def _nearest(runs: pd.DataFrame, wanted_qps: float) -> dict[str, object] | None:
    distance = (runs["qps"] / wanted_qps - 1).abs()
    if not distance.min() <= NEAR:
        return None
    at_rate = runs[runs["qps"] == runs["qps"].iloc[int(distance.to_numpy().argmin())]]
    row: dict[str, object] = at_rate.iloc[0].to_dict()
    row.update(at_rate.select_dtypes("number").mean().to_dict())
    return row

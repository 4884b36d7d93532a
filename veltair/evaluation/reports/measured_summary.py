"""What the summary says of measured runs: a table a workload, and how well it could be measured."""

from collections.abc import Sequence
from math import isfinite, isinf, isnan

import pandas as pd

from veltair.evaluation.loadgen.logs import LOADGEN
from veltair.evaluation.metrics.bounds import Bounds, Reach
from veltair.evaluation.metrics.capacity_table import EQUAL_LOAD, REFERENCE, SECOND_REFERENCE
from veltair.evaluation.metrics.markdown import markdown_table
from veltair.evaluation.metrics.policies_table import (
    AS_THEY_COME,
    NONE,
    PolicyOrder,
    Row,
    number,
    relaxed_changes,
    source_name,
    sources,
    span,
)


def measured_sections(
    capacities: pd.DataFrame,
    ratios: pd.DataFrame,
    curves: pd.DataFrame,
    slots: pd.DataFrame,
    targets: pd.DataFrame,
    order: PolicyOrder = AS_THEY_COME,
) -> list[str]:
    """Return the lines of a section about measured runs; the tables are measured_capacity.csv and so on."""
    lines: list[str] = []
    for source in sources(capacities):
        lines += ["", f"## {source_name(source, capacities)}"]
        lines += [line for note in order.options_note(capacities["policy"]) for line in ("", note)]
        for workload in dict.fromkeys(capacities["workload"]):
            own = [table[table["workload"] == workload] for table in (capacities, ratios, curves, slots)]
            lines += ["", *_workload_section(workload, order, *own)]
        relaxed = targets[(targets["machine"] == source[1]) & targets["relaxed"].astype(bool)]
        if changes := relaxed_changes(relaxed):
            lines += [
                "",
                f"- QoS relaxed, as the machine is too slow for the table's: {', '.join(changes)}.",
            ]
    return lines


def comparison_qps(curves: pd.DataFrame, capacities: pd.DataFrame) -> float:
    """Return the measured rate nearest to `EQUAL_LOAD` of Planaria's QPS at 95 % QoS.

    Of the best policy's where Planaria does not take part; a bound stands for a number that is not known.
    Both tables are of one workload.
    """
    found = {row["policy"]: bounds_of(row).value for row in capacities.to_dict("records")}
    wanted_qps = EQUAL_LOAD * found.get(REFERENCE, max(found.values()))
    rates: list[float] = curves["qps"].unique().tolist()
    return min(rates, key=lambda qps: abs(qps - wanted_qps))


def bounds_of(row: Row, least: str = "at_least_qps", most: str = "at_most_qps") -> Bounds:
    """Return what a row of a measured table knows of a number."""
    return Bounds(float(row[least]), float(row[most]))


def interval_text(row: Row, lowest: float, highest: float, low: str = "low", high: str = "high") -> str:
    """Return an interval as tables print it: beyond the rates that were measured it is open."""
    if isnan(row[low]):
        return NONE
    left = f"< {number(lowest)}" if row[low] == 0.0 else number(row[low])
    right = f"> {number(highest)}" if isinf(row[high]) else number(row[high])
    return f"{left} to {right}"


def ratio_text(row: Row | None) -> str:
    """Return a ratio of measured_ratios.csv as tables print it, with its interval."""
    if row is None:
        return NONE
    found = bounds_of(row, "at_least", "at_most")
    if found.reach is not Reach.KNOWN or isnan(row["low"]) or not row["high"] > row["low"]:
        return str(found)
    high = number(row["high"]) if isfinite(row["high"]) else "∞"
    return f"{found} [{number(row['low'])}, {high}]"


def _workload_section(
    workload: str,
    order: PolicyOrder,
    capacities: pd.DataFrame,
    ratios: pd.DataFrame,
    curves: pd.DataFrame,
    slots: pd.DataFrame,
) -> list[str]:
    qps = comparison_qps(curves, capacities)
    models = next(iter(curves["models"]), "")
    at = f"{number(qps)} QPS"
    header = ["Policy", "QPS at 95 % QoS", "95 % interval", "worst model's QPS"]
    header += [f"÷ {REFERENCE}", f"÷ {SECOND_REFERENCE}", "of the fluid bound", f"on time at {at}"]
    header += [f"latency at {at}, ms", f"CPU efficiency at {at}", f"conflict rate at {at}"]
    rows = [_policy_row(policy, capacities, ratios, curves, qps) for policy in order.of(capacities["policy"])]
    title = f"### {workload}" + (f" ({models})" if models and models != workload else "")
    table = markdown_table(header, rows, numbers=True)
    return [title, "", *table, "", *(f"- {note}" for note in _notes(capacities, curves, slots))]


def _policy_row(
    policy: str, capacities: pd.DataFrame, ratios: pd.DataFrame, curves: pd.DataFrame, qps: float
) -> list[str]:
    lowest, highest = curves["qps"].min(), curves["qps"].max()
    row = _rows(capacities, policy)[0]
    worst = bounds_of(row, "minimum_at_least_qps", "minimum_at_most_qps")
    found = bounds_of(row)
    to = {one["reference"]: one for one in _rows(ratios, policy)}
    (at,) = _rows(curves[curves["qps"] == qps], policy)
    return [
        policy,
        str(found),
        interval_text(row, lowest, highest, "low_qps", "high_qps"),
        str(worst),
        *(ratio_text(to.get(reference)) for reference in (REFERENCE, SECOND_REFERENCE)),
        str(found.over(Bounds(row["fluid_qps"] / 100, row["fluid_qps"] / 100))) + " %",
        f"{number(100 * at['satisfaction'])} %",
        number(1e3 * at["latency_mean_s"]),
        f"{number(100 * at['cpu_efficiency'])} %",
        f"{number(100 * at['conflict_rate'])} %",
    ]


def _rows(table: pd.DataFrame, policy: str) -> list[Row]:
    return list(table[table["policy"] == policy].to_dict("records"))


def _notes(capacities: pd.DataFrame, curves: pd.DataFrame, slots: pd.DataFrame) -> Sequence[str]:
    """Return how much was measured, what was repeated or left out, and what others used of the cores."""
    low, high = curves["qps"].min(), curves["qps"].max()
    kept = slots[slots["kept"].astype(bool)]
    notes = [
        f"n = {span(curves['queries'])} counted queries a policy and rate, {span(capacities['rounds'])} "
        f"rounds; rates from {number(low)} to {number(high)} QPS, {span(curves['share'])} of the sequential "
        "rate. Intervals by bootstrap over rounds; ratios are paired by round. "
        "<, >: below the lowest rate, above the highest.",
        f"Other processes and guests used {number(100 * kept['others_share'].mean())} % of the cores in the "
        f"mean, {number(100 * kept['others_share'].max())} % at most.",
    ]
    if (client := curves["client"].iloc[0]) != LOADGEN:
        notes.append(f"Queries sent by: {client}. LoadGen cannot draw these arrivals, and gives no verdict.")
    disturbed = slots[slots["problem"].fillna("") != ""]
    if len(disturbed):
        notes.append(
            f"{len(disturbed)} of {len(slots)} runs were disturbed and repeated where time was left."
        )
    keys = ["round", "share"]
    left = slots.groupby(keys)["kept"].any()
    for number_of, share in left[~left].index:
        why = disturbed[(disturbed["round"] == number_of) & (disturbed["share"] == share)].iloc[-1]
        notes.append(
            f"Left out for all: round {number_of} at {number(share)} of the sequential rate, as "
            f"{why['policy']} was disturbed: {why['problem']}."
        )
    return notes

"""results/summary.md: the numbers of a run as tables that a person can read."""

from collections.abc import Iterable, Sequence
from math import isfinite

import pandas as pd

from veltair.evaluation.metrics.capacity_table import (
    EQUAL_LOAD,
    REFERENCE,
    SECOND_REFERENCE,
    capacities,
    capacity_text,
    over_seeds,
    ratio_text,
    ratios,
    reference_rates,
    shares_of_bound,
)
from veltair.evaluation.metrics.equal_load import at_loads
from veltair.evaluation.metrics.markdown import markdown_table
from veltair.evaluation.metrics.policies_table import (
    AS_THEY_COME,
    NONE,
    PolicyOrder,
    Row,
    SourceKey,
    at_source,
    number,
    relaxed_changes,
    source_name,
    sources,
    span,
)
from veltair.evaluation.reports.equal_drops import equal_drops_section

Panel = tuple[str, str, str]  # backend, machine, workload


def summary_markdown(
    seeds: pd.DataFrame | None,
    rates: pd.DataFrame,
    targets: pd.DataFrame,
    *,
    measured: Sequence[str] = (),
    ruled: pd.DataFrame | None = None,
    share: float = EQUAL_LOAD,
    figures: Iterable[str] = (),
    order: PolicyOrder = AS_THEY_COME,
) -> str:
    """Return the summary as Markdown: a section per backend and machine, in it a table per workload.

    `measured` are the lines of sections about measured runs, which come first. The others are of simulated
    ones: `seeds` has a row a source, workload, policy and seed, as capacity_seeds.csv, None where there are
    none; `targets` the rows of every machine. `ruled` are the rows of equal_drops.csv, of the comparison with
    one rule for late queries. Equal load is `share` of the reference rate. `figures` are paths to name at the
    end.
    """
    lines = [
        "# Results",
        "",
        "QPS at 95 % QoS is the highest offered Poisson rate at which at least 95 % of queries finish within "
        f"their own QoS. Equal load is {number(100 * share)} % of {REFERENCE}'s; "
        "where it has none, of another rate (results/README.md). A rate in brackets is the nearest one "
        "that was run. Every column is defined in results/README.md.",
        *(line for note in order.options_note(rates["policy"]) for line in ("", note)),
        *measured,
    ]
    if seeds is not None:
        lines += _simulated_sections(seeds, rates, targets, _Tables(seeds, rates, share, order))
    if seeds is not None and ruled is not None:
        lines += ["", "## One rule for late queries", *equal_drops_section(seeds, ruled, order)]
    lines += ["", "## QoS", "", *_targets_table(targets)]
    names = list(figures)
    if names:
        lines += ["", "## Figures", "", *(f"- {name}" for name in names)]
    return "\n".join(lines) + "\n"


def _simulated_sections(
    seeds: pd.DataFrame, rates: pd.DataFrame, targets: pd.DataFrame, tables: "_Tables"
) -> list[str]:
    lines: list[str] = []
    for source in sources(seeds, rates):
        lines += ["", f"## {source_name(source, seeds, rates)}", *_source_section(source, tables)]
        lines += ["", *(f"- {note}" for note in _notes(source, seeds, rates, targets))]
    return lines


class _Tables:
    """The tables that the summary prints numbers of."""

    def __init__(self, seeds: pd.DataFrame, rates: pd.DataFrame, share: float, order: PolicyOrder) -> None:
        self.capacity, self.rates = over_seeds(seeds), rates
        self.qps, self.fluid = capacities(seeds), shares_of_bound(seeds)
        self.ratios = [ratios(seeds, reference) for reference in (REFERENCE, SECOND_REFERENCE)]
        self.compared = at_loads(rates, seeds, share)
        references = reference_rates(seeds)
        self.equal = references.assign(qps=share * references["reference_qps"])
        self.policies = order.of([*seeds["policy"], *rates["policy"]])


def _source_section(source: SourceKey, tables: _Tables) -> list[str]:
    here = [table[at_source(table, source)] for table in (tables.capacity, tables.rates)]
    workloads = dict.fromkeys(name for table in here for name in table["workload"])
    return [line for workload in workloads for line in ("", *_workload_section((*source, workload), tables))]


def _workload_section(panel: Panel, tables: _Tables) -> list[str]:
    models = next(iter(_of(tables.rates, panel)["models"]), "")
    equal_qps = _of(tables.equal, panel)["qps"].mean()
    at = f"{number(equal_qps)} QPS" if isfinite(equal_qps) else "equal load"
    header = ["Policy", "QPS at 95 % QoS", "worst model's QPS", f"÷ {REFERENCE}", f"÷ {SECOND_REFERENCE}"]
    header += ["of the fluid bound", "latency at own capacity, ms", f"latency at {at}, ms"]
    header += [f"CPU efficiency at {at}", f"conflict rate at {at}"]
    rows = []
    for policy in tables.policies:
        own, equal = (_at_load(tables.compared, panel, policy, load) for load in ("own", "equal"))
        cells = [policy, *_capacity_cells(tables, panel, policy)]
        cells += [_cell(own, "latency_mean_s", 1e3), _cell(equal, "latency_mean_s", 1e3)]
        cells += [_cell(equal, "cpu_efficiency", 100, " %"), _cell(equal, "conflict_rate", 100, " %")]
        rows.append(cells)
    title = f"### {panel[2]}" + (f" ({models})" if models and models != panel[2] else "")
    table = markdown_table(header, rows, numbers=True)
    return [title, "", *table, "", *_fairness_table(panel, tables, at)]


def _fairness_table(panel: Panel, tables: _Tables, at: str) -> Sequence[str]:
    """Return what the tenants of a workload get beside each other, at equal load."""
    rows = []
    for policy in tables.policies:
        row = _at_load(tables.compared, panel, policy, "equal")
        shown = [_cell(row, "satisfaction_minimum", 100, " %")]
        rows.append([policy, *shown, *(_cell(row, column, 1) for column in ("jain", "antt", "stp"))])
    header = [f"Policy, at {at}", "worst tenant on time", "Jain's index", "ANTT", "STP"]
    return markdown_table(header, rows, numbers=True)


def _capacity_cells(tables: _Tables, panel: Panel, policy: str) -> list[str]:
    row, qps = _pick(tables.capacity, panel, policy), _pick(tables.qps, panel, policy)
    if row is None or qps is None:
        return [capacity_text(None)] + [NONE] * 4
    # With some seeds unservable the mean would be of rates and zeros.
    partly = str(qps["note"]).startswith("unservable,")
    worst = number(row["qps_at_95_minimum"]) if not qps["note"] else NONE
    quotients = [_pick(table, panel, policy) for table in tables.ratios]
    fluid = _pick(tables.fluid, panel, policy)
    return [
        str(qps["note"]) if partly else capacity_text(row),
        worst,
        *(NONE if one is None else ratio_text(one) for one in quotients),
        NONE if fluid is None or not fluid["count"] else f"{number(100 * fluid['mean'])} %",
    ]


def _notes(source: SourceKey, seeds: pd.DataFrame, rates: pd.DataFrame, targets: pd.DataFrame) -> list[str]:
    """Return what a reader of the numbers must know, one sentence each: size, resolution, exceptions."""
    rows, runs = seeds[at_source(seeds, source)], rates[at_source(rates, source)]
    names = sorted(set(runs["seed"]))
    resolutions = 100 * rows.loc[rows["qps_at_95"] > 0, "resolution"]
    sentences = [
        f"n = {span(runs['queries'])} counted queries a run over {span(runs['window_s'])} s, "
        f"seed{'s' if len(names) > 1 else ''} {', '.join(map(str, names)) or '?'}; "
        f"resolution of QPS {span(resolutions)} %."
    ]
    relaxed = targets[(targets["machine"] == source[1]) & targets["relaxed"].astype(bool)]
    if changes := relaxed_changes(relaxed):
        sentences.append(f"QoS relaxed, as the machine is too slow for the table's: {', '.join(changes)}.")
    found: dict[str, list[str]] = {}
    for row in rows.to_dict("records"):
        for exception in _exceptions(row):
            found.setdefault(f"{row['policy']} on {row['workload']}: {exception}", []).append(
                str(row["seed"])
            )
    return sentences + [
        f"{text} (seed{'s' if len(which) > 1 else ''} {', '.join(which)})." for text, which in found.items()
    ]


def _exceptions(row: Row) -> list[str]:
    exceptions = []
    if row["unservable"]:
        exceptions.append("unservable, no rate that was tried met the QoS")
    elif row["cut"]:
        exceptions.append(f"search cut short (†), {_how_far(row)}")
    if row["invalid"]:
        exceptions.append(f"a run of the search was invalid: {row['invalid']}")
    return exceptions


def _how_far(row: Row) -> str:
    if not row["qps_at_95"] > 0:
        down_to = f" down to {number(row['high_qps'])} queries/s" if isfinite(row["high_qps"]) else ""
        return f"no rate met the QoS{down_to}"
    if not isfinite(row["high_qps"]) or row["invalid"]:
        return "no rate above is known to miss the QoS"
    return f"at a resolution of {number(100 * row['resolution'])} %"


def _pick(table: pd.DataFrame, panel: Panel, policy: str) -> Row | None:
    found = _of(table, panel)
    return next(iter(found[found["policy"] == policy].to_dict("records")), None)


def _at_load(compared: pd.DataFrame, panel: Panel, policy: str, load: str) -> Row | None:
    return _pick(compared[compared["load"] == load], panel, policy)


def _cell(row: Row | None, column: str, factor: float, unit: str = "") -> str:
    """Return a value; with the rate at which it was run where that is off the wanted one as printed."""
    if row is None or pd.isna(row[column]):
        return NONE
    off = number(row["qps"]) != number(row["wanted_qps"])
    return f"{number(factor * row[column])}{unit}" + (f" ({number(row['qps'])} QPS)" if off else "")


def _of(table: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    return table[at_source(table, panel[:2]) & (table["workload"] == panel[2])]


def _targets_table(targets: pd.DataFrame) -> Sequence[str]:
    header = ["Machine", "Model", "QoS of the table, ms", "alone, ms", "QoS used, ms", "relaxed"]
    rows = [
        [
            row["machine"],
            row["model"],
            *(number(1e3 * row[column]) for column in ("qos_table_s", "isolated_latency_s", "qos_s")),
            "yes" if row["relaxed"] else "no",
            number(1e3 * row["work_optimal_core_s"]),
        ]
        for row in targets.to_dict("records")
    ]
    return markdown_table([*header, "least work, core-ms"], rows, numbers=True)

"""results/summary.md: the numbers of a run as tables that a person can read."""

from collections.abc import Iterable

import pandas as pd

from veltair.evaluation.metrics.policies_table import (
    EQUAL_LOAD,
    NONE,
    REFERENCE,
    Row,
    at_loads,
    at_site,
    capacity_text,
    check_capacity,
    equal_load,
    is_at_least,
    notes,
    number,
    order_policies,
    ratio_to,
    servable,
    site_name,
    sites,
)

SECOND_REFERENCE = "LayerWise"


def summary_markdown(
    capacity: pd.DataFrame,
    rates: pd.DataFrame,
    targets: pd.DataFrame,
    *,
    share: float = EQUAL_LOAD,
    figures: Iterable[str] = (),
) -> str:
    """Return the summary as Markdown: a section per backend and machine, in it a table per workload.

    Policies stand in the order of the paper, others after them. `targets` holds the rows of every machine;
    equal load is `share` of the reference's capacity. `figures` are paths to name at the end.
    """
    checked = check_capacity(capacity)
    compared = at_loads(rates, checked, share)
    policies = order_policies([*checked["policy"], *rates["policy"]])
    lines = [
        "# Results",
        "",
        "QPS at 95 % QoS is the highest offered Poisson rate at which at least 95 % of queries finish within "
        f"their own QoS. Equal load is {number(100 * share)} % of {REFERENCE}'s, as simulated, or of the "
        "lowest servable policy's where it has none; a rate in brackets is the nearest one that was run. "
        "Every column is defined in results/README.md.",
    ]
    for site in sites(checked, rates):
        lines += ["", f"## {site_name(site, checked, rates)}"]
        for workload in dict.fromkeys(
            [*checked.loc[at_site(checked, site), "workload"], *rates.loc[at_site(rates, site), "workload"]]
        ):
            lines += ["", *_workload_section((*site, workload), checked, rates, compared, policies)]
        lines += ["", *(f"- {note.lstrip('*† ')}" for note in notes(site, checked, rates, targets))]
    lines += ["", "## QoS", "", *_targets_table(targets)]
    names = list(figures)
    if names:
        lines += ["", "## Figures", "", *(f"- {name}" for name in names)]
    return "\n".join(lines) + "\n"


def _workload_section(
    site: tuple[str, str, str],
    capacity: pd.DataFrame,
    rates: pd.DataFrame,
    compared: pd.DataFrame,
    policies: list[str],
) -> list[str]:
    backend, machine, workload = site
    here = _of(capacity, site).assign(
        first=ratio_to(capacity), second=ratio_to(capacity, SECOND_REFERENCE), served=servable(capacity)
    )
    models = next(iter(_of(rates, site)["models"]), "")
    load_qps = equal_load(capacity).get((backend, machine, workload))
    at = "equal load" if load_qps is None else f"{number(load_qps)} QPS"
    fluid = bool(here["fluid_qps"].notna().any())
    header = ["Policy", "QPS at 95 % QoS", "worst model's QPS", f"÷ {REFERENCE}", f"÷ {SECOND_REFERENCE}"]
    header += ["of the fluid bound"] if fluid else []
    header += ["latency at own capacity, ms", f"latency at {at}, ms", f"CPU efficiency at {at}"]
    header += [f"conflict rate at {at}"]
    rows = []
    for policy in policies:
        own, equal = (_pick(compared, site, policy, load) for load in ("own", "equal"))
        found = here[here["policy"] == policy]
        cells = [policy, *_capacity_cells(next(iter(found.to_dict("records")), None), fluid)]
        cells += [_cell(own, "latency_mean_s", 1e3), _cell(equal, "latency_mean_s", 1e3)]
        cells += [_cell(equal, "cpu_efficiency", 100, " %"), _cell(equal, "conflict_rate", 100, " %")]
        rows.append(cells)
    title = f"### {workload}" + (f" ({models})" if models and models != workload else "")
    return [title, "", *_table(header, rows)]


def _capacity_cells(row: Row | None, fluid: bool) -> list[str]:
    if row is None:
        return [capacity_text(None)] + [NONE] * (4 if fluid else 3)
    bound = "≥ " if is_at_least(row) else ""
    worst = number(row["qps_at_95_minimum"]) if row["served"] else NONE
    ratios = (row["first"], row["second"])
    cells = [capacity_text(row), worst, *(NONE if pd.isna(r) else bound + number(r) for r in ratios)]
    share = f"{number(100 * row['qps_at_95'] / row['fluid_qps'])} %" if row["fluid_qps"] > 0 else NONE
    return [*cells, share] if fluid else cells


def _pick(
    compared: pd.DataFrame, site: tuple[str, str, str], policy: str, load: str
) -> "pd.Series[float] | None":
    found = _of(compared, site)
    found = found[(found["policy"] == policy) & (found["load"] == load)]
    return None if found.empty else found.iloc[0]


def _cell(row: "pd.Series[float] | None", column: str, factor: float, unit: str = "") -> str:
    """Return a value; with the rate at which it was run where that is off the wanted one as printed."""
    if row is None or pd.isna(row[column]):
        return NONE
    off = number(row["qps"]) != number(row["wanted_qps"])
    return f"{number(factor * row[column])}{unit}" + (f" ({number(row['qps'])} QPS)" if off else "")


def _of(table: pd.DataFrame, site: tuple[str, str, str]) -> pd.DataFrame:
    return table[at_site(table, site[:2]) & (table["workload"] == site[2])]


def _targets_table(targets: pd.DataFrame) -> list[str]:
    header = [
        "Machine",
        "Model",
        "QoS of the table, ms",
        "alone, ms",
        "QoS used, ms",
        "relaxed",
        "least work, core-ms",
    ]
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
    return _table(header, rows)


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table whose columns line up in plain text; names are left, numbers right."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(len(row[index]) for row in escaped) for index in range(len(header))]
    texts = [
        " | ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in escaped
    ]
    rule = " | ".join(["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]])
    return [f"| {text} |" for text in (texts[0], rule, *texts[1:])]

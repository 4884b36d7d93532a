"""results/validation.md: what was validated, how far off it is, and what that allows to be said."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import pandas as pd

from veltair.evaluation.metrics.markdown import markdown_table
from veltair.evaluation.metrics.policies_table import NONE, number
from veltair.evaluation.validation.anchors import Anchor
from veltair.evaluation.validation.goals import METRIC_OF, Finding, may_be_validated
from veltair.evaluation.validation.trace_errors import PairOrder, significant
from veltair.evaluation.validation.traffic_errors import traffic_lines

RULE = (
    "A machine is labelled validated if it has 16 cores or more and all goals are met on it. Until one with "
    "16 cores or more has, described machines such as the Threadripper 3990X are labelled unvalidated."
)
GOAL_HEADER = ("number", "what", "value", "without contention", "goal", "verdict", "n")
POLICY_HEADER = ("policy", "runs", "counted queries", "QPS", "p50", "p95", "satisfaction (points)")
ANCHOR_HEADER = ("what", "published", "modelled", "without contention", "deviation")


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """All that was found on a machine.

    `errors` is a table of `trace_errors`, `policies` one of `by_policy`, `co_runs` one of `co_run_table`,
    made with `demand_scale`. `published` is empty where the anchors were not asked for, `traffic`, a table of
    `check_traffic`, is None where it was not.
    """

    machine: str
    cores: int
    findings: Sequence[Finding]
    errors: pd.DataFrame
    policies: pd.DataFrame
    pairs: Sequence[PairOrder]
    co_runs: pd.DataFrame
    demand_scale: float
    published: Sequence[Anchor] = ()
    traffic: pd.DataFrame | None = None


def validation_markdown(found: Evidence) -> str:
    """Return the report: verdicts first, then policies, order, co-runs and anchors."""
    allowed, why = may_be_validated(found.findings, found.cores)
    label = "may be labelled validated" if allowed else f"may not be labelled validated: {why}"
    lines = [
        f"# Validation of the simulator on {found.machine}",
        "",
        f"**{found.machine} ({found.cores} cores) {label}.** {RULE}",
        "",
        "Each error stands beside that of a null model without contention. Definitions: docs/validation.md.",
        "",
        *markdown_table(GOAL_HEADER, map(_finding_row, found.findings)),
        "",
        *(f"- `{one.goal.name}` is not computed: {one.note}." for one in found.findings if one.note),
        *_policy_lines(found),
        *_order_lines(found.pairs),
        *_co_run_lines(found),
        *traffic_lines(found.traffic),
        *_anchor_lines(found.published),
    ]
    return "\n".join(lines) + "\n"


def verdict_lines(findings: Sequence[Finding]) -> list[str]:
    """Return a line a goal, as they are printed at the end of a run."""
    return [
        f"{one.goal.name}: {_text(one.value)} (goal {one.goal.text}): {one.verdict}; without contention "
        f"{_text(one.null)}, n = {len(one.samples)}{f'; {one.note}' if one.note else ''}"
        for one in findings
    ]


def _finding_row(one: Finding) -> list[str]:
    cells = [f"`{one.goal.name}`", one.goal.meaning, _text(one.value), _text(one.null), one.goal.text]
    return [*cells, f"**{one.verdict}**", f"{len(one.samples)} {one.of}"]


def _policy_lines(found: Evidence) -> list[str]:
    lines = [
        "",
        "## The same trace through engine and simulator, by policy",
        "",
        "Mean errors of its runs; in brackets the null model's.",
        "",
    ]
    rows = []
    for row in found.policies.to_dict("records"):
        own = found.errors[found.errors["policy"] == row["policy"]]
        queries = own.drop_duplicates(["workload", "qps", "seed"])["queries"].sum()
        numbers = [f"{_text(row[name])} ({_text(row[f'{name}_null'])})" for name in METRIC_OF]
        rows.append([row["policy"], row["runs"], queries, *numbers])
    return [*lines, *markdown_table(POLICY_HEADER, rows), *_worst_lines(found.errors)]


def _worst_lines(errors: pd.DataFrame) -> list[str]:
    lines = ["", "The run that is furthest off, by number:", ""]
    for name, metric in METRIC_OF.items():
        known = errors[(errors["metric"] == metric) & errors["error"].notna()]
        if known.empty:
            continue
        worst = known.sort_values("error").iloc[-1]
        lines.append(
            f"- {name}: {number(worst['error'])}: {worst['policy']} on {worst['workload']} at "
            f"{number(worst['qps'])} queries/s, measured {number(worst['measured'])}, simulated "
            f"{number(worst['simulated'])}, {worst['queries']} queries"
        )
    return lines


def _order_lines(pairs: Sequence[PairOrder]) -> list[str]:
    clear = significant(pairs)
    lines = ["", "## Order of policies", "", f"{len(clear)} of {len(pairs)} pairs differ significantly."]
    wrong = [pair for pair in clear if pair.measured_s * pair.simulated_s <= 0]
    if wrong:
        lines += ["", "Pairs that the simulator does not put in the measured order:", ""]
    return lines + [
        f"- {pair.first} less {pair.second}: mean latency {1e3 * pair.measured_s:+.2f} ms measured, "
        f"{1e3 * pair.simulated_s:+.2f} ms simulated"
        for pair in wrong
    ]


def _co_run_lines(found: Evidence) -> list[str]:
    tested = found.co_runs[found.co_runs["held_out"].astype(bool)]
    plain = tested["unfitted_error"].median()
    slowdowns = found.co_runs["measured_slowdown"]
    return [
        "",
        "## Co-runs",
        "",
        f"{found.co_runs['corun'].nunique()} pairs, {tested['corun'].nunique()} of them held out. Measured "
        f"slowdowns reach from {number(slowdowns.min())} to {number(slowdowns.max())}, median "
        f"{number(slowdowns.median())}. One number was fitted, on the other pairs: the scale of demand, "
        f"{number(found.demand_scale)}. The simulator runs with 1, which errs by {number(plain)} (median, "
        "held out).",
    ]


def _anchor_lines(published: Sequence[Anchor]) -> list[str]:
    if not published:
        return []
    title = "## Published numbers of the Threadripper 3990X, not fitted to"
    return ["", title, "", *markdown_table(ANCHOR_HEADER, map(_anchor_row, published))]


def _anchor_row(anchor: Anchor) -> list[str]:
    value = (
        f"not computed: {anchor.reason}" if anchor.value is None else f"{number(anchor.value)} {anchor.unit}"
    )
    null = NONE if anchor.null is None else number(anchor.null)
    off = NONE if anchor.deviation is None else f"{100 * anchor.deviation:+.0f} %"
    return [anchor.statement, f"{number(anchor.published)} {anchor.unit}", value, null, off]


def _text(value: float) -> str:
    return NONE if isnan(value) else f"{value:.3g}"

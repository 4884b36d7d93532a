"""The claims with their verdicts, to read and as data; a deviation stands where a pass would."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite, isnan
from pathlib import Path
from typing import Any

from veltair.evaluation.claims.measured import MeasuredClaimTables
from veltair.evaluation.claims.rules import SHIPPED_CLAIMS, Claim, Source, Verdict, load_claims
from veltair.evaluation.claims.values import ClaimTables, JudgedClaim, judge_from_tables
from veltair.evaluation.experiment.tables_io import read_csv
from veltair.evaluation.metrics.intervals import Interval
from veltair.evaluation.metrics.markdown import markdown_table
from veltair.evaluation.metrics.policies_table import MEASURED, NONE, number
from veltair.provenance import collect, write_atomically, write_json

CAPACITY, RATES, SENSITIVITY = "capacity_seeds.csv", "rates.csv", "sensitivity.csv"
MEASURED_RATIOS, MEASURED_CAPACITY = "measured_ratios.csv", "measured_capacity.csv"
TABLES = (CAPACITY, RATES, SENSITIVITY, MEASURED_RATIOS, MEASURED_CAPACITY)
UNVALIDATED = "UNVALIDATED"
UNEXAMINED = "not examined for this class"
CLAIM_HEADER = (
    *("claim", "the paper says", "its value", "accepted"),
    *("here, 95 % interval", "verdict", "why", "beside"),
)
RULES = """\
**Gain**: PASS where the 95 % interval reaches the paper's value or more and leaves 1 out; WITHIN where
the mean has the same sign and at least half of the effect; DEVIATES else. **Trend**: PASS where the mean
is not below 1; WITHIN where only the interval reaches 1. **Anchor**: PASS where the paper's number is
met as near as it is printed; WITHIN inside the accepted range. Intervals are Student's t over paired
ratios, a ratio a seed. With one seed there is no interval, and gains and trends cannot pass. FRAGILE:
the verdict changes inside the plausible range of an assumption. NOT COMPUTED: the tables lack the
number; its command makes it."""


def read_claim_tables(metrics: Path, benchmarks: Path) -> ClaimTables:
    """Return what a run has written of the tables that claims are read from; the rest is None."""
    capacity, rates, sensitivity, ratios, measured = (
        read_csv(metrics / name) if (metrics / name).is_file() else None for name in TABLES
    )
    figures = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))["figures"]
        for path in _benchmark_files(benchmarks)
    }
    live = None
    if rates is not None and ratios is not None and measured is not None:
        live = MeasuredClaimTables(ratios, measured, rates[rates["backend"] == MEASURED])
    return ClaimTables(capacity, rates, sensitivity, live, figures)


def write_claims(
    metrics: Path,
    benchmarks: Path,
    output: Path,
    claims: Path = SHIPPED_CLAIMS,
    source: Source | None = None,
) -> list[JudgedClaim]:
    """Write `output` (claims.md) and the same as JSON beside it; return the verdicts.

    `metrics` is a folder of metric tables and `benchmarks` one of benchmarks. `source` is another machine to
    judge than the one that the claims name.
    """
    book = load_claims(claims)
    tables = read_claim_tables(metrics, benchmarks)
    where = source or book.source
    judged = [judge_from_tables(claim, where, tables) for claim in book.claims]
    files = [metrics / name for name in TABLES if (metrics / name).is_file()]
    provenance = collect(inputs=[claims, *files, *_benchmark_files(benchmarks)])
    write_atomically({output: claims_markdown(judged, where).encode()})
    document = {"source": where.model_dump(), "counts": counts(judged), "claims": claims_values(judged)}
    write_json(output.with_suffix(".json"), document, provenance)
    return judged


def judge_claims(metrics: Path, benchmarks: Path, output: Path, claims: Path = SHIPPED_CLAIMS) -> None:
    """Write what `write_claims` writes, and print how many claims have each verdict."""
    print(f"{output}: {counts_line(write_claims(metrics, benchmarks, output, claims))}", flush=True)


def counts(judged: Sequence[JudgedClaim]) -> dict[str, int]:
    """Return how many claims have each verdict, and how many are fragile."""
    found = Counter(one.verdict for one in judged)
    return {str(verdict): found[verdict] for verdict in Verdict} | {
        "FRAGILE": sum(one.fragile for one in judged)
    }


def counts_line(judged: Sequence[JudgedClaim]) -> str:
    """Return the counts as one line, a deviation no smaller than a pass."""
    return " · ".join(f"**{count} {name}**" for name, count in counts(judged).items())


def claims_markdown(judged: Sequence[JudgedClaim], source: Source) -> str:
    """Return all claims as a page: the verdicts in the order of the claims, then how to check each."""
    fragile = [line for one in judged if one.fragile for line in _flip_lines(one)]
    tested = sorted({assumption for one in judged for assumption in one.tested})
    lines = [
        "# What the paper claims, and what came out here",
        "",
        f"{counts_line(judged)}, of {len(judged)} claims; {source.machine} ({source.backend}).",
        "",
        RULES,
        "",
        *markdown_table(CLAIM_HEADER, map(_row, judged)),
        "",
        "## Where verdicts change",
        "",
        *(fragile or ["No verdict changes inside the ranges that were tried."]),
        "",
        *_unexamined_lines(judged),
        f"Assumptions that were varied: {', '.join(tested) or 'none, for want of sensitivity.csv'}. "
        "Latencies, quotients of gains and benchmarks were not tried.",
        "",
        "## How to check a claim",
        "",
        *markdown_table(("claim", "command", "minutes", "file"), (_command_row(one.claim) for one in judged)),
    ]
    return "\n".join(lines) + "\n"


def claims_values(judged: Sequence[JudgedClaim]) -> list[dict[str, Any]]:
    """Return the claims as plain values, with None where there is no number."""
    return [
        {
            "id": one.claim.id,
            "statement": one.claim.statement,
            "metric": one.claim.metric.model_dump(),
            "rule": one.claim.rule,
            "unit": one.claim.unit,
            "paper_value": one.claim.value,
            "accepted": [_plain(end) for end in one.claim.accepted],
            "verdict": str(one.verdict),
            "fragile": one.fragile,
            "reason": one.reason,
            **_interval_values(one.found),
            "beside": {name: _interval_values(found) for name, found in one.beside.items()},
            "tested": list(one.tested),
            "unexamined": {name: list(workloads) for name, workloads in one.unexamined.items()},
            "flips": list(one.flips),
            "validated": one.validated,
            "command": one.claim.command,
            "minutes": one.claim.minutes,
            "output": one.claim.output,
        }
        for one in judged
    ]


def _row(one: JudgedClaim) -> tuple[str, ...]:
    claim = one.claim
    verdict = f"**{one.verdict}**" + (" **FRAGILE**" if one.fragile else "")
    if not one.validated and one.verdict is not Verdict.NOT_COMPUTED:
        verdict += f" ({UNVALIDATED})"
    reason = one.reason
    if one.verdict is Verdict.NOT_COMPUTED:
        reason += f"; run `{claim.command}`"
    elif one.unexamined and not one.tested:
        reason += f"; whether it is fragile was {UNEXAMINED}"
    beside = "; ".join(f"{name}: {_interval_text(found)}" for name, found in one.beside.items()) or NONE
    return (
        f"`{claim.id}`",
        claim.statement,
        f"{number(claim.value)} {claim.unit}".strip(),
        _range_text(claim.accepted),
        _interval_text(one.found),
        verdict,
        reason,
        beside,
    )


def _flip_lines(one: JudgedClaim) -> list[str]:
    return [f"- `{one.claim.id}`, {one.verdict}: {flip}" for flip in one.flips]


def _unexamined_lines(judged: Sequence[JudgedClaim]) -> list[str]:
    """Return which claims were not tried under which assumptions, those of one workload in one line."""
    claims: dict[tuple[str, str], list[str]] = {}
    for one in judged:
        by_workloads: dict[str, list[str]] = {}
        for assumption, workloads in one.unexamined.items():
            by_workloads.setdefault(", ".join(workloads), []).append(assumption)
        for workloads_text, assumptions in by_workloads.items():
            claims.setdefault((workloads_text, ", ".join(assumptions)), []).append(f"`{one.claim.id}`")
    lines = [
        f"- {', '.join(ids)}: {UNEXAMINED}, as varied for {workloads} only: {assumptions}"
        for (workloads, assumptions), ids in claims.items()
    ]
    return [*lines, ""] if lines else []


def _command_row(claim: Claim) -> tuple[str, ...]:
    minutes = NONE if claim.minutes is None else number(claim.minutes)
    return f"`{claim.id}`", f"`{claim.command}`", minutes, f"`{claim.output}`"


def _range_text(accepted: tuple[float, float]) -> str:
    low, high = accepted
    return f"{number(low)} … {number(high)}" if isfinite(high) else f"≥ {number(low)}"


def _interval_text(found: Interval) -> str:
    if isnan(found.mean):
        return NONE
    if isnan(found.low):
        return f"{number(found.mean)}, no interval (n = {found.count})"
    return f"{number(found.mean)} [{number(found.low)}, {number(found.high)}], n = {found.count}"


def _interval_values(found: Interval) -> dict[str, Any]:
    values = asdict(found)
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: float) -> float | None:
    return value if isfinite(value) else None


def _benchmark_files(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return [path for path in paths if not path.name.endswith(".provenance.json")]

"""What LoadGen wrote about a run: its trace and its verdict, and the run's records by its clock."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veltair.serving.query import QueryRecord

TRACE_FILE = "mlperf_log_trace.json"
DETAIL_FILE = "mlperf_log_detail.txt"

# The trace is no valid JSON ({"key":""loadgen_version""}), so it is read line by line. `ts` is the scheduled
# time in microseconds with three decimals, that is whole ns; the others are ns after it.
_SAMPLE_START = '{"name":"Sample","cat":"default","ph":"b"'
_SAMPLE = re.compile(
    r'"ts":(?P<us>\d+)\.(?P<ns>\d{3}),"args":\{"sample_seq":(?P<sequence>\d+),"query_seq":\d+,'
    r'"sample_idx":(?P<sample>\d+),"issue_start_ns":(?P<issue>-?\d+),"complete_ns":(?P<complete>-?\d+)\}\},?$'
)
_LAST_LINE = '{"name":"LastTrace"}'
_DETAIL_PREFIX = ":::MLLOG "


class LoadGenError(RuntimeError):
    """LoadGen did not run to its end, or its logs are not those of a whole run."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Each query of a run as LoadGen saw it; all arrays have shape (queries,), in the order of issue.

    `scheduled_ns` is from the first query. `issue_delay_ns` and `latency_ns` count from the scheduled time,
    so that no wait is left out because LoadGen itself was late; `latency_ns` is the official latency.
    """

    scheduled_ns: NDArray[np.int64]
    sample_index: NDArray[np.int64]
    issue_delay_ns: NDArray[np.int64]
    latency_ns: NDArray[np.int64]

    def __post_init__(self) -> None:
        lengths = [
            len(self.scheduled_ns),
            len(self.sample_index),
            len(self.issue_delay_ns),
            len(self.latency_ns),
        ]
        if len(set(lengths)) != 1 or not lengths[0]:
            raise ValueError(
                f"Trace: arrays of lengths {lengths}; give one entry a query, and a query at least"
            )

    def __len__(self) -> int:
        return len(self.scheduled_ns)

    def issue_delay_s(self, percentile: float) -> float:
        """Return a percentile (0 to 100) of how long after its scheduled time a query was issued."""
        return float(np.percentile(self.issue_delay_ns, percentile)) / 1e9


@dataclass(frozen=True, slots=True)
class Verdict:
    """LoadGen's own judgement of a run; `valid` is None where it has no one meaning, and `reason` says why.

    `query_count` and `late_count` (over the target latency) are LoadGen's.
    """

    valid: bool | None
    reason: str
    query_count: int
    late_count: int


@dataclass(frozen=True, slots=True)
class LoadGenSummary:
    """What LoadGen says about a run that ended.

    `origin_s` is when its first query was scheduled, on the clock of time.monotonic(); `delivery_p50_s` and
    `delivery_p99_s` are how long arrivals took from LoadGen's callback to ours. `problem` says why LoadGen's
    own delay spoils the run and what to do, "" if it does not.
    """

    trace: Trace
    verdict: Verdict
    origin_s: float
    issue_delay_p50_s: float
    issue_delay_p99_s: float
    delivery_p50_s: float
    delivery_p99_s: float
    problem: str


def read_trace(path: Path) -> Trace:
    """Return the queries of LoadGen's mlperf_log_trace.json.

    Raises LoadGenError where the file is cut off, has a line of another shape, or lacks a query.
    """
    rows = _sample_rows(path)
    sequences = [row[0] for row in rows]
    if sequences != list(range(len(rows))):
        raise LoadGenError(
            f"{path}: {len(rows)} queries, but not each of 0 ... {len(rows) - 1} once; repeat the run"
        )
    _, at_ns, sample, issue, complete = np.array(rows, dtype=np.int64).T
    return Trace(at_ns - at_ns[0], sample, issue, complete)


def read_verdict(path: Path, sample_models: Sequence[str]) -> Verdict:
    """Return LoadGen's verdict of mlperf_log_detail.txt.

    It judges every query by one target latency: with two models or more it has no one meaning, and `valid` is
    None. Raises LoadGenError where the log ends before the verdict.
    """
    entries = _detail_entries(path)
    try:
        validity, count, late = (
            entries[key]
            for key in ("result_validity", "result_query_count", "result_overlatency_query_count")
        )
    except KeyError as error:
        raise LoadGenError(f"{path} lacks {error.args[0]}: the run did not end; repeat it") from error
    models = list(dict.fromkeys(sample_models))
    if len(models) > 1:
        reason = f"one target latency for {len(models)} models ({', '.join(models)})"
        return Verdict(None, reason, int(count), int(late))
    return Verdict(validity == "VALID", _verdict_reason(entries), int(count), int(late))


def summarize(
    trace: Trace,
    verdict: Verdict,
    target_latency_s: float,
    sent_ns: NDArray[np.int64],
    received_s: NDArray[np.float64],
) -> LoadGenSummary:
    """Return what LoadGen says about a run, once it agrees with the arrivals that were seen.

    They left LoadGen's callback at `sent_ns` and came at `received_s`: shape (queries,), in the order of
    issue, on the clock of time.monotonic(). Raises LoadGenError where the counts differ.
    """
    if not len(trace) == len(sent_ns) == verdict.query_count:
        raise LoadGenError(
            f"{len(sent_ns)} arrivals, but {len(trace)} queries in LoadGen's trace and {verdict.query_count} "
            "in its verdict; repeat the run"
        )
    # A callback runs after the issue that LoadGen noted, the promptest one hardly so.
    origin_ns = int((sent_ns - trace.scheduled_ns - trace.issue_delay_ns).min())
    delivery_p50_s, delivery_p99_s = np.percentile(received_s - sent_ns / 1e9, [50, 99]).tolist()
    return LoadGenSummary(
        trace=trace,
        verdict=verdict,
        origin_s=origin_ns / 1e9,
        issue_delay_p50_s=trace.issue_delay_s(50),
        issue_delay_p99_s=trace.issue_delay_s(99),
        delivery_p50_s=delivery_p50_s,
        delivery_p99_s=delivery_p99_s,
        problem=delay_problem(trace, target_latency_s),
    )


def join(
    records: Sequence[QueryRecord], trace: Trace, sample_models: Sequence[str], origin_s: float = 0.0
) -> tuple[QueryRecord, ...]:
    """Return the records of a run with LoadGen's times, in the order of issue.

    Arrival and end become LoadGen's, so that `latency_s` is the official latency; `origin_s` is when
    LoadGen's first query was scheduled, on the clock of the records. All else stays the engine's: above all
    the ending, as LoadGen sees a rejection as a fast answer. Query ids are LoadGen's sequence numbers.
    Raises ValueError unless there is one record for each query of the trace, of the same model.
    """
    if int(trace.sample_index.max()) >= len(sample_models):
        raise ValueError(
            f"LoadGen asked for sample {trace.sample_index.max()}, but only {len(sample_models)} samples "
            "have a model; give the sample_models of the same run"
        )
    by_id = {record.query.id: record for record in records}
    if len(records) != len(trace) or by_id.keys() != set(range(len(trace))):
        raise ValueError(
            f"{len(records)} records of {len(by_id)} queries, but LoadGen issued {len(trace)}; "
            "give one record a query, with LoadGen's sequence numbers (0, 1, ...) as ids"
        )
    return tuple(
        _by_loadgen(by_id[number], sample_models[sample], origin_s + at_ns / 1e9, latency_ns / 1e9)
        for number, (sample, at_ns, latency_ns) in enumerate(
            zip(
                trace.sample_index.tolist(),
                trace.scheduled_ns.tolist(),
                trace.latency_ns.tolist(),
                strict=True,
            )
        )
    )


def delay_problem(trace: Trace, tightest_qos_s: float, share: float = 0.05) -> str:
    """Return why LoadGen's own delay spoils the run, or "" where it does not.

    It does where the 99th percentile of the issue delay exceeds `share` of the tightest latency target.
    """
    delay_s, limit_s = trace.issue_delay_s(99), share * tightest_qos_s
    if delay_s <= limit_s:
        return ""
    return (
        f"LoadGen issued 1 % of the queries more than {delay_s * 1e3:.2f} ms late, over {share:.0%} of the "
        f"tightest latency target ({limit_s * 1e3:.2f} ms): keep a core free for it, stop other programs, "
        "or lower the rate"
    )


def _sample_rows(path: Path) -> list[tuple[int, ...]]:
    """Return (sequence, scheduled ns, sample, issue delay ns, latency ns) of each query, by sequence."""
    rows, complete = [], False
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                complete = complete or line.startswith(_LAST_LINE)
                if line.startswith(_SAMPLE_START):
                    rows.append(_sample_row(line, f"{path}, line {number}"))
    except OSError as error:
        raise LoadGenError(
            f"{path} cannot be read ({error.strerror}); run LoadGen with enable_trace"
        ) from error
    if complete and not rows:
        raise LoadGenError(
            f"{path} has no query as LoadGen 6 writes it; install the version of requirements.txt"
        )
    if not complete:
        raise LoadGenError(
            f"{path} is cut off after {len(rows)} queries; the disk may be full: repeat the run"
        )
    return sorted(rows)


def _sample_row(line: str, where: str) -> tuple[int, ...]:
    match = _SAMPLE.search(line.rstrip())
    if match is None:
        raise LoadGenError(f"{where}: not a query as LoadGen 6 writes it: {line[:200]!r}; repeat the run")
    at_ns = int(match["us"]) * 1000 + int(match["ns"])
    return (
        int(match["sequence"]),
        at_ns,
        int(match["sample"]),
        int(match["issue"]),
        int(match["complete"]),
    )


def _detail_entries(path: Path) -> dict[str, Any]:
    """Return the last value of each key of mlperf_log_detail.txt."""
    entries: dict[str, Any] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise LoadGenError(f"{path} cannot be read ({error.strerror}); repeat the run") from error
    for line in lines:
        try:
            entry = json.loads(line.removeprefix(_DETAIL_PREFIX))
            entries[entry["key"]] = entry["value"]
        except (ValueError, LookupError, TypeError):
            continue
    return entries


def _verdict_reason(entries: dict[str, Any]) -> str:
    conditions = {
        "result_perf_constraints_met": "too many queries over the target latency",
        "result_min_duration_met": "shorter than the minimum duration",
        "result_min_queries_met": "fewer queries than the minimum",
        "early_stopping_met": "too few queries for the share of late ones (early stopping)",
    }
    return "; ".join(text for key, text in conditions.items() if entries.get(key) is False)


def _by_loadgen(record: QueryRecord, model: str, arrival_s: float, latency_s: float) -> QueryRecord:
    if record.query.model != model:
        raise ValueError(
            f"query {record.query.id} is recorded for {record.query.model}, but LoadGen asked for a sample "
            f"of {model}; give the records and the sample_models of the same run"
        )
    end_s = arrival_s + latency_s
    start_s = min(max(record.start_s, arrival_s), end_s) if record.blocks else end_s
    return replace(record, query=replace(record.query, arrival_s=arrival_s), start_s=start_s, end_s=end_s)

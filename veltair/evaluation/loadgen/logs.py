"""What LoadGen wrote about a run: its log of queries and its verdict; and the run's records by its clock."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from veltair.machine.workers.priorities import Promptness
from veltair.serving.loop.query import QueryRecord

TRACE_FILE = "mlperf_log_trace.json"
DETAIL_FILE = "mlperf_log_detail.txt"
LOG_FILES = (TRACE_FILE, DETAIL_FILE, "mlperf_log_summary.txt", "mlperf_log_accuracy.json")
LOADGEN = "LoadGen"
MIXED = "*"  # stands for the tenant of a run in which one LoadGen asks for several models

# The log of queries is no valid JSON ({"key":""loadgen_version""}), so it is read line by line. `ts` is the
# scheduled time in microseconds with three decimals, that is whole ns; the others are ns after it.
_SAMPLE_START = '{"name":"Sample","cat":"default","ph":"b"'
_SAMPLE = re.compile(
    r'"ts":(?P<us>\d+)\.(?P<ns>\d{3}),"args":\{"sample_seq":(?P<sequence>\d+),"query_seq":\d+,'
    r'"sample_idx":(?P<sample>\d+),"issue_start_ns":(?P<issue>-?\d+),"complete_ns":(?P<complete>-?\d+)\}\},?$'
)
_LAST_LINE = '{"name":"LastTrace"}'
_DETAIL_PREFIX = ":::MLLOG "
_SUMS = (
    "result_query_count",
    "result_overlatency_query_count",
    "effective_target_latency_ns",
    "result_mean_latency_ns",
    "result_95.00_percentile_latency_ns",
)


class LoadGenError(RuntimeError):
    """LoadGen did not run to its end, or its logs are not those of a whole run."""


@dataclass(frozen=True, slots=True, eq=False)
class QueryLog:
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
                f"QueryLog: arrays of lengths {lengths}; give one entry a query, and a query at least"
            )

    def __len__(self) -> int:
        return len(self.scheduled_ns)

    def issue_delay_s(self, percentile: float) -> float:
        """Return a percentile (0 to 100) of how long after its scheduled time a query was issued."""
        return float(np.percentile(self.issue_delay_ns, percentile)) / 1e9


@dataclass(frozen=True, slots=True)
class LoadGenResult:
    """LoadGen's own judgement of a run, and the sums of its detail log.

    `valid` is None where it has no one meaning, and `reason` says why. `late_count` is that of queries over
    `target_latency_ns`. The mean is in whole ns, rounded down, and the 95th percentile is the latency at
    position floor(0.95 x queries) of all in order, counted from 0, both as LoadGen works them out.
    """

    valid: bool | None
    reason: str
    query_count: int
    late_count: int
    target_latency_ns: int
    mean_latency_ns: int
    p95_latency_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class Stamps:
    """When the queries of a run passed by here, on the monotonic clock; shape (queries,), in order of issue.

    `sent_ns` is in LoadGen's callback, after LoadGen noted the issue; `received_s` in this process;
    `completed_ns` before LoadGen was told of the end.
    """

    sent_ns: NDArray[np.int64]
    received_s: NDArray[np.float64]
    completed_ns: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LoadGenSummary:
    """What LoadGen says about a run that ended.

    `origin_s` is when its first query was scheduled, on the clock of time.monotonic(); `delivery_p50_s` and
    `delivery_p99_s` are how long arrivals took from LoadGen's callback to ours. `problem` says why LoadGen's
    own delay spoils the run and what to do, "" if it does not; `promptness` how its threads were put before
    others. `sample_models` and `client`, who sent the queries, are those of the run.
    """

    log: QueryLog
    verdict: LoadGenResult
    sample_models: tuple[str, ...]
    origin_s: float
    issue_delay_p50_s: float
    issue_delay_p99_s: float
    delivery_p50_s: float
    delivery_p99_s: float
    problem: str
    promptness: Promptness = Promptness.NORMAL
    client: str = LOADGEN

    @property
    def verdicts(self) -> dict[str, LoadGenResult]:
        """LoadGen's verdict by the model it is about; that of a mixed run has the name "*"."""
        models = set(self.sample_models)
        return {models.pop() if len(models) == 1 else MIXED: self.verdict}

    def join(self, records: Sequence[QueryRecord], zero_s: float) -> tuple[QueryRecord, ...]:
        """Return the records of the run with LoadGen's times, in the order of issue.

        Arrival and end become LoadGen's, so that `latency_s` is the official latency; all else, the ending
        above all, stays the engine's. `zero_s` is when the clock of the records read 0, on that of
        time.monotonic(). Raises LoadGenError where count, mean, 95th percentile or number of late queries
        differ from LoadGen's detail log, ValueError unless there is one record for each of its queries.
        """
        joined = _join(records, self.log, self.sample_models, self.origin_s - zero_s)
        check_latencies([record.latency_s for record in joined], self.verdict, "the query records")
        return joined


def read_query_log(path: Path) -> QueryLog:
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
    return QueryLog(at_ns - at_ns[0], sample, issue, complete)


def read_verdict(path: Path, sample_models: Sequence[str]) -> LoadGenResult:
    """Return LoadGen's verdict of mlperf_log_detail.txt.

    It judges every query by one target latency: with two models or more it has no one meaning, and `valid` is
    None. Raises LoadGenError where the log ends before the verdict.
    """
    entries = _detail_entries(path)
    try:
        validity = entries["result_validity"]
        sums = [int(entries[key]) for key in _SUMS]
    except KeyError as error:
        raise LoadGenError(f"{path} lacks {error.args[0]}: the run did not end; repeat it") from error
    models = list(dict.fromkeys(sample_models))
    if len(models) > 1:
        return LoadGenResult(
            None, f"one target latency for {len(models)} models ({', '.join(models)})", *sums
        )
    return LoadGenResult(validity == "VALID", _verdict_reason(entries), *sums)


def summarize(
    log: QueryLog,
    verdict: LoadGenResult,
    sample_models: Sequence[str],
    tightest_qos_s: float,
    stamps: Stamps,
    promptness: Promptness = Promptness.NORMAL,
    client: str = LOADGEN,
) -> LoadGenSummary:
    """Return what LoadGen says about a run, once it agrees with what was seen of it here.

    Raises LoadGenError where the numbers of queries differ, or where LoadGen's clock was set in the run.
    """
    seen, completed = len(stamps.sent_ns), len(stamps.completed_ns)
    if not len(log) == seen == completed == verdict.query_count:
        raise LoadGenError(
            f"{seen} arrivals and {completed} completions, but {len(log)} queries in LoadGen's trace and "
            f"{verdict.query_count} in its verdict; repeat the run"
        )
    origin_ns = _origin_ns(log, stamps)
    delivery_s = stamps.received_s - stamps.sent_ns / 1e9
    delivery_p50_s, delivery_p99_s = np.percentile(delivery_s, [50, 99]).tolist()
    return LoadGenSummary(
        log=log,
        verdict=verdict,
        sample_models=tuple(sample_models),
        origin_s=origin_ns / 1e9,
        issue_delay_p50_s=log.issue_delay_s(50),
        issue_delay_p99_s=log.issue_delay_s(99),
        delivery_p50_s=delivery_p50_s,
        delivery_p99_s=delivery_p99_s,
        problem=delay_problem(log, tightest_qos_s, client=client),
        promptness=promptness,
        client=client,
    )


def check_latencies(latencies_s: ArrayLike, verdict: LoadGenResult, where: str) -> None:
    """Raise LoadGenError unless latencies, in seconds, add up to what LoadGen's detail log says of the run.

    Count, mean, 95th percentile and number of late queries are compared for equality, in whole ns as LoadGen
    has them: a latency is rounded to those first. `where` names what the latencies are of.
    """
    latency_ns = np.sort(np.rint(np.asarray(latencies_s, dtype=np.float64) * 1e9).astype(np.int64))
    count = len(latency_ns)
    pairs = [("the number of queries", count, verdict.query_count)]
    if count:
        late = int((latency_ns > verdict.target_latency_ns).sum())
        target = f"over {verdict.target_latency_ns} ns"
        pairs += [
            ("the mean latency in ns", int(latency_ns.sum()) // count, verdict.mean_latency_ns),
            ("the p95 latency in ns", int(latency_ns[int(count * 0.95)]), verdict.p95_latency_ns),
            (f"the number of queries {target}", late, verdict.late_count),
        ]
    for quantity, ours, loadgens in pairs:
        if ours != loadgens:
            raise LoadGenError(
                f"{where}: {quantity} is {ours}, but {loadgens} in LoadGen's detail log; "
                "give the records and the logs of one run, whole"
            )


def _join(
    records: Sequence[QueryRecord], log: QueryLog, sample_models: Sequence[str], origin_s: float = 0.0
) -> tuple[QueryRecord, ...]:
    """Return the records of a run with LoadGen's times, in the order of issue.

    Arrival and end become LoadGen's, so that `latency_s` is the official latency; `origin_s` is when
    LoadGen's first query was scheduled, on the clock of the records. All else stays the engine's: above all
    the ending, as LoadGen sees a rejection as a fast answer. Query ids are LoadGen's sequence numbers.
    Raises ValueError unless there is one record for each query of the log, of the same model.
    """
    if int(log.sample_index.max()) >= len(sample_models):
        raise ValueError(
            f"LoadGen asked for sample {log.sample_index.max()}, but only {len(sample_models)} samples "
            "have a model; give the sample_models of the same run"
        )
    by_id = {record.query.id: record for record in records}
    if len(records) != len(log) or by_id.keys() != set(range(len(log))):
        raise ValueError(
            f"{len(records)} records of {len(by_id)} queries, but LoadGen issued {len(log)}; "
            "give one record a query, with LoadGen's sequence numbers (0, 1, ...) as ids"
        )
    columns = (log.sample_index.tolist(), log.scheduled_ns.tolist(), log.latency_ns.tolist())
    return tuple(
        _by_loadgen(by_id[number], sample_models[sample], origin_s + at_ns / 1e9, latency_ns / 1e9)
        for number, (sample, at_ns, latency_ns) in enumerate(zip(*columns, strict=True))
    )


def _origin_ns(log: QueryLog, stamps: Stamps) -> int:
    """Return when LoadGen's first query was scheduled, in ns of the monotonic clock.

    LoadGen reads the system's clock, which may be set. But it notes an issue before its callback stamps it,
    and an end after it was told: that bounds the origin from both sides, by every query anew, and bounds
    that exclude each other are a clock that jumped. Of the upper ones the promptest callback's is close.
    """
    upper_ns = stamps.sent_ns - log.scheduled_ns - log.issue_delay_ns
    lower_ns = stamps.completed_ns - log.scheduled_ns - log.latency_ns
    origin_ns, jump_ns = int(upper_ns.min()), int(lower_ns.max() - upper_ns.min())
    if jump_ns > 0:
        raise LoadGenError(
            f"the system's clock, which LoadGen reads, was set by {jump_ns / 1e9:.3g} s or more during the "
            "run, so that its latencies are wrong; let nobody set or suspend the machine's clock, and repeat "
            "the run"
        )
    return origin_ns


def delay_problem(log: QueryLog, tightest_qos_s: float, share: float = 0.05, client: str = LOADGEN) -> str:
    """Return why the client's own delay spoils the run, or "" where it does not.

    It does where the 99th percentile of the issue delay exceeds `share` of the tightest latency target.
    """
    delay_s, limit_s = log.issue_delay_s(99), share * tightest_qos_s
    if delay_s <= limit_s:
        return ""
    return (
        f"{client} issued 1 % of the queries more than {delay_s * 1e3:.2f} ms late, over {share:.0%} of the "
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
    return record._replace(query=record.query._replace(arrival_s=arrival_s), start_s=start_s, end_s=end_s)

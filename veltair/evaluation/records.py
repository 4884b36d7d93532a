"""Query records as a tidy table: the one thing that every metric is computed from."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from veltair.evaluation.trace import MIXED, Verdict, check_latencies
from veltair.provenance import write_atomically
from veltair.serving.query import Ending, Query, QueryRecord

RUN_COLUMNS = ("backend", "machine", "validated", "workload", "policy", "qps", "seed")
DTYPES = {
    "backend": "str",
    "machine": "str",
    "validated": "bool",
    "workload": "str",
    "policy": "str",
    "qps": "float64",
    "seed": "int64",
    "query_id": "int64",
    "model": "str",
    "arrival_s": "float64",
    "qos_s": "float64",
    "ending": "str",
    "start_s": "float64",
    "end_s": "float64",
    "latency_s": "float64",
    "on_time": "bool",
    "blocks": "int64",
    "conflicts": "int64",
    "core_s": "float64",
    "reason": "str",
    "counted": "bool",
}


@dataclass(frozen=True, slots=True)
class Run:
    """What one run was: its backend and machine, and what was offered to which policy.

    `qps` is the offered rate, `seed` that of the arrivals. `validated` is the machine's.
    """

    backend: str
    machine: str
    validated: bool
    workload: str
    policy: str
    qps: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.qps < float("inf"):
            raise ValueError(
                f"Run of {self.policy} on {self.workload}: qps is {self.qps}; give a rate above 0"
            )

    def __str__(self) -> str:
        unvalidated = "" if self.validated else ", UNVALIDATED"
        return (
            f"{self.policy}, {self.workload} at {self.qps:.4g} queries/s, seed {self.seed}; "
            f"{self.backend}, {self.machine}{unvalidated}"
        )


def to_frame(records: Iterable[QueryRecord], run: Run, count_from_s: float = 0.0) -> pd.DataFrame:
    """Return one row a query, ordered by query id, with the columns and types of `DTYPES`.

    Queries that arrive before `count_from_s` are warm-up: kept, but not counted. Raises ValueError if a query
    ended twice.
    """
    ordered = sorted(records, key=lambda record: record.query.id)
    rows = [_row(record, count_from_s) for record in ordered]
    for column, value in asdict(run).items():
        for row in rows:
            row[column] = value
    frame = pd.DataFrame(rows, columns=list(DTYPES)).astype(DTYPES)
    twice = frame.loc[frame["query_id"].duplicated(), "query_id"]
    if len(twice):
        raise ValueError(
            f"queries {sorted(twice)[:5]} of {run.policy} have two records; each query ends once"
        )
    return frame


def to_records(frame: pd.DataFrame) -> list[QueryRecord]:
    """Return the records of one run, in the order of the frame's rows. Raises ValueError on several runs."""
    check_columns(frame, DTYPES, "query records")
    _check_one_run(frame)
    return [
        QueryRecord(
            Query(row["query_id"], row["model"], row["arrival_s"], row["qos_s"]),
            Ending(row["ending"]),
            row["start_s"],
            row["end_s"],
            row["blocks"],
            row["conflicts"],
            row["core_s"],
            row["reason"],
        )
        for row in frame.to_dict("records")
    ]


def write_records(frame: pd.DataFrame, path: Path) -> None:
    """Write records as Parquet: whole or not at all. Raises ValueError on missing columns."""
    write_atomically({path: _parquet(frame)})


def write_run(frame: pd.DataFrame, verdicts: Mapping[str, Verdict], path: Path) -> None:
    """Write the records of one run of LoadGen as Parquet, once they add up to its detail log.

    `verdicts` are those of the run's summary. Count, mean, p95 and number of late queries of each tenant are
    those of the bytes to be written, read back. Raises LoadGenError, which names the quantity and both
    values, where one differs, and ValueError on several runs, missing columns or a model without a verdict;
    then no file is written.
    """
    content = _parquet(frame)
    written = pd.read_parquet(io.BytesIO(content))
    _check_one_run(written)
    unjudged = [] if MIXED in verdicts else sorted({*written["model"]}.difference(verdicts))
    if unjudged:
        raise ValueError(f"no verdict on {', '.join(unjudged)}; give the verdicts of the run's own summary")
    for tenant, verdict in verdicts.items():
        own = written if tenant == MIXED else written[written["model"] == tenant]
        check_latencies(own["latency_s"].to_numpy(), verdict, f"{path}, tenant {tenant}")
    write_atomically({path: content})


def read_records(path: Path) -> pd.DataFrame:
    """Return records written by `write_records`. Raises ValueError on missing columns."""
    frame = pd.read_parquet(path)
    check_columns(frame, DTYPES, str(path))
    return frame[list(DTYPES)].astype(DTYPES)


def check_columns(frame: pd.DataFrame, columns: Iterable[str], name: str) -> None:
    """Raise ValueError if the frame lacks columns, naming them."""
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(f"{name}: columns {missing} are missing; see results/README.md")


def _parquet(frame: pd.DataFrame) -> bytes:
    check_columns(frame, DTYPES, "query records")
    content = io.BytesIO()
    frame[list(DTYPES)].to_parquet(content, index=False)
    return content.getvalue()


def _check_one_run(frame: pd.DataFrame) -> None:
    if len(frame[list(RUN_COLUMNS)].drop_duplicates()) > 1:
        raise ValueError("the table holds several runs, whose query ids repeat; select one run first")


def _row(record: QueryRecord, count_from_s: float) -> dict[str, object]:
    query = record.query
    return {
        "query_id": query.id,
        "model": query.model,
        "arrival_s": query.arrival_s,
        "qos_s": query.qos_s,
        "ending": str(record.ending),
        "start_s": record.start_s,
        "end_s": record.end_s,
        "latency_s": record.latency_s,
        "on_time": record.on_time,
        "blocks": record.blocks,
        "conflicts": record.conflicts,
        "core_s": record.core_s,
        "reason": record.reason,
        "counted": query.arrival_s >= count_from_s,
    }

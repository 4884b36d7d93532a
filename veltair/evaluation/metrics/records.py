"""Query records as a tidy table: the one thing that every metric is computed from."""

import io
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from veltair.provenance import write_atomically
from veltair.serving.loop.query import Ending, Query, QueryRecord

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
    "tenant": "str",
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
# A record as an object takes several times the bytes of its row: only so many are held at a time.
CHUNK = 16_384
# Where a record has what is not computed from other columns.
SOURCES = {
    "query_id": "query.id",
    "tenant": "query.sender",
    "model": "query.model",
    "arrival_s": "query.arrival_s",
    "qos_s": "query.qos_s",
    "ending": "ending.value",
    "start_s": "start_s",
    "end_s": "end_s",
    "blocks": "blocks",
    "conflicts": "conflicts",
    "core_s": "core_s",
    "reason": "reason",
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

    Queries that arrive before `count_from_s` are warm-up: kept, but not counted. The records are drawn chunk
    by chunk: a million of them take little more memory than the table. Raises ValueError if a query ended
    twice.
    """
    columns = _columns(records)
    order = np.argsort(columns["query_id"], kind="stable")
    columns = {name: values[order] for name, values in columns.items()}
    _check_once(columns["query_id"], run)
    latency_s = columns["end_s"] - columns["arrival_s"]
    columns |= {
        "latency_s": latency_s,
        "on_time": (columns["ending"] == Ending.SERVED.value) & (latency_s <= columns["qos_s"]),
        "counted": columns["arrival_s"] >= count_from_s,
    }
    columns |= {name: _repeated(value, len(order)) for name, value in asdict(run).items()}
    return pd.DataFrame({name: columns[name] for name in DTYPES}).astype(DTYPES)


def to_records(frame: pd.DataFrame) -> list[QueryRecord]:
    """Return the records of one run, in the order of the frame's rows. Raises ValueError on several runs."""
    check_columns(frame, DTYPES, "query records")
    check_one_run(frame)
    return [
        QueryRecord(
            Query(row["query_id"], row["model"], row["arrival_s"], row["qos_s"], _named_tenant(row)),
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
    write_atomically({path: to_parquet(frame)})


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


def to_parquet(frame: pd.DataFrame) -> bytes:
    """Return records as the bytes of a Parquet file. Raises ValueError on missing columns."""
    check_columns(frame, DTYPES, "query records")
    content = io.BytesIO()
    frame[list(DTYPES)].to_parquet(content, index=False)
    return content.getvalue()


def check_one_run(frame: pd.DataFrame) -> None:
    """Raise ValueError if a table holds several runs."""
    if len(frame[list(RUN_COLUMNS)].drop_duplicates()) > 1:
        raise ValueError("the table holds several runs, whose query ids repeat; select one run first")


def _columns(records: Iterable[QueryRecord]) -> dict[str, Any]:
    """Return a column for each of `SOURCES`, in the order of the records; texts are kept once each."""
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in SOURCES}
    codes: dict[str, dict[str, int]] = {name: {} for name in SOURCES if DTYPES[name] == "str"}
    drawn = iter(records)
    while chunk := list(islice(drawn, CHUNK)):
        for name, source in SOURCES.items():
            values: Iterable[Any] = map(attrgetter(source), chunk)
            if name in codes:
                known = codes[name]
                values = (known.setdefault(text, len(known)) for text in values)
            parts[name].append(np.fromiter(values, "int32" if name in codes else DTYPES[name], len(chunk)))
    columns: dict[str, Any] = {}
    for name, arrays in parts.items():
        if name in codes:
            whole = np.concatenate([np.empty(0, "int32"), *arrays])
            columns[name] = pd.Categorical.from_codes(
                whole, categories=pd.Index(list(codes[name]), dtype="str")
            )
        else:
            columns[name] = np.concatenate([np.empty(0, DTYPES[name]), *arrays])
        arrays.clear()
    return columns


def _named_tenant(row: Mapping[Hashable, Any]) -> str:
    """Return a query's tenant, empty where that is its model's only one."""
    return "" if row["tenant"] == row["model"] else str(row["tenant"])


def _repeated(value: object, count: int) -> Any:
    if isinstance(value, str):
        return pd.Categorical.from_codes(np.zeros(count, "int8"), categories=pd.Index([value], dtype="str"))
    return np.full(count, value)


def _check_once(query_ids: NDArray[np.int64], run: Run) -> None:
    """Raise ValueError if an id is twice among ids that ascend."""
    twice = query_ids[1:][query_ids[1:] == query_ids[:-1]]
    if len(twice):
        raise ValueError(
            f"queries {sorted(set(twice.tolist()))[:5]} of {run.policy} have two records; "
            "each query ends once"
        )

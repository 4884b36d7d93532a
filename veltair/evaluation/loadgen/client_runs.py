"""What a process that sends queries is asked for: LoadGen's Server scenario, or times that we have drawn."""

import csv
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from veltair.evaluation.loadgen.arrivals import Seeds, check_server_settings, server_schedule_ns
from veltair.evaluation.loadgen.child import ChildSettings
from veltair.evaluation.loadgen.logs import (
    DETAIL_FILE,
    LOADGEN,
    TRACE_FILE,
    LoadGenError,
    LoadGenResult,
    QueryLog,
    read_query_log,
    read_verdict,
)
from veltair.evaluation.loadgen.own_child import ARRIVALS_FILE, COLUMNS, LOG_FILE, OwnSettings

OWN_CLIENT = "own client, not LoadGen"  # so in tables, figures and errors


class ClientRun(Protocol):
    """One run of a client, as `LoadGenProcess` starts it and reads what it wrote.

    `client` names it in errors and results, `child` is the module that its process runs. `sample_models`
    names the model of each sample index, `target_latency_s` is the tightest latency target.
    """

    @property
    def client(self) -> str: ...  # noqa: D102

    @property
    def child(self) -> str: ...  # noqa: D102

    @property
    def sample_models(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def target_latency_s(self) -> float: ...  # noqa: D102

    @property
    def outdir(self) -> Path: ...  # noqa: D102

    def schedule_ns(self) -> NDArray[np.int64]:
        """Return when queries are scheduled, in ns from the beginning, ascending; shape (queries,)."""

    def settings_text(self) -> str:
        """Return what the process is told, as JSON."""

    def prepare(self) -> None:
        """Write what the process reads into the outdir, which exists. Raises OSError."""

    def read_logs(self) -> tuple[QueryLog, LoadGenResult]:
        """Return what the process wrote. Raises LoadGenError unless it is that of a whole run."""


@dataclass(frozen=True, slots=True)
class ServerRun:
    """One run of LoadGen's Server scenario over one mixed query sample library.

    `sample_models` names the model of each sample index. `target_latency_s` is the latency target of the
    only model, or the tightest of several. `seed` gives LoadGen's three (`Seeds.derive`): `server_queries`
    with the same settings returns the same queries. `outdir` is made; logs of an earlier run are replaced.
    """

    qps: float
    min_duration_ms: int
    min_query_count: int
    seed: int
    sample_models: tuple[str, ...]
    target_latency_s: float
    outdir: Path

    def __post_init__(self) -> None:
        check_server_settings(self.qps, self.min_duration_ms, self.min_query_count, self.seed)
        _check_run("ServerRun", self.sample_models, self.target_latency_s)

    @property
    def client(self) -> str:
        """LoadGen's name."""
        return LOADGEN

    @property
    def child(self) -> str:
        """The module that runs LoadGen."""
        return "veltair.evaluation.loadgen.child"

    def schedule_ns(self) -> NDArray[np.int64]:
        """Return LoadGen's schedule, in ns from its first query."""
        schedule_seed = Seeds.derive(self.seed).schedule
        return server_schedule_ns(self.qps, self.min_duration_ms, self.min_query_count, schedule_seed)

    def settings_text(self) -> str:
        """Return LoadGen's settings."""
        seeds = Seeds.derive(self.seed)
        settings = ChildSettings(
            qps=float(self.qps),
            min_duration_ms=self.min_duration_ms,
            min_query_count=self.min_query_count,
            schedule_seed=seeds.schedule,
            sample_index_seed=seeds.sample_index,
            qsl_seed=seeds.qsl,
            samples=len(self.sample_models),
            target_latency_ns=round(self.target_latency_s * 1e9),
            outdir=str(self.outdir.resolve()),
        )
        return json.dumps(asdict(settings))

    def prepare(self) -> None:
        """Do nothing: LoadGen draws its queries from its seeds."""

    def read_logs(self) -> tuple[QueryLog, LoadGenResult]:
        """Return LoadGen's log of queries and its verdict. Raises LoadGenError."""
        log = read_query_log(self.outdir / TRACE_FILE)
        return log, read_verdict(self.outdir / DETAIL_FILE, self.sample_models)


@dataclass(frozen=True, slots=True, eq=False)
class DrawnRun:
    """One run of our own client: it sends queries at times that were drawn before, as LoadGen would its own.

    `scheduled_ns` ascends from 0, the first query; `sample_index` is what each asks for; both have shape
    (queries,). The rest is as in `ServerRun`. Nobody but us judges such a run: its verdict is none.
    """

    scheduled_ns: NDArray[np.int64]
    sample_index: NDArray[np.int64]
    sample_models: tuple[str, ...]
    target_latency_s: float
    outdir: Path

    def __post_init__(self) -> None:
        _check_run("DrawnRun", self.sample_models, self.target_latency_s)
        times, samples = self.scheduled_ns, self.sample_index
        if len(times) != len(samples) or not len(times):
            raise ValueError(f"DrawnRun: {len(times)} times for {len(samples)} samples; give one each")
        if times[0] != 0 or (np.diff(times) < 0).any():
            raise ValueError("DrawnRun: times do not ascend from 0; sort them, counted from the first")
        if not 0 <= int(samples.min()) <= int(samples.max()) < len(self.sample_models):
            raise ValueError(
                f"DrawnRun: sample indices reach from {samples.min()} to {samples.max()}, but there are "
                f"{len(self.sample_models)} samples; give those that they were drawn for"
            )

    @property
    def client(self) -> str:
        """Our own client's name."""
        return OWN_CLIENT

    @property
    def child(self) -> str:
        """The module that sends the queries."""
        return "veltair.evaluation.loadgen.own_child"

    def schedule_ns(self) -> NDArray[np.int64]:
        """Return the times."""
        return self.scheduled_ns

    def settings_text(self) -> str:
        """Return where the process finds the queries, and where it writes what became of them."""
        folder = self.outdir.resolve()
        return json.dumps(asdict(OwnSettings(str(folder / ARRIVALS_FILE), str(folder / LOG_FILE))))

    def prepare(self) -> None:
        """Write the queries for the process, and remove an earlier run's log. Raises OSError."""
        (self.outdir / LOG_FILE).unlink(missing_ok=True)
        with (self.outdir / ARRIVALS_FILE).open("w", newline="") as file:
            rows = zip(self.scheduled_ns.tolist(), self.sample_index.tolist(), strict=True)
            csv.writer(file).writerows([COLUMNS[:2], *rows])

    def read_logs(self) -> tuple[QueryLog, LoadGenResult]:
        """Return what the client noted, and its sums. Raises LoadGenError."""
        path = self.outdir / LOG_FILE
        try:
            with path.open(newline="") as file:
                header, *rows = csv.reader(file)
            columns = np.array(rows, dtype=np.int64).reshape(-1, len(COLUMNS)).T
        except (OSError, ValueError) as error:
            raise LoadGenError(f"{path} is not a log of our own client ({error}); repeat the run") from error
        given = np.stack([self.scheduled_ns, self.sample_index])
        if tuple(header) != COLUMNS or not np.array_equal(columns[:2], given):
            raise LoadGenError(f"{path} is not of the {len(self.scheduled_ns)} queries given; repeat the run")
        log = QueryLog(*columns)
        return log, _unjudged(log, round(self.target_latency_s * 1e9))


def _unjudged(log: QueryLog, target_latency_ns: int) -> LoadGenResult:
    """Return the sums of a log as LoadGen works them out, without a verdict."""
    latencies = np.sort(log.latency_ns)
    return LoadGenResult(
        valid=None,
        reason=OWN_CLIENT,
        query_count=len(log),
        late_count=int((latencies > target_latency_ns).sum()),
        target_latency_ns=target_latency_ns,
        mean_latency_ns=int(latencies.sum()) // len(log),
        p95_latency_ns=int(latencies[int(len(log) * 0.95)]),
    )


def _check_run(what: str, sample_models: tuple[str, ...], target_latency_s: float) -> None:
    if not sample_models:
        raise ValueError(f"{what}: sample_models is empty; give the model of each sample")
    if not (target_latency_s > 0 and math.isfinite(target_latency_s)):
        raise ValueError(f"{what}: target_latency_s is {target_latency_s}; give seconds above 0")

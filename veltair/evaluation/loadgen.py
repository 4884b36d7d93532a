"""MLPerf LoadGen's Server scenario, in a process of its own, against whoever answers in this one.

In its own process because a thread that holds the interpreter for 5 ms makes LoadGen's next query 5 ms late.
The two talk in packets over a Unix socket that nobody else has: where one side dies, the other reads its end.

    LoadGen's process                               this process
    samples loaded       ── READY ──►               on_ready() warms the models up
                         ◄── GO ──
    issue_query          ── ARRIVAL ──►  reader     on_arrival(sequence, sample index, received_s)
    QuerySamplesComplete ◄── sequences ──           complete(sequence)
    flush_queries        ── FLUSH ──►    reader     on_flush(): no more arrivals
    logs written, exit   ── end ──►                 wait() -> LoadGenSummary
"""

import contextlib
import gc
import json
import math
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from veltair.evaluation.arrivals import Seeds, check_server_settings
from veltair.evaluation.trace import (
    DETAIL_FILE,
    TRACE_FILE,
    LoadGenError,
    LoadGenSummary,
    read_trace,
    read_verdict,
    summarize,
)

OUTPUT_FILE = "loadgen_output.txt"
TARGET_PERCENTILE = 0.95

_READY, _ARRIVAL, _FLUSH = range(3)
_MESSAGE = struct.Struct("<IIQq")  # kind, sample index, sequence, sent (ns of the monotonic clock)
_SEQUENCE = struct.Struct("<Q")
_GO = b"go"
_BATCH = 4096
_PACKET_BYTES = _BATCH * _SEQUENCE.size
_START_TIMEOUT_S = 60.0
_EXIT_TIMEOUT_S = 10.0


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
        if not self.sample_models:
            raise ValueError("ServerRun: sample_models is empty; give the model of each sample")
        if not (self.target_latency_s > 0 and math.isfinite(self.target_latency_s)):
            raise ValueError(f"ServerRun: target_latency_s is {self.target_latency_s}; give seconds above 0")


class LoadGenProcess:
    """LoadGen running in a process of its own; a context that leaves no process behind.

    The callbacks of arrivals, flush and failure run on a thread of this object and must return at once: put
    what they are given on a queue. `complete` may be called from any thread.
    """

    def __init__(self, run: ServerRun) -> None:
        self._run = run
        self._process: subprocess.Popen[bytes] | None = None
        self._socket, self._other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._reader: threading.Thread | None = None
        self._open: set[int] = set()
        self._sent_ns: list[int] = []
        self._received_s: list[float] = []
        self._flushed = False
        self._closing = False
        self._failure: LoadGenError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._closing = True
        self._kill()
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join(_EXIT_TIMEOUT_S)
        self._socket.close()
        self._other_end.close()

    def start(
        self,
        *,
        on_ready: Callable[[], None],
        on_arrival: Callable[[int, int, float], None],
        on_flush: Callable[[], None],
        on_failure: Callable[[LoadGenError], None],
    ) -> None:
        """Start LoadGen, call `on_ready` here once its samples are loaded, then let its clock run.

        `on_arrival` is given the query's sequence number (0, 1, ... in the order of issue), its sample index
        and time.monotonic() when it was received; `on_flush` comes after the last one; `on_failure` at most
        once, instead of `on_flush` or after it. Raises LoadGenError if LoadGen does not come up.
        """
        if self._process is not None:
            raise RuntimeError("this LoadGenProcess was started before; make a new one for each run")
        self._spawn()
        self._await_ready()
        on_ready()
        self._reader = threading.Thread(
            target=self._read, args=(on_arrival, on_flush, on_failure), name="loadgen-reader", daemon=True
        )
        self._reader.start()
        self._send(_GO)

    @property
    def pid(self) -> int:
        """Id of LoadGen's process, once started: to pin it to a core that serves no query."""
        if self._process is None:
            raise RuntimeError("this LoadGenProcess was not started; call start first")
        return self._process.pid

    def complete(self, *sequences: int) -> None:
        """Tell LoadGen that these queries have ended, served or rejected: each exactly once.

        Raises LookupError for a query that is not open, LoadGenError if LoadGen is gone.
        """
        for sequence in sequences:
            if sequence not in self._open:
                raise LookupError(f"query {sequence} is not open: it never arrived, or was completed before")
            self._open.remove(sequence)
        for start in range(0, len(sequences), _BATCH):
            batch = sequences[start : start + _BATCH]
            self._send(b"".join(_SEQUENCE.pack(sequence) for sequence in batch))

    def wait(self, timeout_s: float) -> LoadGenSummary:
        """Return LoadGen's summary once it has seen every completion, written its logs and gone.

        Raises LoadGenError if that takes longer than `timeout_s`, or if LoadGen failed.
        """
        if self._reader is None:
            raise RuntimeError("this LoadGenProcess was not started; call start first")
        self._reader.join(timeout_s)
        if self._reader.is_alive():
            state = f"{len(self._sent_ns)} arrivals, {len(self._open)} of them not completed"
            self._closing = True
            self._kill()
            raise LoadGenError(
                f"LoadGen did not end within {timeout_s:g} s ({state}); complete every query or wait longer"
            )
        if self._failure is not None:
            raise self._failure
        return summarize(
            read_trace(self._run.outdir / TRACE_FILE),
            read_verdict(self._run.outdir / DETAIL_FILE, self._run.sample_models),
            self._run.target_latency_s,
            np.array(self._sent_ns, dtype=np.int64),
            np.array(self._received_s, dtype=np.float64),
        )

    def _spawn(self) -> None:
        outdir = self._run.outdir
        # LoadGen with a missing directory reports nothing and aborts at its exit.
        outdir.mkdir(parents=True, exist_ok=True)
        for name in (TRACE_FILE, DETAIL_FILE):
            (outdir / name).unlink(missing_ok=True)
        root = str(Path(__file__).resolve().parents[2])
        search_path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        end = self._other_end.fileno()
        with (outdir / OUTPUT_FILE).open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "veltair.evaluation.loadgen", str(end), _settings_text(self._run)],
                pass_fds=[end],
                env={**os.environ, "PYTHONPATH": search_path},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        # Only the child may hold it now: otherwise its death would not end the stream.
        self._other_end.close()

    def _await_ready(self) -> None:
        self._socket.settimeout(_START_TIMEOUT_S)
        try:
            packet = self._socket.recv(_PACKET_BYTES)
        except TimeoutError:
            self._kill()
            raise LoadGenError(
                f"LoadGen was not ready after {_START_TIMEOUT_S:g} s; {self._output_tail()}"
            ) from None
        except ConnectionError:
            packet = b""
        if not packet:
            raise self._ended()
        self._socket.settimeout(None)

    def _read(
        self,
        on_arrival: Callable[[int, int, float], None],
        on_flush: Callable[[], None],
        on_failure: Callable[[LoadGenError], None],
    ) -> None:
        """Hand packets on until LoadGen's end of the socket closes."""
        try:
            while packet := self._receive():
                received_s = time.monotonic()
                kind, sample, sequence, sent_ns = _MESSAGE.unpack(packet)
                if kind == _FLUSH:
                    self._flushed = True
                    on_flush()
                    continue
                self._sent_ns.append(sent_ns)
                self._received_s.append(received_s)
                self._open.add(sequence)
                on_arrival(sequence, sample, received_s)
            failed = self._exit_code() != 0 or not self._flushed
            self._failure = self._ended() if failed else None
        except Exception as error:
            self._failure = LoadGenError(f"taking an arrival over failed: {error!r}")
            self._failure.__cause__ = error
            self._kill()
        if self._failure is not None and not self._closing:
            on_failure(self._failure)

    def _receive(self) -> bytes:
        # A reset is how the end looks where the other side died with packets unread.
        try:
            return self._socket.recv(_PACKET_BYTES)
        except ConnectionError:
            return b""

    def _send(self, packet: bytes) -> None:
        try:
            self._socket.send(packet)
        except OSError as error:
            raise self._ended() from error

    def _exit_code(self) -> int | None:
        """Return the child's exit code; None if it lives on though it closed the socket."""
        if self._process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_TIMEOUT_S)
        return self._process.returncode

    def _kill(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()

    def _ended(self) -> LoadGenError:
        """Return the error of a LoadGen that ended before its time."""
        code = self._exit_code()
        how = "closed its socket" if code is None else f"exited with status {code}"
        if code is not None and code < 0:
            how = f"was killed by signal {-code}"
        return LoadGenError(
            f"LoadGen's process {how} after {len(self._sent_ns)} arrivals, before the run's end; "
            f"{self._output_tail()}"
        )

    def _output_tail(self) -> str:
        path = self._run.outdir / OUTPUT_FILE
        lines = path.read_text(errors="replace").strip().splitlines()[-5:] if path.exists() else []
        return f"its output ({path}) ends: {' | '.join(lines)}" if lines else f"it printed nothing ({path})"


@dataclass(frozen=True, slots=True)
class _Settings:
    """What the child is told."""

    qps: float
    min_duration_ms: int
    min_query_count: int
    schedule_seed: int
    sample_index_seed: int
    qsl_seed: int
    samples: int
    target_latency_ns: int
    outdir: str


def _settings_text(run: ServerRun) -> str:
    seeds = Seeds.derive(run.seed)
    settings = _Settings(
        qps=float(run.qps),
        min_duration_ms=run.min_duration_ms,
        min_query_count=run.min_query_count,
        schedule_seed=seeds.schedule,
        sample_index_seed=seeds.sample_index,
        qsl_seed=seeds.qsl,
        samples=len(run.sample_models),
        target_latency_ns=round(run.target_latency_s * 1e9),
        outdir=str(run.outdir.resolve()),
    )
    return json.dumps(asdict(settings))


class _Child:
    """LoadGen's side: its system under test and its sample library, which only pass messages on."""

    def __init__(self, settings: _Settings, channel: socket.socket) -> None:
        # Imported here because only this process needs LoadGen: a simulation runs without it.
        import mlperf_loadgen  # noqa: PLC0415

        self._loadgen: Any = mlperf_loadgen
        self._settings = settings
        self._channel = channel
        self._response_ids: dict[int, int] = {}
        self._issued = 0
        self._done = False

    def run(self) -> None:
        loadgen, count = self._loadgen, self._settings.samples
        sut = loadgen.ConstructSUT(_or_exit(self._issue), _or_exit(self._flush))
        qsl = loadgen.ConstructQSL(count, count, _or_exit(self._load), _or_exit(lambda samples: None))
        # An empty name, or ./audit.config would override these settings without a word.
        loadgen.StartTestWithLogSettings(sut, qsl, self._test_settings(), self._log_settings(), "")
        self._done = True
        self._channel.shutdown(socket.SHUT_RDWR)
        loadgen.DestroyQSL(qsl)
        loadgen.DestroySUT(sut)

    def _test_settings(self) -> Any:
        given, settings = self._settings, self._loadgen.TestSettings()
        settings.scenario = self._loadgen.TestScenario.Server
        settings.mode = self._loadgen.TestMode.PerformanceOnly
        settings.server_target_qps = given.qps
        settings.server_target_latency_ns = given.target_latency_ns
        settings.server_target_latency_percentile = TARGET_PERCENTILE
        settings.min_duration_ms = given.min_duration_ms
        settings.min_query_count = given.min_query_count
        settings.schedule_rng_seed = given.schedule_seed
        settings.sample_index_rng_seed = given.sample_index_seed
        settings.qsl_rng_seed = given.qsl_seed
        return settings

    def _log_settings(self) -> Any:
        settings = self._loadgen.LogSettings()
        settings.log_output.outdir = self._settings.outdir
        settings.log_output.copy_summary_to_stdout = False
        settings.enable_trace = True
        return settings

    def _load(self, samples: Sequence[int]) -> None:
        self._tell(_READY)
        if self._channel.recv(_PACKET_BYTES) != _GO:
            raise ConnectionError("the parent left before the run")
        threading.Thread(target=_or_exit(self._complete), name="completions", daemon=True).start()

    def _issue(self, samples: Sequence[Any]) -> None:
        for sample in samples:
            self._response_ids[self._issued] = sample.id
            self._tell(_ARRIVAL, sample.index, self._issued)
            self._issued += 1

    def _flush(self) -> None:
        self._tell(_FLUSH)

    def _tell(self, kind: int, sample: int = 0, sequence: int = 0) -> None:
        self._channel.send(_MESSAGE.pack(kind, sample, sequence, time.monotonic_ns()))

    def _complete(self) -> None:
        response = self._loadgen.QuerySampleResponse
        while packet := self._channel.recv(_PACKET_BYTES):
            ended = [self._response_ids.pop(sequence) for (sequence,) in _SEQUENCE.iter_unpack(packet)]
            self._loadgen.QuerySamplesComplete([response(identity, 0, 0) for identity in ended])
        if not self._done:
            raise ConnectionError("the parent left during the run")


def _or_exit(callback: Callable[..., None]) -> Callable[..., None]:
    """Return `callback`, ending the process where it raises: LoadGen's C++ cannot take an exception."""

    def guarded(*arguments: Any) -> None:
        try:
            callback(*arguments)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    return guarded


def _main(descriptor: str, settings: str) -> None:
    # A collection in the middle of a run would delay a query.
    gc.disable()
    with socket.socket(fileno=int(descriptor)) as channel:
        _Child(_Settings(**json.loads(settings)), channel).run()


if __name__ == "__main__":
    _main(*sys.argv[1:])

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

LoadGen's schedule is known, so a query that is long overdue tells that LoadGen hangs. Every time that is
compared or waited for here is of the monotonic clock.

Where LoadGen cannot draw the arrivals, our own client sends them (`own_child.py`): all of this holds for it
too.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from veltair.evaluation.loadgen.child import (
    BATCH,
    CLOCK_WAS_SET,
    FLUSH,
    GO,
    MESSAGE,
    PACKET_BYTES,
    PROMPTNESS,
    SEQUENCE,
)
from veltair.evaluation.loadgen.child_process import ChildProcess
from veltair.evaluation.loadgen.client_runs import ClientRun
from veltair.evaluation.loadgen.logs import LoadGenError, LoadGenSummary, Stamps, summarize
from veltair.machine.workers.priorities import Promptness, run_promptly

# From the last completion to the end of LoadGen's process, which writes its logs.
END_TIMEOUT_S = 60.0
_TIMEVAL = struct.Struct("@ll")  # seconds, microseconds

OnArrival = Callable[[int, int, float], None]
OnFlush = Callable[[], None]
OnFailure = Callable[[LoadGenError], None]


class SocketReader(Protocol):
    """Whoever reads LoadGen's packets in place of this module's reader: `arrivals` so far, and the flush."""

    @property
    def arrivals(self) -> int:
        """How many queries have come."""

    @property
    def is_flushed(self) -> bool:
        """Whether no more will."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds after which LoadGen's process is given up, by what it does."""

    start_s: float = 60.0
    # LoadGen is seconds late on a machine that is far too busy, and only invalid for it.
    stall_s: float = 30.0
    send_s: float = 10.0
    exit_s: float = 10.0
    tick_s: float = 0.5  # how often a silent LoadGen's reader looks at the clock


class LoadGenProcess:
    """LoadGen, or our own client, in a process of its own; a context that leaves no process behind.

    The callbacks of arrivals, flush and failure run on a thread of this object and must return at once: put
    what they are given on a queue. `complete` may be called from any thread.
    """

    def __init__(self, run: ClientRun, limits: Limits | None = None) -> None:
        self._run = run
        self._limits = limits or Limits()
        self._process = ChildProcess(run)
        self._socket, self._other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The kernel's timeouts cost no further call a packet, and differ by direction.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(self._limits.tick_s))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(self._limits.send_s))
        self._reader: threading.Thread | None = None
        self._other_reader: SocketReader | None = None
        self._schedule_ns: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._began_s = 0.0
        self._open: set[int] = set()
        self._sent_ns: list[int] = []
        self._received_s: list[float] = []
        self._completed_ns: dict[int, int] = {}
        self.promptness = Promptness.NORMAL  # of LoadGen's threads, once it is ready
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
        self._process.kill()
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join(self._limits.exit_s)
        self._socket.close()
        self._other_end.close()

    def start(
        self,
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_arrival: OnArrival,
        on_flush: OnFlush,
        on_failure: OnFailure,
    ) -> None:
        """Start LoadGen, call `on_ready` here once its samples are loaded, then let its clock run.

        `on_arrival` is given the query's sequence number (0, 1, ... in the order of issue), its sample index
        and time.monotonic() when it was received; `on_flush` comes after the last one; `on_failure` at most
        once, instead of `on_flush` or after it. Raises LoadGenError if LoadGen does not come up.
        """
        self.launch()
        self.await_ready()
        on_ready()
        self.listen(on_arrival, on_flush, on_failure)
        self.go()

    def launch(self) -> None:
        """Begin to start the process, the first of the four steps of `start`; several can start at once."""
        if self._process.is_started:
            raise RuntimeError("this LoadGenProcess was started before; make a new one for each run")
        self._process.start(self._other_end)
        self._schedule_ns = self._run.schedule_ns()

    def await_ready(self, timeout_s: float | None = None) -> None:
        """Return once the samples are loaded and LoadGen waits for `go`: the second step."""
        timeout_s = self._limits.start_s if timeout_s is None else timeout_s
        self._socket.settimeout(max(timeout_s, 1e-3))
        try:
            packet = self._socket.recv(PACKET_BYTES)
        except TimeoutError:
            self._process.kill()
            raise LoadGenError(
                f"{self._run.client} was not ready after {timeout_s:.3g} s; stop other programs and repeat "
                f"the run; {self._process.output_tail()}"
            ) from None
        except ConnectionError:
            packet = b""
        if not packet:
            raise self._ended()
        self._socket.settimeout(None)
        _, promptness, _, _ = MESSAGE.unpack(packet)
        self.promptness = PROMPTNESS[promptness]

    def listen(self, on_arrival: OnArrival, on_flush: OnFlush, on_failure: OnFailure) -> None:
        """Hand what LoadGen sends from now on to the callbacks: the third step."""
        self._began_s = time.monotonic()
        self._reader = threading.Thread(
            target=self._read, args=(on_arrival, on_flush, on_failure), name="loadgen-reader", daemon=True
        )
        self._reader.start()

    def go(self) -> None:
        """Let LoadGen's clock run: the last step."""
        self._send(GO)

    def hand_over(self, reader: SocketReader) -> int:
        """Return the descriptor of the socket, which another reads and answers: in place of `listen`.

        It takes packets of MESSAGE in, sends sequences back, calls `check` now and then, and gives `wait` its
        stamps.
        """
        self._began_s, self._other_reader = time.monotonic(), reader
        return self._socket.fileno()

    def check(self, has_left: bool) -> None:
        """Raise LoadGenError if LoadGen, whose socket was handed over, hangs, or has left before its time."""
        if has_left:
            raise self._ended()
        self._check_stall()

    @property
    def pids(self) -> tuple[int, ...]:
        """Id of LoadGen's process, once started: to pin it to a core that serves no query, or to watch it."""
        return (self._process.pid,)

    def complete(self, *sequences: int) -> None:
        """Tell LoadGen that these queries have ended, served or rejected: each exactly once.

        Raises LookupError for a query that is not open, LoadGenError if LoadGen is gone.
        """
        for sequence in sequences:
            if sequence not in self._open:
                raise LookupError(f"query {sequence} is not open: it never arrived, or was completed before")
            self._open.remove(sequence)
            self._completed_ns[sequence] = time.monotonic_ns()
        for start in range(0, len(sequences), BATCH):
            batch = sequences[start : start + BATCH]
            self._send(b"".join(SEQUENCE.pack(sequence) for sequence in batch))

    def wait(self, timeout_s: float) -> LoadGenSummary:
        """Return LoadGen's summary once it has seen every completion, written its logs and gone.

        Raises LoadGenError if that takes longer than `timeout_s`, if LoadGen failed, or if its logs are not
        those of the run that was seen here.
        """
        if self._reader is None:
            raise RuntimeError("this LoadGenProcess was not started; call start first")
        self._reader.join(timeout_s)
        if self._reader.is_alive():
            raise self._not_ended(timeout_s, f", {len(self._open)} of them not completed")
        if self._failure is not None:
            raise self._failure
        completed_ns = [self._completed_ns[number] for number in sorted(self._completed_ns)]
        return self._summary(
            Stamps(
                np.array(self._sent_ns, dtype=np.int64),
                np.array(self._received_s, dtype=np.float64),
                np.array(completed_ns, dtype=np.int64),
            )
        )

    def wait_after(self, stamps: Stamps, timeout_s: float) -> LoadGenSummary:
        """Return what `wait` does, where the socket was handed over: `stamps` are its reader's."""
        code = self._process.exit_code(timeout_s)
        if code is None:
            raise self._not_ended(timeout_s, "")
        if code != 0:
            raise self._ended()
        return self._summary(stamps)

    def _not_ended(self, timeout_s: float, state: str) -> LoadGenError:
        self._closing = True
        self._process.kill()
        return LoadGenError(
            f"{self._run.client} did not end within {timeout_s:g} s ({self._arrivals} arrivals{state}); "
            "complete every query or wait longer"
        )

    def _summary(self, stamps: Stamps) -> LoadGenSummary:
        run = self._run
        log, verdict = run.read_logs()
        named = run.sample_models, run.target_latency_s
        return summarize(log, verdict, *named, stamps, self.promptness, run.client)

    @property
    def _arrivals(self) -> int:
        return len(self._sent_ns) if self._other_reader is None else self._other_reader.arrivals

    @property
    def _has_flushed(self) -> bool:
        return self._flushed if self._other_reader is None else self._other_reader.is_flushed

    def _read(self, on_arrival: OnArrival, on_flush: OnFlush, on_failure: OnFailure) -> None:
        """Hand packets on until LoadGen's end of the socket closes."""
        run_promptly()
        try:
            while packet := self._receive():
                received_s = time.monotonic()
                kind, sample, sequence, sent_ns = MESSAGE.unpack(packet)
                if kind == FLUSH:
                    self._flushed = True
                    on_flush()
                    continue
                self._sent_ns.append(sent_ns)
                self._received_s.append(received_s)
                self._open.add(sequence)
                on_arrival(sequence, sample, received_s)
            if self._process.exit_code(self._limits.exit_s) != 0 or not self._flushed:
                self._failure = self._ended()
        except LoadGenError as error:
            self._failure = error
        except Exception as error:
            self._failure = LoadGenError(f"taking an arrival over failed: {error!r}")
            self._failure.__cause__ = error
            self._process.kill()
        if self._failure is not None and not self._closing:
            on_failure(self._failure)

    def _receive(self) -> bytes:
        """Return the next packet, b"" at the end; raise LoadGenError where LoadGen hangs."""
        while True:
            try:
                return self._socket.recv(PACKET_BYTES)
            except BlockingIOError:
                self._check_stall()
            except ConnectionError:
                # So the end looks where the other side died with packets unread.
                return b""

    def _check_stall(self) -> None:
        """Stop a LoadGen whose next query, or whose flush after the last one, is long overdue."""
        arrived = self._arrivals
        due_ns = self._schedule_ns[min(arrived, len(self._schedule_ns) - 1)]
        overdue_s = time.monotonic() - self._began_s - due_ns / 1e9
        if self._has_flushed or overdue_s <= self._limits.stall_s:
            return
        self._process.kill()
        what = f"query {arrived} of" if arrived < len(self._schedule_ns) else "the end after"
        raise LoadGenError(
            f"{self._run.client} hangs: {what} {len(self._schedule_ns)} is {overdue_s:.1f} s overdue, "
            "and its process was stopped; it was suspended or the system's clock set back: repeat the run"
        )

    def _send(self, packet: bytes) -> None:
        try:
            self._socket.send(packet)
        except BlockingIOError:
            self._closing = True
            self._failure = LoadGenError(
                f"{self._run.client} hangs: it took no completion for {self._limits.send_s:g} s after "
                f"{len(self._sent_ns)} arrivals, and its process was stopped; repeat the run"
            )
            self._process.kill()
            raise self._failure from None
        except OSError as error:
            raise self._ended() from error

    def _ended(self) -> LoadGenError:
        """Return the error of a LoadGen that ended before its time; the same one to all who meet it."""
        if self._failure is not None:
            return self._failure
        code = self._process.exit_code(self._limits.exit_s)
        if code == CLOCK_WAS_SET:
            return LoadGenError(
                "the system's clock, which LoadGen reads, was set during the run, so that its latencies are "
                "wrong; let nobody set or suspend the machine's clock, and repeat the run; "
                f"{self._process.output_tail()}"
            )
        how = "closed its socket" if code is None else f"exited with status {code}"
        if code is not None and code < 0:
            how = f"was killed by signal {-code}"
        return LoadGenError(
            f"{self._run.client}'s process {how} after {self._arrivals} arrivals, before the run's end; "
            f"{self._process.output_tail()}"
        )


def _timeval(seconds: float) -> bytes:
    return _TIMEVAL.pack(int(seconds), round(seconds % 1 * 1e6))

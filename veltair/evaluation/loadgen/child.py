"""LoadGen's side of the socket: the process that issues queries, and the packets that both sides speak.

It imports next to nothing of ours and no numpy, so that it is up soon; `client.py` starts it and is the other
side.
"""

import gc
import json
import os
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from veltair.machine.workers.priorities import Promptness, run_promptly

TARGET_PERCENTILE = 0.95
READY, ARRIVAL, FLUSH = range(3)
MESSAGE = struct.Struct("<IIQq")  # kind, sample index, sequence, sent (ns of the monotonic clock)
SEQUENCE = struct.Struct("<Q")
GO = b"go"
PROMPTNESS = tuple(Promptness)  # what READY says in place of a sample index: how LoadGen is put before others
BATCH = 4096
PACKET_BYTES = BATCH * SEQUENCE.size
CLOCK_WAS_SET = 75  # the exit status that tells so
UNSEEN_SET_NS = 100_000  # shows in no latency
CLOCK_READINGS = 9


@dataclass(frozen=True, slots=True)
class ChildSettings:
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


class _Child:
    """LoadGen's system under test and its sample library, which only pass messages on."""

    def __init__(self, settings: ChildSettings, channel: socket.socket) -> None:
        # Imported here because only the child needs LoadGen: a simulation runs without it.
        import mlperf_loadgen  # noqa: PLC0415

        self._loadgen: Any = mlperf_loadgen
        self._settings = settings
        self._channel = channel
        self._response_ids: dict[int, int] = {}
        self._issued = 0
        self._done = False
        self._promptness = Promptness.NORMAL

    def run(self) -> None:
        self._promptness = run_promptly()
        loadgen, count = self._loadgen, self._settings.samples
        sut = loadgen.ConstructSUT(or_exit(self._issue), or_exit(self._flush))
        qsl = loadgen.ConstructQSL(count, count, or_exit(self._load), or_exit(lambda samples: None))
        offset_ns, error_ns = _clock_offset_ns()
        # An empty name, or ./audit.config would override these settings without a word.
        loadgen.StartTestWithLogSettings(sut, qsl, self._test_settings(), self._log_settings(), "")
        self._done = True
        _exit_if_set(offset_ns, error_ns)
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
        self._tell(READY, PROMPTNESS.index(self._promptness))
        if self._channel.recv(PACKET_BYTES) != GO:
            raise ConnectionError("the parent left before the run")
        threading.Thread(target=or_exit(self._complete), name="completions", daemon=True).start()

    def _issue(self, samples: Sequence[Any]) -> None:
        for sample in samples:
            self._response_ids[self._issued] = sample.id
            self._tell(ARRIVAL, sample.index, self._issued)
            self._issued += 1

    def _flush(self) -> None:
        self._tell(FLUSH)

    def _tell(self, kind: int, sample: int = 0, sequence: int = 0) -> None:
        self._channel.send(MESSAGE.pack(kind, sample, sequence, time.monotonic_ns()))

    def _complete(self) -> None:
        run_promptly()  # a completion counts when LoadGen is told of it
        response = self._loadgen.QuerySampleResponse
        while packet := self._channel.recv(PACKET_BYTES):
            ended = [self._response_ids.pop(sequence) for (sequence,) in SEQUENCE.iter_unpack(packet)]
            self._loadgen.QuerySamplesComplete([response(identity, 0, 0) for identity in ended])
        if not self._done:
            raise ConnectionError("the parent left during the run")


def _exit_if_set(offset_ns: int, error_ns: int) -> None:
    """End the process if the system's clock has not the offset any more that it had when the run began."""
    now_ns, now_error_ns = _clock_offset_ns()
    if abs(now_ns - offset_ns) > error_ns + now_error_ns + UNSEEN_SET_NS:
        print(f"the system's clock was set by {(now_ns - offset_ns) / 1e9:.3g} s", flush=True)
        os._exit(CLOCK_WAS_SET)


def _clock_offset_ns() -> tuple[int, int]:
    """Return how far LoadGen's clock, the system's, is before the monotonic one, and the error of that.

    Only when somebody sets it does that change: both are slewed alike. The promptest of some readings counts.
    """
    readings = []
    for _ in range(CLOCK_READINGS):
        before_ns = time.monotonic_ns()
        system_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
        readings.append((time.monotonic_ns() - before_ns, system_ns - before_ns))
    error_ns, offset_ns = min(readings)
    return offset_ns, error_ns


def or_exit(callback: Callable[..., None]) -> Callable[..., None]:
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
    # The end of the process closes it: closed before, it would fail the thread that reads completions, whose
    # exit status would then take the place of that of an error here.
    channel = socket.socket(fileno=int(descriptor))
    _Child(ChildSettings(**json.loads(settings)), channel).run()


if __name__ == "__main__":
    _main(*sys.argv[1:])

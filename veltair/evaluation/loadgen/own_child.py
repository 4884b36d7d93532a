"""Our own client's side of the socket: the process that sends queries whose times LoadGen cannot draw.

It speaks LoadGen's packets and notes what LoadGen notes: when each query was scheduled, how late it was
issued, and its latency from the scheduled time. As `child.py`, it imports next to nothing, so that it is up
soon.
"""

import csv
import gc
import json
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from veltair.evaluation.loadgen.child import (
    ARRIVAL,
    FLUSH,
    GO,
    MESSAGE,
    PACKET_BYTES,
    PROMPTNESS,
    READY,
    SEQUENCE,
    or_exit,
)
from veltair.machine.workers.priorities import run_promptly

ARRIVALS_FILE, LOG_FILE = "own_client_arrivals.csv", "own_client_log.csv"
COLUMNS = ("scheduled_ns", "sample_index", "issue_delay_ns", "latency_ns")  # arrivals have the first two


@dataclass(frozen=True, slots=True)
class OwnSettings:
    """What the process is told: the file of the queries, and that for what became of them."""

    arrivals: str
    log: str


class _OwnClient:
    """Sends queries at their times, and notes when they ended."""

    def __init__(self, settings: OwnSettings, channel: socket.socket) -> None:
        self._settings = settings
        self._channel = channel
        with Path(settings.arrivals).open(newline="") as file:
            _, *rows = csv.reader(file)
        self._asked = [(int(at_ns), int(sample)) for at_ns, sample in rows]
        self._issued_ns: list[int] = []
        self._ended_ns: dict[int, int] = {}
        self._all_ended = threading.Event()

    def run(self) -> None:
        self._tell(READY, PROMPTNESS.index(run_promptly()))
        if self._channel.recv(PACKET_BYTES) != GO:
            raise ConnectionError("the parent left before the run")
        threading.Thread(target=or_exit(self._complete), name="completions", daemon=True).start()
        origin_ns = time.monotonic_ns()
        for sequence, (at_ns, sample) in enumerate(self._asked):
            _sleep_until(origin_ns + at_ns)
            self._issued_ns.append(time.monotonic_ns())
            self._tell(ARRIVAL, sample, sequence)
        self._tell(FLUSH)
        self._all_ended.wait()
        self._write_log(origin_ns)
        self._channel.shutdown(socket.SHUT_RDWR)

    def _tell(self, kind: int, sample: int = 0, sequence: int = 0) -> None:
        self._channel.send(MESSAGE.pack(kind, sample, sequence, time.monotonic_ns()))

    def _complete(self) -> None:
        run_promptly()  # a completion counts when it is heard of here
        while packet := self._channel.recv(PACKET_BYTES):
            now_ns = time.monotonic_ns()
            for (sequence,) in SEQUENCE.iter_unpack(packet):
                if sequence >= len(self._issued_ns) or sequence in self._ended_ns:
                    raise LookupError(f"query {sequence} is not open")
                self._ended_ns[sequence] = now_ns
            if len(self._ended_ns) == len(self._asked):
                self._all_ended.set()
                return
        raise ConnectionError("the parent left during the run")

    def _write_log(self, origin_ns: int) -> None:
        with Path(self._settings.log).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for sequence, (at_ns, sample) in enumerate(self._asked):
                due_ns = origin_ns + at_ns
                delay_ns = self._issued_ns[sequence] - due_ns
                writer.writerow((at_ns, sample, delay_ns, self._ended_ns[sequence] - due_ns))


def _sleep_until(at_ns: int) -> None:
    """Return at a time of the monotonic clock, or at once where it is over; never before."""
    while (left_ns := at_ns - time.monotonic_ns()) > 0:
        time.sleep(left_ns / 1e9)


def _main(descriptor: str, settings: str) -> None:
    # A collection in the middle of a run would delay a query.
    gc.disable()
    channel = socket.socket(fileno=int(descriptor))
    or_exit(_OwnClient(OwnSettings(**json.loads(settings)), channel).run)()


if __name__ == "__main__":
    _main(*sys.argv[1:])

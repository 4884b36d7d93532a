"""Clients of the service: one request at a time, and many at times of their own."""

import select
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from veltair.evaluation.benchmarks.service.figures import Ask, Load
from veltair.evaluation.remote.client import Client
from veltair.evaluation.remote.connection import Address, Answer, Connection

ASK_S = 60.0
CONNECTIONS = 16


class Caller:
    """One connection that stays open, and one request at a time. No other thread takes part."""

    def __init__(self, address: Address) -> None:
        """Connect. Raises OSError if nobody is there."""
        self._resolved = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._connection.close()

    def ask(self, message: bytes) -> tuple[float, Answer]:
        """Send a whole request; return the seconds until the answer's last byte, and that. Raises OSError."""
        start_s = time.perf_counter()
        is_sent = self._connection.begin(message)
        while not is_sent:
            self._await(select.POLLOUT)
            is_sent = self._connection.flush()
        while True:
            self._await(select.POLLIN)
            if (answer := self._connection.receive()) is not None:
                break
        seconds = time.perf_counter() - start_s
        if not self._connection.persists:  # as after a refusal that came before the body was read
            self._connection.close()
            self._open()
        return seconds, answer

    def _open(self) -> None:
        self._connection, self._poll = Connection(self._resolved), select.poll()
        self._await(select.POLLOUT)
        self._connection.check_opened()

    def _await(self, event: int) -> None:
        self._poll.register(self._connection.fileno(), event)
        if not self._poll.poll(1e3 * ASK_S):
            raise TimeoutError(f"no answer within {ASK_S:g} s")


@dataclass(frozen=True, slots=True)
class Sender:
    """A tenant that sends one request again and again, `qps` of them a second at random times."""

    message: bytes
    qps: float


def send(
    address: Address, senders: Mapping[str, Sender], seconds: float, generator: np.random.Generator
) -> tuple[dict[str, Load], float]:
    """Send for so long without waiting for answers; return what became of it, and how late the client was.

    By sender; a latency runs from when a request was due. The lateness is the 99th percentile, in seconds.
    """
    arrivals: list[tuple[float, str]] = []
    for name, sender in senders.items():
        times = generator.uniform(0, seconds, generator.poisson(sender.qps * seconds))
        arrivals += [(float(at_s), name) for at_s in times]
    arrivals.sort()
    asks: dict[int, Ask] = {}
    late_s: list[float] = []
    all_ended = threading.Event()
    start_s = time.monotonic() + 0.05

    def ended(number: int, begun_s: float, answer: Answer | Exception) -> None:
        due_s = start_s + arrivals[number][0]
        asks[number] = Ask(time.monotonic() - due_s, answer.code if isinstance(answer, Answer) else 0)
        late_s.append(begun_s - due_s)
        if len(asks) == len(arrivals):
            all_ended.set()

    client = Client(address, ASK_S, ended)
    try:
        client.open(CONNECTIONS)
        start_s = time.monotonic() + 0.05
        for number, (at_s, name) in enumerate(arrivals):
            if (rest_s := start_s + at_s - time.monotonic()) > 0:
                time.sleep(rest_s)
            client.send(number, senders[name].message)
        if arrivals:
            all_ended.wait()
    finally:
        client.stop()
    of: dict[str, list[Ask]] = {name: [] for name in senders}
    for number, (_, name) in enumerate(arrivals):
        of[name].append(asks[number])
    loads = {name: Load(tuple(found)) for name, found in of.items()}
    return loads, float(np.percentile(late_s, 99)) if late_s else 0.0

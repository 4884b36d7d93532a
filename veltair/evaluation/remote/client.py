"""A client that keeps connections open, never blocks who sends, and stamps an answer at its last byte."""

import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from veltair.evaluation.remote.connection import Address, Answer, Connection
from veltair.machine.workers.priorities import run_promptly

TICK_S = 0.05  # how often requests that wait too long are looked for
OPEN_S = 10.0
MOST = 512  # connections; requests beyond wait for one
READ, WRITE = select.EPOLLIN, select.EPOLLOUT

# Of a request: its number, when its sending began (time.monotonic()), and its answer, or why there is none.
Ended = Callable[[int, float, "Answer | Exception"], None]


@dataclass(slots=True)
class _Request:
    number: int
    message: bytes
    given_s: float
    start_s: float = 0.0
    tries: int = 0


class NoAnswerError(RuntimeError):
    """A request that was not answered in time, or whose connection ended."""


class Client:
    """Connections to one server, and a thread that reads answers.

    `send` may be called from one thread at a time. `ended` is called on the client's thread, once for each
    request, as soon as the last byte is there.
    """

    def __init__(self, address: Address, timeout_s: float, ended: Ended) -> None:
        """Look the server up. Raises OSError if its name is not known."""
        self._resolved = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        self.timeout_s, self._ended = timeout_s, ended
        self._epoll = select.epoll()
        self._wake, self._woken = os.pipe()
        self._epoll.register(self._wake, READ)
        self._lock = threading.Lock()  # of all below
        self._connections: dict[int, Connection] = {}
        self._requests: dict[Connection, _Request] = {}
        self._idle: list[Connection] = []
        self._waiting: deque[_Request] = deque()
        self._stopped = False
        self.opened = 0  # connections in all
        self._thread = threading.Thread(target=self._run, name="client", daemon=True)
        self._thread.start()

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine, by its address."""
        return str(self._resolved[4][0]).startswith("127.") or self._resolved[4][0] == "::1"

    def open(self, count: int) -> None:
        """Have so many connections open, and return once they are. Raises OSError if one cannot be made."""
        with self._lock:
            missing = count - len(self._connections)
            made = [self._connect(None) for _ in range(missing)]
        end_s = time.monotonic() + OPEN_S
        while any(not one.opened for one in made):
            if time.monotonic() > end_s or any(one.fileno() < 0 for one in made if not one.opened):
                raise ConnectionRefusedError("the server takes no connection")
            time.sleep(1e-3)

    def send(self, number: int, message: bytes) -> None:
        """Send a request on a connection that is idle; without one, on a new one, once that is there."""
        now_s = time.monotonic()
        request = _Request(number, message, now_s)
        failure: OSError | None = None
        with self._lock:
            connection = self._idle.pop() if self._idle else None
            if connection is not None:
                request.start_s = now_s
                self._requests[connection] = request
            elif len(self._connections) < MOST:
                try:
                    self._connect(request)
                except OSError as error:
                    failure = error
            else:
                self._waiting.append(request)
        if connection is not None:
            self._begin(connection, request)
        if failure is not None:
            self._ended(number, now_s, NoAnswerError(f"no connection: {failure}"))

    def stop(self) -> None:
        """Close all connections; requests under way end without an answer."""
        self._stopped = True
        os.write(self._woken, b"x")
        self._thread.join()
        for one in list(self._connections.values()):
            one.close()
        self._epoll.close()
        os.close(self._wake)
        os.close(self._woken)

    def _connect(self, request: _Request | None) -> Connection:
        """Begin a connection, for a request or to be idle; the lock is held. Raises OSError."""
        connection = Connection(self._resolved)
        self.opened += 1
        self._connections[connection.fileno()] = connection
        if request is not None:
            self._requests[connection] = request
        self._epoll.register(connection.fileno(), READ | WRITE)
        return connection

    def _begin(self, connection: Connection, request: _Request) -> None:
        request.start_s, request.tries = time.monotonic(), request.tries + 1
        try:
            if not connection.begin(request.message):
                self._epoll.modify(connection.fileno(), READ | WRITE)
        except (OSError, ValueError):
            # The client's thread meets the end of the connection too, and takes care of the request.
            return

    def _run(self) -> None:
        run_promptly()
        next_look_s = time.monotonic() + TICK_S
        while not self._stopped:
            for descriptor, events in self._epoll.poll(TICK_S):
                if (connection := self._connections.get(descriptor)) is not None:
                    self._serve(connection, events)
            if (now_s := time.monotonic()) >= next_look_s:
                next_look_s = now_s + TICK_S
                self._give_up(now_s)

    def _serve(self, connection: Connection, events: int) -> None:
        """Do what a connection is ready for."""
        try:
            if not connection.opened and events & ~READ:
                connection.check_opened()
                self._epoll.modify(connection.fileno(), READ)
                with self._lock:
                    request = self._requests.get(connection)
                    if request is None:
                        self._idle.append(connection)
                    connection.opened = True
                if request is not None:
                    self._begin(connection, request)
                return
            if events & WRITE and connection.flush():
                self._epoll.modify(connection.fileno(), READ)
            if events & ~WRITE and (answer := connection.receive()) is not None:
                self._answered(connection, answer)
        except (OSError, ValueError) as error:
            self._lost(connection, error)

    def _answered(self, connection: Connection, answer: Answer) -> None:
        persists, following = connection.persists, None
        with self._lock:
            request = self._requests.pop(connection, None)
            if request is not None and persists:
                # Idle before anybody hears of the answer, who may send again at once.
                following = self._waiting.popleft() if self._waiting else None
                if following is None:
                    self._idle.append(connection)
                else:
                    self._requests[connection] = following
        if request is None:
            raise ValueError("an answer that nobody asked for")
        self._ended(request.number, request.start_s, answer)
        if following is not None:
            self._begin(connection, following)
        elif not persists:
            self._close(connection)

    def _lost(self, connection: Connection, error: Exception) -> None:
        """Close a connection; a request of which nothing was answered is sent again, once.

        A server may close a connection that was idle while a request is on its way.
        """
        request = self._close(connection)
        if request is None:
            return
        if connection.opened and not connection.received and request.tries <= 1:
            try:
                with self._lock:
                    self._connect(request)
                return
            except OSError as failure:
                error = failure
        self._ended(request.number, request.start_s or request.given_s, NoAnswerError(str(error)))

    def _close(self, connection: Connection) -> _Request | None:
        """Close a connection and return the request that it had."""
        with self._lock:
            self._connections.pop(connection.fileno(), None)
            if connection in self._idle:
                self._idle.remove(connection)
            request = self._requests.pop(connection, None)
            connection.close()
            if self._waiting:
                with contextlib.suppress(OSError):
                    self._connect(self._waiting[0])
                    self._waiting.popleft()
        return request

    def _give_up(self, now_s: float) -> None:
        """End the requests that wait too long, and close their connections."""
        with self._lock:
            late = [
                one for one, request in self._requests.items() if now_s - request.given_s > self.timeout_s
            ]
            waiting = []
            while self._waiting and now_s - self._waiting[0].given_s > self.timeout_s:
                waiting.append(self._waiting.popleft())
        requests = [self._close(connection) for connection in late]
        error = NoAnswerError(f"no answer within {self.timeout_s:g} s")
        for request in (*requests, *waiting):
            if request is not None:
                self._ended(request.number, request.start_s or request.given_s, error)

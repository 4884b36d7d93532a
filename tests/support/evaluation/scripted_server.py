"""A server of HTTP that does with each request what it is told to."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

# The bytes to send back to a request, by its number (0, 1, ...), path and body; without any it is closed.
Script = Callable[[int, str, bytes], bytes]
HEAD_END = b"\r\n\r\n"


def reply(body: bytes, code: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a response."""
    told = {"Content-Length": str(len(body)), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"HTTP/1.1 {code} Told\r\n{lines}\r\n".encode() + body


class ScriptedServer:
    """Answers on any number of connections, a thread each."""

    def __init__(self, script: Script) -> None:
        self._script, self._lock, self._count = script, threading.Lock(), 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close_all(self, count: int) -> None:
        """Close so many connections once they are accepted, as a server does with idle ones."""
        while len(self.connections) < count:
            time.sleep(0.001)
        for one in self.connections:
            one.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self.connections:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        received = b""
        try:
            while True:
                while HEAD_END not in received:
                    if not (part := connection.recv(1 << 16)):
                        return
                    received += part
                head, _, received = received.partition(HEAD_END)
                lines = head.decode().split("\r\n")
                sizes = [
                    int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length")
                ]
                size = sizes[0] if sizes else 0
                while len(received) < size:
                    received += connection.recv(1 << 16)
                body, received = received[:size], received[size:]
                with self._lock:
                    number, self._count = self._count, self._count + 1
                if not (answer := self._script(number, lines[0].split()[1], body)):
                    connection.shutdown(socket.SHUT_RDWR)
                    return
                connection.sendall(answer)
        except OSError:
            return


@contextmanager
def scripted(script: Script) -> Iterator[ScriptedServer]:
    server = ScriptedServer(script)
    try:
        yield server
    finally:
        server.stop()

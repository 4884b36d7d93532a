"""The sockets to one engine process, on an event loop: messages about models, and packets of requests."""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from veltair.service.engine.link import EngineDownError, EngineRefusalError
from veltair.service.engine.messages import (
    OUTCOME_BYTES,
    Answer,
    Ended,
    Hello,
    Order,
    Refused,
    Welcome,
    outcomes,
    receive_answer,
    send,
)

RECONNECT_S = 0.05
DOWN = "the engine ended before it answered"


class Connection:
    """Made by `open`. `on_ended` hears of requests that ended, `on_lost` once that the engine is gone."""

    def __init__(self, on_ended: Callable[[Ended], None], on_lost: Callable[["Connection"], None]) -> None:
        """Be about to connect."""
        self._loop = asyncio.get_running_loop()
        self._on_ended, self._on_lost = on_ended, on_lost
        self._messages = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests, self._engines = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._answer: asyncio.Future[tuple[Answer, list[int]]] | None = None
        self._unsent = deque[bytes]()
        self.welcome = Welcome("", 0)

    @classmethod
    async def open(
        cls, path: Path, on_ended: Callable[[Ended], None], on_lost: Callable[["Connection"], None]
    ) -> Self:
        """Connect to the engine that listens at a path, as soon as it does, and return once it answers.

        Raises EngineDownError if it ends before that.
        """
        connection = cls(on_ended, on_lost)
        while True:
            try:
                connection._messages.connect(str(path))
                break
            except OSError:
                await asyncio.sleep(RECONNECT_S)
        await connection._introduce()
        return connection

    def send(self, packet: bytes) -> None:
        """Send a packet of a request, now or once there is room for it."""
        if not self._unsent:
            try:
                self._requests.send(packet)
                return
            except BlockingIOError:
                self._loop.add_writer(self._requests, self._send_rest)
            except OSError:
                return  # it is gone: the other socket says so too
        self._unsent.append(packet)

    async def tell(self, order: Order) -> tuple[Answer, list[int]]:
        """Return what the engine answers, and the files that come with it; one message at a time.

        Raises EngineRefusalError and EngineDownError.
        """
        self._answer = self._loop.create_future()
        try:
            files = [self._engines.fileno()] if isinstance(order, Hello) else []
            send(self._messages, order, files)
        except OSError:
            raise EngineDownError(DOWN) from None
        answer, files = await self._answer
        if isinstance(answer, Refused):
            raise EngineRefusalError(answer.reason)
        return answer, files

    def close(self) -> None:
        """Close both; who waits for an answer is told that the engine is gone."""
        for one in (self._messages, self._requests):
            if one.fileno() >= 0:
                self._loop.remove_reader(one)
                self._loop.remove_writer(one)
                one.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(EngineDownError(DOWN))

    async def _introduce(self) -> None:
        self._requests.setblocking(False)
        self._messages.setblocking(False)
        self._loop.add_reader(self._messages, self._read_answer)
        self._loop.add_reader(self._requests, self._read_outcomes)
        try:
            answer, _ = await self.tell(Hello())
        finally:
            self._engines.close()
        assert isinstance(answer, Welcome)
        self.welcome = answer

    def _send_rest(self) -> None:
        with suppress(OSError):
            while self._unsent:
                self._requests.send(self._unsent[0])
                self._unsent.popleft()
            self._loop.remove_writer(self._requests)

    def _read_outcomes(self) -> None:
        try:
            packet = self._requests.recv(OUTCOME_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._loop.remove_reader(self._requests)
        for ended in outcomes(packet):
            self._on_ended(ended)

    def _read_answer(self) -> None:
        try:
            answer, files = receive_answer(self._messages)
        except BlockingIOError:
            return
        if answer is None:
            self.close()
            self._on_lost(self)
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result((answer, files))
        else:
            for file in files:
                os.close(file)

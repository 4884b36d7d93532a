import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn

from veltair.service.front.patient_protocol import PatientProtocol


class Hasty(PatientProtocol):
    headers_s = 0.1


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(hello, http=Hasty, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def said(port: int, *parts: bytes, pause_s: float = 0.0) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        await asyncio.sleep(pause_s)
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await reader.read(4096)
    writer.close()
    return answer


def test_who_does_not_finish_its_headers_is_shut_out_and_others_are_answered() -> None:
    async def scene() -> None:
        async with asyncio.timeout(5), served() as port:
            silent = asyncio.create_task(said(port))
            slow = asyncio.create_task(
                said(port, b"GET / HTTP/1.1\r\n", b"A: b\r\n", b"C: d\r\n\r\n", pause_s=0.06)
            )
            quick = await said(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert quick.startswith(b"HTTP/1.1 200")
            assert await silent == b""
            assert await slow == b""

    asyncio.run(scene())

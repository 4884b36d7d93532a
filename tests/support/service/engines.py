"""Engine processes for tests, and clients of them that run to an end in a thread of their own."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from veltair.service.engine.engine_client import EngineClient
from veltair.service.engine.link import Outcome
from veltair.service.engine.settings import EngineSettings

Result = TypeVar("Result")
FULL = "veltair.serving.policies.adaptive:VeltairFULL"


class Engines:
    """A socket that engine processes listen on, one after the other."""

    def __init__(self, folder: Path, build_folder: Path, policy: str = FULL) -> None:
        self.path = folder / "engine.sock"
        self.settings = EngineSettings("tested", policy, "tuned", {}, "spread", str(build_folder))
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.bind(str(self.path))
        self._listening.listen()
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> "subprocess.Popen[bytes]":
        file, settings = self._listening.fileno(), msgspec.json.encode(self.settings).decode()
        command = [sys.executable, "-m", "veltair.service.engine.engine_process", settings, str(file)]
        self._processes.append(subprocess.Popen(command, pass_fds=[file]))
        return self._processes[-1]

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._listening.close()


def with_client(path: Path, use: Callable[[EngineClient], Awaitable[Result]]) -> Result:
    """Return what is made of a link to the engine that listens at a path."""

    async def run() -> Result:
        client = await asyncio.wait_for(EngineClient.connect(path), 60)
        try:
            return await asyncio.wait_for(use(client), 60)
        finally:
            await client.close()

    return asyncio.run(run())


async def ask(
    client: EngineClient, key: str, values: NDArray[Any], deadline_s: float, tenant: str = "shop"
) -> tuple[Outcome, bytes]:
    """Return the outcome of a request and the bytes of its one output; it waits for a slot."""
    while (slot := client.slot(key)) is None:
        await asyncio.sleep(0)
    try:
        slot.inputs[0][:] = memoryview(np.ascontiguousarray(values)).cast("B")
        outcome = await client.infer(slot, deadline_s, tenant)
        return outcome, bytes(slot.outputs[0])
    finally:
        slot.release()


def kill(process: "subprocess.Popen[bytes]") -> None:
    """End a process at once."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, 9)

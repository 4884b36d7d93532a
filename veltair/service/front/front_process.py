"""The front process: it speaks with clients, and asks the engine process for what they want.

`python -m veltair.service.front.front_process FILE FD [FD]` answers on listening sockets, the second one that
of operators, as the settings in a file say. At SIGTERM it takes no more requests, answers those that it has
taken, and ends with 0.
"""

import asyncio
import contextlib
import hashlib
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
import uvloop

from veltair.service.engine.engine_client import EngineClient
from veltair.service.engine.lifetime import end_with_parent
from veltair.service.engine.settings import BACKLOG, FrontSettings
from veltair.service.example import curl_line, write_request
from veltair.service.front.desk import Desk
from veltair.service.front.grpc_front import GrpcFront, grpc_server
from veltair.service.front.http_front import HttpFront
from veltair.service.front.intake import Intake
from veltair.service.front.operator_front import OperatorFront
from veltair.service.front.patient_protocol import PatientProtocol
from veltair.service.keys.service_keys import LOCAL, FirstModelKeys, ServiceKeys
from veltair.service.models.builder import Builder
from veltair.service.models.memory import Memory
from veltair.service.models.registry import BEING_BUILT, Entry, Registry, State
from veltair.service.models.store import Store
from veltair.service.tenancy.admission import Admission

_LOOK_S = 0.05
# Clients keep their connections: to open one takes longer than a request.
KEEP_ALIVE_S = 75
# For the last answers to be written, once all requests have ended.
WRITE_S = 1


class _Server(uvicorn.Server):
    """Leaves signals to this process, which drains first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Front:
    """All parts of the front."""

    def __init__(self, settings: FrontSettings, keys: ServiceKeys, link: EngineClient) -> None:
        """Put them together. Raises RegistryError and OSError for files that are none of ours."""
        self._settings, self._keys, self._link = settings, keys, link
        self._address = ""
        self._servers: list[uvicorn.Server] = []
        self.cuts_off = False
        folder = Path(keys.folder)
        clock, tenants = time.monotonic, keys.tenants
        self.registry = Registry(folder / "registry.sqlite")
        admission = Admission(tenants, keys.admission, link.cores, clock())
        guaranteed = {one.name: int(1e6 * one.resident_mb) for one in tenants}
        self.memory = Memory(link, int(1e6 * keys.memory_mb), guaranteed, admission.rates, clock)
        self.desk = Desk(keys, self.registry, link, self.memory, admission, link.cores)
        store = Store(folder / "store")
        builder = Builder(store, keys.builder, Path(settings.machine), folder / "native", folder / "logs")
        self.intake = Intake(tenants, self.registry, store, builder, self.memory, admission)

    async def serve(self, listening: socket.socket, operators: socket.socket | None) -> None:
        """Answer tenants, and operators on a socket of their own, until SIGTERM."""
        loop = asyncio.get_running_loop()
        host, port = listening.getsockname()[:2]
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        servers = [
            self._server(HttpFront(self.desk, self.intake, metadata.version("veltair"))).serve(
                sockets=[listening]
            )
        ]
        if operators is not None and self._keys.operator is not None:
            operator = OperatorFront(self.desk, self._keys.operator.token_sha256)
            servers.append(self._server(operator).serve(sockets=[operators]))
        rpc = None
        if self._keys.grpc is not None:
            rpc = grpc_server(GrpcFront(self.desk, self.intake, metadata.version("veltair")))
            rpc.add_insecure_port(self._keys.grpc)
            await rpc.start()
        loop.add_signal_handler(signal.SIGTERM, lambda: loop.create_task(self._drain()))
        self.memory.start()
        begins = loop.create_task(self._begin())
        begins.add_done_callback(self._has_begun)
        await asyncio.gather(*servers)
        if rpc is not None:
            await rpc.stop(None)  # what was taken has been answered
        begins.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await begins
        await self.intake.stop()
        await self.memory.stop()
        await self._link.close()

    def _server(self, application: Any) -> uvicorn.Server:
        config = uvicorn.Config(
            application,
            http=PatientProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            backlog=BACKLOG,
            timeout_graceful_shutdown=WRITE_S,
        )
        self._servers.append(_Server(config))
        return self._servers[-1]

    def _has_begun(self, begins: "asyncio.Task[None]") -> None:
        """End where not even the models of the start can be served: whoever watches starts this anew."""
        if not begins.cancelled() and begins.exception() is not None:
            for server in self._servers:
                server.should_exit = True

    async def _drain(self) -> None:
        try:
            await asyncio.wait_for(self.desk.drain(), self._keys.drain_s)
        except TimeoutError:
            self.cuts_off = True
        for server in self._servers:
            server.should_exit = True

    async def _begin(self) -> None:
        """Serve what was served before, and what is to be there from the start; say how to ask."""
        print(f"the service answers at http://{self._address}", flush=True)
        await self.intake.start()
        tenants = {one.name: one for one in self._keys.tenants}
        for model, file in zip(self._keys.models, self._settings.models, strict=True):
            incoming = self.intake.incoming()
            shutil.copyfile(file, incoming)
            digest = hashlib.sha256(incoming.read_bytes()).hexdigest()
            tenant = tenants[model.tenant]
            entry = self.intake.upload(tenant, model.name, model.version, incoming, digest)
            if entry.state is State.UNAVAILABLE:
                await self.intake.load(tenant, model.name, model.version)
            entry = await self._built(model)
            if entry.state is not State.READY:
                print(f"error: {model.name} cannot be served: {entry.reason}", file=sys.stderr, flush=True)
            elif self._settings.token and model.tenant == LOCAL:
                served = self.desk.described(entry)
                example = Path(self._keys.folder) / f"{model.name}.json"
                write_request(served, example)
                print(curl_line(self._address, model.name, example, Path(self._settings.token)), flush=True)

    async def _built(self, model: FirstModelKeys) -> Entry:
        said: State | None = None
        while True:
            entry = self.registry.find(model.tenant, model.name, model.version)
            assert entry is not None
            if self.desk.is_ready(entry) or entry.state is State.UNAVAILABLE:
                return entry
            if entry.state is not said and entry.state in BEING_BUILT:
                said = entry.state
                print(f"{model.name}: {said.value.lower()}", flush=True)
            await asyncio.sleep(_LOOK_S)


async def _run(settings: FrontSettings, sockets: Sequence[socket.socket]) -> int:
    keys = ServiceKeys.model_validate_json(bytes(settings.keys))
    link = await EngineClient.connect(Path(settings.engine))
    front = Front(settings, keys, link)
    await front.serve(sockets[0], sockets[1] if len(sockets) > 1 else None)
    return 1 if front.cuts_off else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer until told to end; return 0, or 1 if requests had to be cut off."""
    path, *files = sys.argv[1:] if arguments is None else arguments
    end_with_parent()
    settings = msgspec.json.decode(Path(path).read_bytes(), type=FrontSettings)
    return uvloop.run(_run(settings, [socket.socket(fileno=int(file)) for file in files]))


if __name__ == "__main__":
    sys.exit(main())

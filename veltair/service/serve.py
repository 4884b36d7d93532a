"""Starts the processes of a service and watches over them, until it is told to end."""

import asyncio
import contextlib
import hashlib
import importlib
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from veltair.config.load import ConfigError
from veltair.machine.topology.described import read_machine
from veltair.service.engine.settings import BACKLOG, EngineSettings, FrontSettings
from veltair.service.keys.service_keys import LOCAL, FirstModelKeys, ServiceKeys, host_and_port, read_service
from veltair.service.keys.tenant_keys import TenantKeys
from veltair.serving.policies.presets import check_policy, simulated_only

MACHINE = "machine.yaml"
# The modules that run the processes.
PROCESSES = {
    "engine": "veltair.service.engine.engine_process",
    "front": "veltair.service.front.front_process",
}
TOKEN = "token"
# A process that ends at once is not started anew at once, but after so long, and then twice as long.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 5.0
LASTING_S = 30.0
# The front starts builders; gRPC is used by none of them, and would say so at each.
_QUIET = {"GRPC_ENABLE_FORK_SUPPORT": "0"}
# For what ends without anything to wait for.
END_S = 5.0


class StartError(RuntimeError):
    """The service cannot be started; the message says why and what to do."""


def serve(keys: ServiceKeys) -> int:
    """Serve until SIGTERM or SIGINT; return 0, or 1 if requests were cut off. Raises StartError."""
    _check_policy(keys)
    files = [_model_file(model) for model in keys.models]
    folder = _folder(keys)
    operator = keys.operator
    with ExitStack() as stack:
        sockets = [stack.enter_context(_listening("http", keys.http))]
        if operator is not None:
            sockets.append(stack.enter_context(_listening("operator.http", operator.http)))
        if keys.grpc is not None:
            _listening("grpc", keys.grpc).close()  # gRPC opens its own; this says before whether it can
        runtime = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="veltair-")))
        first = [_written(model, file, runtime) for model, file in zip(keys.models, files, strict=True)]
        keys, token = _with_tenant(keys.model_copy(update={"folder": str(folder)}), folder)
        machine = _machine(folder)
        processes = _Processes(keys, runtime, sockets)
        front = FrontSettings(
            msgspec.Raw(keys.model_dump_json().encode()),
            *(str(processes.path), str(machine), token, [str(file) for file in first]),
        )
        (runtime / "front.json").write_bytes(msgspec.json.encode(front))
        return asyncio.run(processes.run())


class _Processes:
    """The engine and the front. One that ends is started anew; the sockets, held here, refuse nobody then."""

    def __init__(self, keys: ServiceKeys, runtime: Path, sockets: Sequence[socket.socket]) -> None:
        self._keys, self._runtime, self._sockets = keys, runtime, sockets
        self.path = runtime / "engine.sock"
        self._engine_socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._engine_socket.bind(str(self.path))
        self._engine_socket.listen()
        self._ends = asyncio.Event()
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def run(self) -> int:
        """Run both until told to end; return 0 if all requests that were taken were answered."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ends.set)
        policy = self._keys.policy
        settings = EngineSettings(
            *(policy.path.partition(":")[2], policy.path, policy.preset, policy.options),
            *(self._keys.placement, str(Path(self._keys.folder) / "native")),
        )
        keepers = [
            self._keep("engine", msgspec.json.encode(settings).decode(), [self._engine_socket]),
            self._keep("front", str(self._runtime / "front.json"), self._sockets),
        ]
        tasks = [loop.create_task(keeper) for keeper in keepers]
        await self._ends.wait()
        front = await self._end("front", signal.SIGTERM, self._keys.drain_s + END_S)
        await self._end("engine", None, END_S)  # it ends with the front
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return 0 if front == 0 else 1

    async def _keep(self, name: str, settings: str, sockets: Sequence[socket.socket]) -> None:
        loop, pause_s = asyncio.get_running_loop(), FIRST_PAUSE_S
        files = [one.fileno() for one in sockets]
        command = [sys.executable, "-m", PROCESSES[name], settings, *map(str, files)]
        while not self._ends.is_set():
            began_s = loop.time()
            process = await asyncio.create_subprocess_exec(*command, pass_fds=files, env=os.environ | _QUIET)
            self._running[name] = process
            code = await process.wait()
            if self._ends.is_set():
                return
            pause_s = (
                FIRST_PAUSE_S if loop.time() - began_s > LASTING_S else min(2 * pause_s, LONGEST_PAUSE_S)
            )
            print(f"the {name} process ended with {code}; it is started anew", file=sys.stderr, flush=True)
            await asyncio.sleep(pause_s)

    async def _end(self, name: str, number: signal.Signals | None, most_s: float) -> int | None:
        """Let a process end, and return its code; None if it had to be ended."""
        process = self._running.get(name)
        if process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            if number is not None:
                process.send_signal(number)
        try:
            return await asyncio.wait_for(process.wait(), most_s)
        except TimeoutError:
            process.kill()
            await process.wait()
            return None


def _check_policy(keys: ServiceKeys) -> None:
    policy = keys.policy
    try:
        check_policy(policy.path, policy.options, policy.preset)
        reason = simulated_only(policy.path)
    except ValueError as error:
        raise StartError(f"service.policy: {error}") from None
    if reason:
        raise StartError(f"service.policy: {policy.path} cannot serve on real cores: {reason}")


def _folder(keys: ServiceKeys) -> Path:
    folder = Path(keys.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StartError(
            f"service.folder: {folder} cannot be written: {error.strerror}; name another folder"
        ) from None
    return folder.resolve()


def _listening(name: str, given: str) -> socket.socket:
    host, port = host_and_port(given)
    try:
        if port >= 1 << 16:
            raise OSError(0, "ports end at 65535")
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        raise StartError(
            f"service.{name}: cannot listen on {given}: {error.strerror}; name another port, or end what "
            "uses it"
        ) from None
    return listening


def _model_file(model: FirstModelKeys) -> Path | None:
    """Return the file of a model, which can be read; None for one that is made."""
    if model.onnx is None:
        return None
    try:
        with Path(model.onnx).open("rb"):
            return Path(model.onnx)
    except OSError as error:
        raise StartError(
            f"service.models: {model.onnx}, of {model.name}, cannot be read: {error.strerror}; give its path"
        ) from None


def _written(model: FirstModelKeys, file: Path | None, runtime: Path) -> Path:
    """Return the file of a model; of one that is made, it is written first."""
    if file is not None:
        return file
    module, _, function = str(model.builder).partition(":")
    sys.path.append(str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module), function)()
        content: bytes = made.SerializeToString(deterministic=True)
    except Exception as error:
        raise StartError(
            f"service.models: {model.builder}, of {model.name}, failed with {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.pop()
    path = runtime / f"{model.tenant}.{model.name}.{model.version}.onnx"
    path.write_bytes(content)
    return path


def _with_tenant(keys: ServiceKeys, folder: Path) -> tuple[ServiceKeys, str]:
    """Return keys with a tenant, and the file with its token where nobody else knows that."""
    if keys.tenants:
        return keys, ""
    path = folder / TOKEN
    if not path.exists():
        path.touch(0o600)
        path.write_text(secrets.token_urlsafe(32))
    token = path.read_text()
    tenant = TenantKeys(name=LOCAL, token_sha256=hashlib.sha256(token.encode()).hexdigest())
    return keys.model_copy(update={"tenants": (tenant,)}), str(path)


def _machine(folder: Path) -> Path:
    """Return the file with this machine's description, measured where there is none of these cores."""
    path = folder / MACHINE
    with contextlib.suppress(LookupError, ValueError, OSError):
        if set(read_machine(path).core_ids) == os.sched_getaffinity(0):
            return path
    print("measuring this machine, once", flush=True)
    # It imports TVM, of which this process has no other use.
    from veltair.machine.steps import measure_machine  # noqa: PLC0415

    measure_machine(folder / "native", path)
    return path


def main(path: Path) -> int:
    """Serve as a file says; return 0, 1 if requests were cut off, or 2 with one error if it cannot be."""
    try:
        return serve(read_service(path))
    except (ConfigError, StartError) as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {path}: {error.strerror}", file=sys.stderr)
    return 2

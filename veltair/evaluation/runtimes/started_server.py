"""Servers that are started here to be measured: the one that computes nothing, and rivals."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Self

from veltair.data import shipped
from veltair.evaluation.remote.connection import Address
from veltair.evaluation.remote.server_facts import Remote, RemoteError
from veltair.evaluation.runtimes.rival_environments import python_of
from veltair.provenance import write_atomically
from veltair.wire.messages import ModelMetadata, encode

START_S = 180.0  # Ray takes half a minute by itself
LOOK_S = 0.1
STOP_S = 15.0
OUTPUT_FILE = "server_output.txt"
OK = 200
_LIBC, _PR_SET_PDEATHSIG = ctypes.CDLL(None), 1


class StartedServer:
    """A server in a session of processes of its own, up and ready while the context lasts."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        port: int,
        models: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Take how it is started; what it writes goes into the folder."""
        self._name, self._command, self._models, self._folder = name, list(command), models, folder
        self._environment = dict(environment or {})
        self.url = f"http://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it, and return once all models are ready. Raises RemoteError if they never are."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / OUTPUT_FILE).open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509  (one system call, of a library that is loaded)
            )
        try:
            self._await_ready(time.monotonic() + START_S)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._stop()

    def _await_ready(self, end_s: float) -> None:
        remote = Remote(Address.of(self.url))
        assert self._process is not None
        while not self._is_ready(remote):
            if (code := self._process.poll()) is not None:
                raise RemoteError(f"{self._name} ended with exit status {code}: {self._last_words()}")
            if time.monotonic() > end_s:
                raise RemoteError(f"{self._name} was not ready in {START_S:g} s: {self._last_words()}")
            time.sleep(LOOK_S)

    def _is_ready(self, remote: Remote) -> bool:
        try:
            return all(remote.get(remote.path(model, "/ready"))[0] == OK for model in self._models)
        except RemoteError:
            return False

    def _last_words(self) -> str:
        lines = (self._folder / OUTPUT_FILE).read_text(errors="replace").strip().splitlines()
        return " ".join(lines[-1:])

    def _stop(self) -> None:
        """End all its processes: they are a group."""
        process = self._process
        if process is None or (process.poll() is not None and not _group_lives(process.pid)):
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not _group_lives(process.pid):
                break
            os.killpg(process.pid, number)
            end_s = time.monotonic() + STOP_S
            while _group_lives(process.pid) and time.monotonic() < end_s:
                process.poll()
                time.sleep(LOOK_S)
        process.wait()


def null_server(models: Sequence[ModelMetadata], folder: Path) -> StartedServer:
    """Return the server that computes nothing, of these models."""
    folder.mkdir(parents=True, exist_ok=True)
    path, port = (folder / "models.json").resolve(), free_port()
    write_atomically({path: encode(list(models))})
    module = "veltair.service.null_server"
    command = [sys.executable, "-P", "-m", module, str(path), "--port", str(port)]
    return StartedServer("null", command, port, [one.name for one in models], folder, import_path())


def rival(
    name: str, models: Mapping[str, Path], cores: int, environments: Path, folder: Path
) -> StartedServer:
    """Return a rival that serves ONNX files. Raises RemoteError where its environment is not there.

    Its script, `veltair/data/rivals/NAME/server.py`, is given the port, a free folder, the number of cores,
    and a NAME=FILE for each model.
    """
    python = python_of(environments / name)
    if not python.exists():
        raise RemoteError(f"{name} is not installed: run `python -m veltair.evaluation rivals {name}`")
    port, script = free_port(), shipped("rivals") / name / "server.py"
    files_given = [f"{model}={path.resolve()}" for model, path in models.items()]
    command = [
        str(python.absolute()),
        str(script),
        str(port),
        str(folder.resolve()),
        str(cores),
        *files_given,
    ]
    return StartedServer(name, command, port, list(models), folder, import_path())


def free_port() -> int:
    """Return a port of the loopback that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def import_path() -> dict[str, str]:
    """Return the variable of the environment by which a process finds our code, as rivals need it."""
    return {"PYTHONPATH": str(Path(str(files("veltair"))).resolve().parent)}


def end_with_parent() -> None:
    """Let the process be told to end when the one that started it ends, however that happens."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True

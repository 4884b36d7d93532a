"""A service that is started as its users start it, and ends when the context does."""

import hashlib
import http.client
import json
import os
import resource
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from veltair.compiler.frontend.samples import Samples
from veltair.evaluation.remote.connection import Address
from veltair.evaluation.remote.server_facts import Remote, RemoteError, tensors_of
from veltair.evaluation.runtimes.started_server import OUTPUT_FILE, end_with_parent, free_port, import_path
from veltair.wire.infer import Parameters
from veltair.wire.messages import ModelMetadata, ModelStatistics

START_S, READY_S, STOP_S, ASK_S = 60.0, 300.0, 45.0, 60.0
LOOK_S = 0.05
PARENT, CPU_TIMES = 1, (11, 12)  # places in a process's `stat`, counted from behind its name
OK, ACCEPTED = 200, 202
ENGINE, FRONT = "veltair.service.engine.engine_process", "veltair.service.front.front_process"


class StartedService:
    """`python -m veltair serve` on a free port, with tenants whose tokens are made here."""

    def __init__(self, folder: Path, tenants: Mapping[str, Mapping[str, Any]], **keys: Any) -> None:
        """Take a folder, which may have been one of a service before, and keys of tenants and service."""
        self._folder = folder
        self._tokens = {name: secrets.token_urlsafe(32) for name in tenants}
        self.address = Address("127.0.0.1", free_port())
        digests = {name: hashlib.sha256(token.encode()).hexdigest() for name, token in self._tokens.items()}
        self._keys = {
            "http": self.address.authority,
            "folder": str(folder.resolve()),
            "tenants": [
                {"name": name, "token_sha256": digests[name], **given} for name, given in tenants.items()
            ],
            **keys,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it, and return once it is ready. Raises RemoteError if it never is."""
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "service.yaml"
        config.write_text(yaml.safe_dump({"service": self._keys}))
        with (self._folder / OUTPUT_FILE).open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "veltair", "serve", "--config", str(config)],
                env={**os.environ, **import_path()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509  (one system call, of a library that is loaded)
            )
        try:
            self._await_ready(self._process, time.monotonic() + START_S)
        except BaseException:
            self._end(self._process)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Let it answer what it has taken, and end."""
        assert self._process is not None
        self._end(self._process)

    def call(self, tenant: str, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Return the code and the body of an answer to a tenant."""
        connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=ASK_S)
        try:
            connection.request(method, f"/v2/{path}", body, self._headers(tenant))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def upload_s(self, tenant: str, model: str, content: bytes) -> float:
        """Upload a model, and return the seconds from the first byte until it is ready.

        Raises RemoteError if it is refused or cannot be built.
        """
        start_s = time.monotonic()
        code, said = self.call(tenant, "PUT", f"repository/models/{model}/versions/1", content)
        if code not in (OK, ACCEPTED):
            raise RemoteError(f"{model} of {tenant} was refused: {code}: {said.decode(errors='replace')}")
        while self.call(tenant, "GET", f"models/{model}/ready")[0] != OK:
            states = json.loads(self.call(tenant, "POST", "repository/index", b"{}")[1])
            if reasons := [one["reason"] for one in states if one["state"] == "UNAVAILABLE"]:
                raise RemoteError(f"{model} of {tenant} was not built: {reasons[0]}")
            if time.monotonic() - start_s > READY_S:
                raise RemoteError(f"{model} of {tenant} was not ready in {READY_S:g} s")
            time.sleep(LOOK_S)
        return time.monotonic() - start_s

    def change(self, tenant: str, model: str, what: str) -> None:
        """Load or unload a model. Raises RemoteError where that is refused."""
        code, said = self.call(tenant, "POST", f"repository/models/{model}/{what}", b"{}")
        if code != OK:
            raise RemoteError(f"{what} of {model} failed: {code}: {said.decode(errors='replace')}")

    def metadata(self, tenant: str, model: str) -> ModelMetadata:
        """Return what the service says of a model."""
        return self._remote(tenant).model(model)

    def request(
        self, tenant: str, model: str, values: Samples, parameters: Parameters | None = None
    ) -> bytes:
        """Return a whole HTTP request of a tenant, tensors as bytes."""
        told = self.metadata(tenant, model)
        inputs = tensors_of([one.name for one in told.inputs], values)
        return self._remote(tenant).request(model, inputs, [one.name for one in told.outputs], parameters)

    def resident_bytes(self) -> int:
        """Return the memory of the engine's process."""
        return int(_read(self._part(ENGINE) / "statm").split()[1]) * resource.getpagesize()

    def front_cpu_s(self) -> float:
        """Return for how long the front's process has held cores."""
        folder = self._part(FRONT)
        return sum(int(_field(folder, place)) for place in CPU_TIMES) / os.sysconf("SC_CLK_TCK")

    def steps(self, tenant: str, model: str) -> ModelStatistics:
        """Return what the service counts of a model. Raises RemoteError if it does not."""
        told = self._remote(tenant).statistics(model)
        if told is None:
            raise RemoteError(f"the service tells nothing of {model}")
        return told

    def _part(self, module: str) -> Path:
        """Return the folder in /proc of one of its processes, by the module that it runs."""
        assert self._process is not None
        parent = str(self._process.pid)
        (found,) = (
            folder
            for folder in Path("/proc").glob("[0-9]*")
            if _field(folder, PARENT) == parent and module in _read(folder / "cmdline").split("\0")
        )
        return found

    def _headers(self, tenant: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._tokens[tenant]}"}

    def _remote(self, tenant: str) -> Remote:
        return Remote(self.address, headers=self._headers(tenant))

    def _await_ready(self, process: subprocess.Popen[bytes], end_s: float) -> None:
        remote = Remote(self.address)
        while True:
            with suppress(RemoteError):
                if remote.get("/v2/health/ready")[0] == OK:
                    return
            lines = (self._folder / OUTPUT_FILE).read_text(errors="replace").strip().splitlines()
            if process.poll() is not None or time.monotonic() > end_s:
                raise RemoteError(f"the service did not start: {' '.join(lines[-1:])}")
            time.sleep(LOOK_S)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        # What it started is of its group; after a clean end there is nothing left.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _field(process: Path, place: int) -> str:
    """Return a field of a process's `stat`, counted from behind its name, "" if the process is gone."""
    fields = _read(process / "stat").rpartition(")")[2].split()
    return fields[place] if fields else ""


def _read(path: Path) -> str:
    """Return what a file of a process says, "" if that has ended."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

"""Folders of services that were stopped, with models that had been built, and services that run on them."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from numpy.typing import NDArray

from tests.support.service.artifacts import machine
from veltair.machine.topology.described import format_machine
from veltair.service.models.registry import Registry, State
from veltair.service.models.store import Store, place_of

ROOT = Path(__file__).parents[3]
LENGTH = "Inference-Header-Content-Length"
START_S = 60


def token_of(tenant: str) -> str:
    return f"the token of {tenant}"


def keep(folder: Path, models: Mapping[str, Sequence[str]], content: bytes, artifact: Path) -> None:
    """Write the folder of a service whose tenants have models, all of them the same one under other names."""
    folder.mkdir()
    (folder / "machine.yaml").write_text(format_machine(machine()))
    registry, store = Registry(folder / "registry.sqlite"), Store(folder / "store")
    digest = hashlib.sha256(content).hexdigest()
    for tenant, names in models.items():
        place = place_of(tenant, digest)
        incoming = store.incoming()
        incoming.write_bytes(content)
        store.keep(incoming, place)
        store.publish(place, artifact)
        for name in names:
            entry, _ = registry.upload(tenant, name, 1, digest, len(content), 0.0)
            registry.move(entry, State.READY)
    registry.close()


class Serving:
    """A service that runs until it is told to end."""

    def __init__(self, folder: Path, tenants: Sequence[str], **keys: Any) -> None:
        known = [
            {
                "name": one,
                "token_sha256": hashlib.sha256(token_of(one).encode()).hexdigest(),
                "qos_ms": 10_000,
            }
            for one in tenants
        ]
        values = {"http": "127.0.0.1:0", "folder": str(folder), "tenants": known, **keys}
        config = folder.with_suffix(".yaml")
        config.write_text(yaml.safe_dump({"service": values}))
        command = [sys.executable, "-m", "veltair", "serve", "--config", str(config)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"the service answers at http://([0-9.]+):(\d+)\n", line)
        assert found, line
        self.host, self.port = found[1], int(found[2])

    @property
    def engine(self) -> psutil.Process:
        """The engine process."""
        parts = psutil.Process(self.process.pid).children()
        (engine,) = (one for one in parts if "veltair.service.engine.engine_process" in one.cmdline())
        return engine

    def connect(self) -> HTTPConnection:
        return HTTPConnection(self.host, self.port, timeout=START_S)

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(START_S)


def post(
    connection: HTTPConnection, tenant: str, path: str, body: bytes = b"{}", **headers: str
) -> tuple[int, bytes]:
    """Return the code and the body of an answer."""
    given = {"Authorization": f"Bearer {token_of(tenant)}", **headers}
    connection.request("POST", f"/v2/{path}", body, given)
    answer = connection.getresponse()
    return answer.status, answer.read()


def infer(connection: HTTPConnection, tenant: str, name: str, values: NDArray[Any]) -> tuple[int, bytes]:
    """Return the code and, of an answer, the bytes of its one output."""
    tensor = {"name": "input", "datatype": "FP32", "shape": list(values.shape)}
    tensor["parameters"] = {"binary_data_size": values.nbytes}
    asked = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    header = json.dumps(asked).encode()
    body = header + np.ascontiguousarray(values).tobytes()
    connection.request(
        "POST", f"/v2/models/{name}/infer", body,
        {"Authorization": f"Bearer {token_of(tenant)}", LENGTH: str(len(header))},
    )  # fmt: skip
    answer = connection.getresponse()
    content = answer.read()
    return answer.status, content[int(answer.headers.get(LENGTH, 0)) :]

"""MLServer with ONNX Runtime, as its users set it up: `server.py PORT FOLDER CORES NAME=FILE ...`.

Run by the Python of its own environment. It has no package for ONNX Runtime, so that a model is a class here.
"""

import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    """A model that ONNX Runtime runs, on threads of its own choice."""

    async def load(self) -> bool:
        """Load the file that the settings name."""
        parameters = self.settings.parameters
        assert parameters is not None and parameters.uri is not None
        self._session: Any = onnxruntime.InferenceSession(parameters.uri, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a request; the loop serves others meanwhile."""
        inputs = {one.name: NumpyCodec.decode_input(one) for one in payload.inputs}
        outputs = await asyncio.to_thread(self._session.run, self._names, inputs)
        encoded = [
            NumpyCodec.encode_output(name, value) for name, value in zip(self._names, outputs, strict=True)
        ]
        return InferenceResponse(model_name=self.name, outputs=encoded)


def _free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


def _main(port: str, folder: str, cores: str, *models: str) -> None:
    place = Path(folder) / "models"
    grpc_port, metrics_port = _free_ports(2)
    settings: dict[str, Any] = {
        "host": "127.0.0.1",
        "http_port": int(port),
        "grpc_port": grpc_port,
        "metrics_port": metrics_port,
        "debug": False,
    }
    place.mkdir(parents=True, exist_ok=True)
    (place / "settings.json").write_text(json.dumps(settings))
    for model in models:
        name, _, path = model.partition("=")
        (place / name).mkdir(exist_ok=True)
        told = {"name": name, "implementation": "server.OnnxModel", "parameters": {"uri": path}}
        (place / name / "model-settings.json").write_text(json.dumps(told))
    # Its processes import this file as `server`.
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    program = Path(sys.executable).parent / "mlserver"
    os.execv(program, [str(program), "start", str(place)])


if __name__ == "__main__":
    _main(*sys.argv[1:])

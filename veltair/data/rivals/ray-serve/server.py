"""Ray Serve with ONNX Runtime: `server.py PORT FOLDER CORES NAME=FILE ...`.

Run by the Python of its own environment. Each model is an application with one replica. Ray Serve has no
protocol of its own: messages are read and written by our code, so that this costs what it costs us.
"""

import asyncio
import os
import signal
import sys
import threading
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Its workers would be nicer than all else on the machine, the client that measures them among it.
os.environ.setdefault("RAY_worker_niceness", "0")

import numpy as np
import onnxruntime
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from veltair.wire.datatypes import datatype_of, dtype_of
from veltair.wire.errors import WireError, error_body
from veltair.wire.infer import LENGTH_HEADER, InferResponse, Tensor, json_bytes, read_request, write_response
from veltair.wire.messages import ModelMetadata, Readiness, encode

MOST_ONGOING = 256  # the default of 5 would let its router back off, and show in tails
OBJECT_STORE_BYTES = 200_000_000


@serve.deployment(max_ongoing_requests=MOST_ONGOING, ray_actor_options={"num_cpus": 0})
class OnnxModel:
    """A model that ONNX Runtime runs, on threads of its own choice."""

    def __init__(self, name: str, path: str) -> None:
        self._name = name
        self._session: Any = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]

    async def __call__(self, request: Request) -> Response:
        """Answer what is asked of the model."""
        if request.method == "GET":
            if request.url.path.endswith("/ready"):
                return Response(encode(Readiness(self._name, True)), media_type="application/json")
            return Response(
                encode(ModelMetadata(self._name, ["1"], "onnxruntime")), media_type="application/json"
            )
        try:
            asked = read_request(await request.body(), json_bytes(request.headers.get(LENGTH_HEADER)))
            inputs = {
                one.name: np.frombuffer(one.data, dtype_of(one.datatype)).reshape(one.shape)
                for one in asked.inputs
            }
        except WireError as error:
            return Response(error_body(str(error)), 400, media_type="application/json")
        values = await asyncio.to_thread(self._session.run, self._outputs, inputs)
        tensors = tuple(
            Tensor(name, datatype_of(value.dtype), value.shape, value.tobytes())
            for name, value in zip(self._outputs, values, strict=True)
            if asked.wants(name)
        )
        binary = [name for name in self._outputs if asked.is_binary(name)]
        message = write_response(InferResponse(self._name, tensors, "1"), binary)
        return Response(message.body, headers=message.headers)


def _main(port: str, folder: str, cores: str, *models: str) -> None:
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ray.init(
        num_cpus=int(cores),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    for model in models:
        name, _, path = model.partition("=")
        serve.run(OnnxModel.bind(name, path), name=name, route_prefix=f"/v2/models/{name}")
    ended.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    _main(*sys.argv[1:])

"""OpenVINO at its best for one query at a time, to compare latencies with: pinned threads, no copies."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veltair.compiler.frontend.samples import Samples
from veltair.evaluation.runtimes.openvino_server import PRECISION, import_quietly


class OpenVinoRequest:
    """A request on given cores, one thread each, whose inputs and outputs keep their memory between runs.

    The calling thread is one of them. The process must use OpenVINO for nothing else: threads are shared.
    """

    def __init__(self, model: Path, samples: Samples, cores: Sequence[int]) -> None:
        """Compile the model and bind an array for each of its inputs."""
        # OpenVINO counts the cores that its process may use once, at first, and pins its threads to them.
        os.sched_setaffinity(0, cores)
        openvino = import_quietly()
        compiled = openvino.Core().compile_model(str(model), "CPU", _settings(len(cores)))
        self._request: Any = compiled.create_infer_request()
        self._inputs = [openvino.Tensor(sample, shared_memory=True) for sample in samples]
        for number, tensor in enumerate(self._inputs):
            self._request.set_input_tensor(number, tensor)

    def run(self) -> float:
        """Run the model once and return the seconds."""
        start_s = time.perf_counter()
        self._request.infer(share_outputs=True)
        return time.perf_counter() - start_s

    def outputs(self) -> list[NDArray[Any]]:
        """Return what the last run answered."""
        return [np.array(tensor.data) for tensor in self._request.output_tensors]


def _settings(threads: int) -> dict[str, str]:
    return {
        **PRECISION,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "ENABLE_CPU_PINNING": "YES",
    }

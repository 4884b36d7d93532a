"""OpenVINO as a server of queries: its throughput mode, with a queue of asynchronous requests a model."""

import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veltair.compiler.frontend.samples import Samples
from veltair.evaluation.runtimes.registry import Done

# Where a CPU has bfloat16 units it would compute in that, and answer something else than the others.
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
SETTINGS = {**PRECISION, "PERFORMANCE_HINT": "THROUGHPUT"}

Then = Callable[[Any], None]


class OpenVinoServer:
    """Queries wait in one line a model, whose thread hands each to the first request that is free."""

    def __init__(
        self,
        models: Mapping[str, Path],
        samples: Sequence[tuple[str, Samples]],
        cores: Sequence[int],
        done: Done,
    ) -> None:
        """Compile the models; OpenVINO takes as many streams and threads as it thinks fit for `cores`.

        The process must be allowed to use these cores alone, for OpenVINO takes all that it may.
        """
        self._done = done
        self._samples = [(name, dict(enumerate(values))) for name, values in samples]
        self._requests: dict[str, Any] = _compile(models)
        self._lines: dict[str, queue.SimpleQueue[tuple[int, int] | None]] = {
            name: queue.SimpleQueue() for name in models
        }
        self._stopped = False
        self._feeders = [threading.Thread(target=self._feed, args=(name,), daemon=True) for name in models]
        for feeder in self._feeders:
            feeder.start()

    def answers(self, sample: int) -> list[list[NDArray[Any]]]:
        """Return the answers to a sample of as many runs as the model's queue has requests."""
        name, inputs = self._samples[sample]
        found: list[list[NDArray[Any]]] = []

        def keep(request: Any) -> None:
            found.append([np.array(tensor.data) for tensor in request.output_tensors])

        requests = self._requests[name]
        for _ in range(len(requests)):
            requests.start_async(inputs, keep, share_inputs=True)
        requests.wait_all()
        return found

    def submit(self, query: int, sample: int) -> None:
        """Put a query at the end of its model's line."""
        self._lines[self._samples[sample][0]].put((query, sample))

    def stop(self) -> None:
        """Let what runs end, and drop what waits."""
        self._stopped = True
        for line in self._lines.values():
            line.put(None)
        for feeder in self._feeders:
            feeder.join()
        for requests in self._requests.values():
            requests.wait_all()

    def _feed(self, name: str) -> None:
        line, requests = self._lines[name], self._requests[name]
        while (job := line.get()) is not None and not self._stopped:
            query, sample = job
            # It waits for a free request by itself, so the start counts from there.
            requests.get_idle_request_id()
            start_s = time.monotonic()
            try:
                then = partial(self._end, query, start_s)
                requests.start_async(self._samples[sample][1], then, share_inputs=True)
            except Exception as error:
                self._done(query, start_s, error)

    def _end(self, query: int, start_s: float, request: Any) -> None:
        self._done(query, start_s, None)


def _compile(models: Mapping[str, Path]) -> dict[str, Any]:
    openvino = import_quietly()
    core = openvino.Core()
    requests = {}
    for name, path in models.items():
        requests[name] = openvino.AsyncInferQueue(core.compile_model(str(path), "CPU", SETTINGS))
        requests[name].set_callback(_hand_on)
    return requests


def import_quietly() -> Any:
    """Return the package, imported so that it reports to nobody over the network that it was."""
    # It does without its telemetry where that cannot be imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino  # noqa: PLC0415 - optional: only a process that serves with it needs it

    return openvino


def _hand_on(request: Any, then: Then) -> None:
    then(request)

"""Any server that speaks the Open Inference Protocol, as a runtime: it is asked over HTTP.

Requests are encoded before the run. LoadGen is told of an answer at its last byte; whether it is the right
one is found out after that, and an answer that is not counts as a miss, however quick it was.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from veltair.compiler.frontend.graph import runtime_inputs
from veltair.compiler.frontend.samples import Samples, relative_error
from veltair.evaluation.remote.client import Client
from veltair.evaluation.remote.connection import Address, Answer
from veltair.evaluation.remote.server_facts import Remote, RemoteError, check_model, tensors_of
from veltair.evaluation.runtimes.registry import Done
from veltair.wire.datatypes import dtype_of
from veltair.wire.errors import WireError, error_text
from veltair.wire.infer import LENGTH_HEADER, Tensor, json_bytes, read_response
from veltair.wire.messages import Duration, ModelStatistics

OK = 200
WARM_UP_S = 60.0  # for a first answer, in which a server may still have much to do


@dataclass(frozen=True, slots=True)
class _Sample:
    """A sample as it goes out, and the outputs that its answer must have."""

    model: str
    request: bytes
    outputs: tuple[str, ...]


class RemoteServer:
    """Queries go to a server at a URL, on connections that stay open."""

    def __init__(
        self,
        models: Mapping[str, Path],
        samples: Sequence[tuple[str, Samples]],
        cores: Sequence[int],
        done: Done,
        *,
        url: str,
        timeout_s: float,
        connections: int = 8,
        tolerance: float = 0.0,
        encoding: str = "binary",
        names: Mapping[str, str] | None = None,
        version: str = "",
        token_variable: str | None = None,
    ) -> None:
        """Encode the samples, and connect. `cores` are the client's.

        In a run a request ends without an answer after `timeout_s`. Answers may differ from the first one
        to their sample by a relative error of `tolerance`. `token_variable` names the variable of the
        environment that holds a bearer token. Raises RemoteError if the server is not there.
        """
        headers = bearer(token_variable)
        self._remote = Remote(Address.of(url), encoding == "binary", names or {}, version, headers)
        self._done = done
        named = {model: tensor_names(path) for model, path in models.items()}
        self._samples = [
            _Sample(
                model,
                self._remote.request(model, tensors_of(named[model][0], values), named[model][1]),
                named[model][1],
            )
            for model, values in samples
        ]
        self._right: dict[int, tuple[Tensor, ...]] = {}
        self._tolerance, self._connections, self._timeout_s = tolerance, connections, timeout_s
        self._asked: dict[int, int] = {}
        self._misses: Counter[str] = Counter()
        self._before: dict[str, ModelStatistics] = {}
        self._opened_before = 0
        self._single: tuple[threading.Event, list[Answer | Exception]] | None = None
        try:
            self._client = Client(self._remote.address, WARM_UP_S, self._ended)
        except OSError as error:
            raise RemoteError(f"{url}: {error}; correct the name of the host") from None

    def answers(self, sample: int) -> list[list[NDArray[Any]]]:
        """Return the answer to a sample, which later ones are compared with."""
        event = threading.Event()
        found: list[Answer | Exception] = []
        self._single = event, found
        self._client.send(-1, self._samples[sample].request)
        event.wait()
        self._single = None
        tensors = self._outputs(sample, found[0])
        self._right[sample] = tuple(
            Tensor(one.name, one.datatype, one.shape, bytes(one.data)) for one in tensors
        )
        return [[array_of(one) for one in tensors]]

    def begin(self) -> None:
        """Have the connections open again that the server closed meanwhile; what follows is one run."""
        self._client.timeout_s = self._timeout_s
        self._client.open(self._connections)
        self._misses.clear()
        self._opened_before = self._client.opened
        self._before = self._statistics()

    def facts(self) -> dict[str, Any]:
        """Return what is known of the run besides its records.

        Misses by their reason, connections opened in it, and what the server counted in it, by model.
        """
        after = self._statistics()
        return {
            "misses": dict(self._misses),
            "connections_opened": self._client.opened - self._opened_before,
            "server": {
                model: counted(self._before[model], after[model]) for model in after if model in self._before
            },
        }

    def submit(self, query: int, sample: int) -> None:
        """Send a query; what the connection does not take at once follows as it does."""
        self._asked[query] = sample
        self._client.send(query, self._samples[sample].request)

    def stop(self) -> None:
        """Close the connections."""
        self._client.stop()

    def _ended(self, query: int, start_s: float, answer: Answer | Exception) -> None:
        if query < 0:
            assert self._single is not None
            event, found = self._single
            found.append(answer)
            event.set()
            return
        sample = self._asked.pop(query)
        self._done(query, start_s, None, lambda: self._miss(sample, answer))

    def _miss(self, sample: int, answer: Answer | Exception) -> str:
        """Return why an answer is not the right one, "" if it is."""
        try:
            reason = self._difference(sample, self._outputs(sample, answer))
        except RemoteError as error:
            reason = str(error)
        if reason:
            self._misses[reason] += 1
        return reason

    def _difference(self, sample: int, outputs: Sequence[Tensor]) -> str:
        for one, right in zip(outputs, self._right[sample], strict=True):
            if (one.datatype, one.shape) != (right.datatype, right.shape):
                return "an answer of another shape or datatype"
            # Equal bytes need no arithmetic.
            if bytes(one.data) == right.data:
                continue
            if not relative_error(array_of(one), array_of(right)) <= self._tolerance:
                return "a wrong answer"
        return ""

    def _outputs(self, sample: int, answer: Answer | Exception) -> tuple[Tensor, ...]:
        """Return the tensors of an answer in the order of the model's. Raises RemoteError if it is none."""
        if isinstance(answer, Exception):
            raise RemoteError(str(answer))
        if answer.code != OK:
            raise RemoteError(f"{answer.code}: {error_text(answer.body)}")
        try:
            header = json_bytes(answer.headers.get(LENGTH_HEADER.lower()))
            by_name = {one.name: one for one in read_response(answer.body, header).outputs}
        except WireError as error:
            raise RemoteError(f"an answer that is not as the protocol has it: {error}") from None
        wanted = self._samples[sample].outputs
        if lacking := [name for name in wanted if name not in by_name]:
            raise RemoteError(f"an answer without output {lacking[0]}")
        return tuple(by_name[name] for name in wanted)

    def _statistics(self) -> dict[str, ModelStatistics]:
        found = {}
        for model in dict.fromkeys(sample.model for sample in self._samples):
            if (told := self._remote.statistics(model)) is not None:
                found[model] = told
        return found


def bearer(variable: str | None) -> dict[str, str]:
    """Return the header of a token in a variable of the environment. Raises RemoteError if there is none."""
    if variable is None:
        return {}
    token = os.environ.get(variable, "")
    if not token or not token.isascii() or not token.isprintable():
        raise RemoteError(f"variable {variable} holds no token; set it before the run")
    return {"Authorization": f"Bearer {token}"}


def tensor_names(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the inputs and outputs of an ONNX file, in its order."""
    model = onnx.load(str(path), load_external_data=False)
    inputs = tuple(value.name for value in runtime_inputs(model))
    return inputs, tuple(value.name for value in model.graph.output)


def array_of(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as an array. Raises RemoteError for datatypes that numpy has not."""
    try:
        return np.frombuffer(tensor.data, dtype_of(tensor.datatype)).reshape(tensor.shape)
    except WireError as error:
        raise RemoteError(str(error)) from None


def check_remote(
    remote: Remote,
    models: Mapping[str, Path],
    examples: Mapping[str, tuple[Samples, tuple[NDArray[Any], ...]]],
) -> None:
    """Raise RemoteError unless a server has all models, with inputs and outputs such as those examples."""
    for model, (values, answer) in examples.items():
        inputs, outputs = tensor_names(models[model])
        check_model(remote, model, tensors_of(inputs, values), tensors_of(outputs, answer))


def counted(before: ModelStatistics, after: ModelStatistics) -> dict[str, float]:
    """Return what a server counted between two readings: requests, and mean milliseconds of each step."""
    old, new = before.inference_stats, after.inference_stats
    steps: Mapping[str, Callable[[Any], Duration]] = {
        "queue": lambda one: one.queue,
        "compute_input": lambda one: one.compute_input,
        "compute_infer": lambda one: one.compute_infer,
        "compute_output": lambda one: one.compute_output,
    }
    found: dict[str, float] = {
        "success": new.success.count - old.success.count,
        "fail": new.fail.count - old.fail.count,
    }
    for name, step in steps.items():
        count = step(new).count - step(old).count
        if count > 0:
            found[f"{name}_mean_ms"] = (step(new).ns - step(old).ns) / count / 1e6
    return found

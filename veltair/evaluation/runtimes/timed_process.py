"""A network in a process of its own, told over a pipe when to run: ours, ONNX Runtime's or OpenVINO's.

Run as `python -m veltair.evaluation.runtimes.timed_process KIND PATH SAMPLES CORES`, it reads JSON
requests from its standard input, one a line, and answers each with a line.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from veltair.compiler.frontend.samples import Samples

OURS, ONNX_RUNTIME, OPENVINO = "ours", "onnxruntime", "openvino"
PROFILED = "onnxruntime profiled"  # which is a little slower
KINDS = (OURS, ONNX_RUNTIME, OPENVINO, PROFILED)


class Network(Protocol):
    """What runs in the process."""

    def run(self) -> float:
        """Run once and return the seconds."""

    def outputs(self) -> list[NDArray[Any]]:
        """Return what the last run answered."""


@runtime_checkable
class Profiled(Protocol):
    """A network that notes the time of each kernel as it runs."""

    def end_profile(self) -> Path:
        """Write what it noted as JSON, and return the file."""


class OurNetwork:
    """A built model on given cores: its kernels called one after the other by a thread that stays pinned."""

    def __init__(self, build: Path, samples: Samples, cores: Sequence[int]) -> None:
        """Load the model, with the first version of every layer."""
        # Only this process needs TVM, which takes seconds to import.
        from veltair.machine.models.library import LoadedModel  # noqa: PLC0415
        from veltair.machine.profile.profile import time_layers  # noqa: PLC0415
        from veltair.machine.workers.pool import use_cores  # noqa: PLC0415

        model = LoadedModel(build, spins=True)  # as ONNX Runtime does
        use_cores(tuple(sorted(os.sched_getaffinity(0))))  # TVM's pool keeps the size of its first use
        use_cores(cores)
        self._time_layers = time_layers
        self._instance = model.instance()
        self._instance.set_inputs(samples)
        self._counts = [len(model.plan.of(layer)) for layer in range(len(model.plan.layers))]
        self.use([0] * len(self._counts))

    def use(self, versions: Sequence[int]) -> None:
        """Run these versions from now on, one a layer."""
        self._versions = list(versions)
        self._calls = [calls[index] for calls, index in zip(self._instance.calls, versions, strict=True)]

    def choose(self, budget_s: float) -> list[int]:
        """Find the fastest version of each layer in the network, use it from now on, and return them.

        All layers run their first versions, then all their second, and so on, again and again for about
        `budget_s`, at least twice: the first time only warms up. Medians decide.
        """
        end_s = time.perf_counter() + budget_s
        repeats: list[NDArray[np.float64]] = []
        while len(repeats) < 2 or time.perf_counter() < end_s:
            rows = [self._time_layers(self._instance, self._numbered(n)) for n in range(max(self._counts))]
            repeats.append(np.array(rows))
        seconds = np.median(repeats[1:], axis=0)  # shape (versions, layers)
        versions = [int(seconds[:count, layer].argmin()) for layer, count in enumerate(self._counts)]
        self.use(versions)
        return versions

    def run(self) -> float:
        """Run all layers once and return the seconds."""
        start_s = time.perf_counter()
        for kernel, arguments in self._calls:
            kernel(*arguments)
        return time.perf_counter() - start_s

    def layers(self) -> list[float]:
        """Run all layers once and return the seconds of each."""
        return self._time_layers(self._instance, self._versions)

    def outputs(self) -> list[NDArray[Any]]:
        """Return what the last run answered."""
        return self._instance.read_outputs()

    def _numbered(self, number: int) -> list[int]:
        return [min(number, count - 1) for count in self._counts]


class TimedProcessError(RuntimeError):
    """A timed process failed; the message says what it wrote."""


class TimedProcess:
    """A context in which a network is ready to run in a process of its own, and sleeps until it is asked to.

    `kind` is "ours" (`path`: the folder of a built model), "onnxruntime", "onnxruntime profiled" or
    "openvino" (`path`: an ONNX file). All timed processes read their inputs from the same file of samples,
    see `write_samples`; a profile is written beside it.
    """

    def __init__(self, kind: str, path: Path, samples: Path, cores: Sequence[int]) -> None:
        """Remember what to start. Raises ValueError for an unknown kind or no core."""
        if kind not in KINDS or not cores:
            raise ValueError(
                f"timed process of {kind} on cores {tuple(cores)}; give one of {', '.join(KINDS)}, and cores"
            )
        order = ",".join(str(core) for core in cores)
        self._arguments = [kind, str(path), str(samples), order]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start it and wait until it has loaded its network."""
        self._complaints = tempfile.TemporaryFile("w+", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "veltair.evaluation.runtimes.timed_process", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            errors="replace",
        )
        try:
            self._read()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._end()

    @property
    def pid(self) -> int:
        """The id of the process. Raises RuntimeError outside of the context."""
        if self._process is None:
            raise RuntimeError("the process does not run; read `pid` in the with block")
        return self._process.pid

    def time(self, runs: int) -> list[float]:
        """Return the seconds of so many runs, one after the other."""
        seconds: list[float] = self._ask({"do": "time", "runs": runs})
        return seconds

    def choose(self, budget_s: float) -> list[int]:
        """Let it find its fastest versions, see `OurNetwork.choose`. Others have none to choose from."""
        versions: list[int] = self._ask({"do": "choose", "budget_s": budget_s})
        return versions

    def layers(self, runs: int) -> list[list[float]]:
        """Return for each of so many runs the seconds of each layer. Only ours can time its layers."""
        seconds: list[list[float]] = self._ask({"do": "layers", "runs": runs})
        return seconds

    def profile(self) -> list[dict[str, Any]]:
        """Return the events of all runs since it started, once. Only "onnxruntime profiled" notes them."""
        events: list[dict[str, Any]] = json.loads(
            Path(self._ask({"do": "profile"})).read_text(encoding="utf-8")
        )
        return events

    def outputs(self) -> list[NDArray[Any]]:
        """Return what it answers to the samples."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "outputs.npz"
            self._ask({"do": "outputs", "path": str(path)})
            with np.load(path) as archive:
                return [archive[str(number)] for number in range(len(archive.files))]

    def _ask(self, request: Mapping[str, Any]) -> Any:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead: reading says why
        return self._read()

    def _read(self) -> Any:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._complaints.seek(0)
            said = " ".join(self._complaints.read().strip().splitlines()[-1:])
            raise TimedProcessError(f"{' '.join(self._arguments)} ended with exit status {status}: {said}")
        return json.loads(line)

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        self._complaints.close()


def write_samples(path: Path, samples: Samples) -> None:
    """Write an array for each input of a model."""
    with path.open("wb") as stream:
        arrays: dict[str, Any] = {str(number): array for number, array in enumerate(samples)}
        np.savez(stream, **arrays)


def read_samples(path: Path) -> Samples:
    """Return what `write_samples` wrote."""
    with np.load(path) as archive:
        return tuple(archive[str(number)] for number in range(len(archive.files)))


def serve(kind: str, path: Path, samples: Path, cores: Sequence[int]) -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    network = _load(kind, path, samples, cores)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if (answer := _answer(network, request)) is NotImplemented:
            raise ValueError(f"{kind} cannot do {request['do']}")
        print(json.dumps(answer), file=answers, flush=True)


def _load(kind: str, path: Path, samples: Path, cores: Sequence[int]) -> Network:
    given = read_samples(samples)
    if kind == OURS:
        return OurNetwork(path, given, cores)
    # Only the process of each needs it.
    if kind == OPENVINO:
        from veltair.evaluation.runtimes.openvino_request import OpenVinoRequest  # noqa: PLC0415

        return OpenVinoRequest(path, given, cores)
    from veltair.compiler.oracle.onnx_session import OnnxSession, ProfiledSession  # noqa: PLC0415

    if kind == PROFILED:
        return ProfiledSession(path, given, cores, samples.with_name("profile"))
    return OnnxSession(path, given, cores)


def _answer(network: Network, request: Mapping[str, Any]) -> Any:
    """Do what a request says and return its answer in plain values; NotImplemented if it cannot be done."""
    match request["do"]:
        case "time":
            return [network.run() for _ in range(request["runs"])]
        case "outputs":
            network.run()
            return write_samples(Path(request["path"]), tuple(network.outputs()))
        case "choose" if isinstance(network, OurNetwork):
            return network.choose(request["budget_s"])
        case "layers" if isinstance(network, OurNetwork):
            return [network.layers() for _ in range(request["runs"])]
        case "profile" if isinstance(network, Profiled):
            return str(network.end_profile())
    return NotImplemented


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), [int(core) for core in sys.argv[4].split(",")])

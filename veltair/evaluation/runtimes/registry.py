"""Other runtimes that serve the same models on the same cores, set up as their users set them up today.

A runtime is a line of `runtimes`; what runs it is a backend of `BACKENDS`. To add a runtime, write a backend
and name it in both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from veltair.compiler.frontend.samples import Samples

BACKENDS = {
    "onnxruntime": "veltair.evaluation.runtimes.onnx_server:OnnxServer",
    "openvino": "veltair.evaluation.runtimes.openvino_server:OpenVinoServer",
    "remote": "veltair.evaluation.runtimes.remote_server:RemoteServer",
}
# What backends need, where it is not called as they are.
PACKAGES = {"remote": "httptools"}
Miss = Callable[[], str]


class Done(Protocol):
    """Takes the end of a query, on any thread."""

    def __call__(
        self, query: int, start_s: float, failure: Exception | None, miss: Miss | None = None
    ) -> None:
        """Take a query's number, when it was started (time.monotonic()), and why it failed, None if not.

        A failure ends the run. `miss` is called once LoadGen knows of the end, and returns why the answer
        does not count, "" if it does.
        """


class RuntimeBackend(Protocol):
    """Answers queries in this process, on the cores that the process may use."""

    def answers(self, sample: int) -> list[list[NDArray[Any]]]:
        """Return the answer to a sample of each session of its model, one after the other."""

    def submit(self, query: int, sample: int) -> None:
        """Take in a query and return at once; `done` is called when it ended, on any thread."""

    def stop(self) -> None:
        """Let what runs end, and drop what waits."""


@runtime_checkable
class ObservedBackend(RuntimeBackend, Protocol):
    """A backend whose queries are answered by other processes."""

    def begin(self) -> None:
        """Be ready for a run."""

    def facts(self) -> dict[str, Any]:
        """Return what is known of the run that ended besides its records, as JSON has it."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A way to serve: a backend (a package's name) with its options, counted in some ratios, `figures`."""

    name: str
    figures: tuple[str, ...]
    backend: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(
                f"runtime {self.name}: backend {self.backend}; give one of {', '.join(BACKENDS)}"
            )

    @property
    def installed(self) -> bool:
        """Whether the package that it needs can be imported."""
        return find_spec(PACKAGES.get(self.backend, self.backend)) is not None


def runtimes(cores: int) -> list[Runtime]:
    """Return all runtimes on so many cores.

    ONNX Runtime by default: one session a model, and as many threads that call it as Python's own pool has.
    Its best settings: k sessions a model, each pinned to cores of its own, for every k that divides the
    cores; the pool that all sessions share; and sessions on all cores whose threads never spin, for the
    shared pool cannot be told not to from Python. OpenVINO: its throughput mode.
    """
    best, runtime = ("served_vs_ort_best",), "onnxruntime"
    default = ("served_vs_ort_default", *best)
    pinned = [
        Runtime(f"{runtime} {n}x{cores // n}", best, runtime, {"sessions": n, "pinned": True, "spin": "runs"})
        for n in range(1, cores + 1)
        if cores % n == 0
    ]
    return [
        Runtime(f"{runtime} default", default, runtime, {"callers": min(32, cores + 4)}),
        *pinned,
        Runtime(f"{runtime} shared pool", best, runtime, {"callers": cores, "shared_pool": True}),
        Runtime(f"{runtime} no spinning", best, runtime, {"callers": cores, "spin": "never"}),
        Runtime("openvino throughput", ("served_vs_openvino",), "openvino"),
    ]


def open_backend(
    backend: str,
    options: Mapping[str, Any],
    models: Mapping[str, Path],
    samples: Sequence[tuple[str, Samples]],
    cores: Sequence[int],
    done: Done,
) -> RuntimeBackend:
    """Load ONNX files into a backend. `samples` maps a sample index to a model and its inputs."""
    module, name = BACKENDS[backend].split(":")
    make: Callable[..., RuntimeBackend] = getattr(import_module(module), name)
    return make(models, samples, cores, done, **options)

"""Workers, one pinned to each core, that run the layers of blocks on the cores granted to them.

`WorkerPool` is what the engine knows of them, `native_pool.py` has the workers in C.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tvm
from numpy.typing import NDArray

from veltair.compiler.frontend.samples import Samples

SPECIFY_ONE_CORE_PER_THREAD = (
    -2
)  # TVM's kSpecifyOneCorePerThread: pool thread i is pinned to core i of the list
STOP_S = 60.0  # longer than any layer runs: whoever has not ended by then hangs
OUTPUT_TOLERANCE = 1e-4  # versions differ in the order of their sums


class KernelError(RuntimeError):
    """A kernel returned an error; the message is TVM's."""


class CoreLostError(RuntimeError):
    """A worker no longer runs on its core; the message says which, and what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """An array for each input of a model, and its right answer."""

    values: Samples
    answer: tuple[NDArray[Any], ...]


class Runnable(Protocol):
    """Activation buffers of one query: `calls[layer][version]` are a kernel and its arguments, tensors."""

    @property
    def calls(self) -> Sequence[Sequence[tuple[Any, tuple[Any, ...]]]]:
        """The calls; one that is replaced is another tuple."""

    @property
    def inputs(self) -> Sequence[Any]:
        """Tensors that kernels read the sample from."""

    @property
    def outputs(self) -> Sequence[Any]:
        """Tensors that hold the answer after the last layer."""


class Servable(Protocol):
    """A model: something that has buffers for queries."""

    def instance(self) -> Runnable:
        """Return buffers for one query at a time."""


class QueryBuffers(Protocol):
    """A `Runnable` as workers run it."""

    @property
    def runnable(self) -> Runnable:
        """The instance that was bound."""

    @property
    def layer_seconds(self) -> Sequence[float]:
        """What each layer took in the last block that ran all of them, shape (layers,)."""

    @property
    def away_seconds(self) -> Sequence[float]:
        """For how long of that its leader had no core; 0 unless `watch` was called."""

    def watch(self) -> None:
        """Have `away_seconds` noted from now on."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The cores of a running block, its leader's first, and the version of each of its layers."""

    cores: tuple[int, ...]
    versions: tuple[int, ...]


@dataclass(slots=True, eq=False)
class BlockRun:
    """Layers [start, stop) of a query at work. `grant` is the last one given, adopted or not.

    Its worker copies the sample `put_in` in before the first layer, and after the last one counts the outputs
    that differ from the answer of `check`; where these are None it does not. Each layer takes its `least_s`
    at least, and its parallel loops even steps of that; as long as it does if none are given.
    """

    query_id: int
    buffers: QueryBuffers
    start: int
    stop: int
    grant: Grant
    put_in: Sample | None = None
    check: Sample | None = None
    least_s: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """A block ended, `ended_layers` of it, at `monotonic_s`; its cores are free.

    `busy_s` is what the layers took together, `wrong_outputs` counts those off by more than 1e-4 relative.
    A block that yielded has ended some of its layers, one at least, and its outputs are not compared.
    """

    block: BlockRun
    error: Exception | None
    ended_layers: int
    monotonic_s: float
    busy_s: float
    wrong_outputs: int


@dataclass(frozen=True, slots=True)
class Adopted:
    """A block runs on a new grant since `monotonic_s`; cores of former grants that it lacks are free."""

    block: BlockRun
    grant: Grant
    monotonic_s: float


Notice = Ended | Adopted


class WorkerPool(Protocol):
    """A worker for each core. One thread, the decider, calls it; only `poke` is for any thread."""

    def bind(self, runnable: Runnable, name: str) -> QueryBuffers:
        """Return a query's buffers as blocks name them. `name` is the model's, for messages."""

    def run(self, block: BlockRun) -> None:
        """Start a block on its grant. The worker of the first core leads it, to its end.

        Raises LookupError for a core that is not a worker's.
        """

    def resize(self, block: BlockRun, grant: Grant) -> None:
        """Grant a running block other cores and versions; it adopts them at its next layer end.

        A grant that comes too late, or is followed by another, is never adopted. Raises ValueError if the
        first core is another one, LookupError for a core that is not a worker's.
        """

    def yield_block(self, block: BlockRun) -> None:
        """Let a running block end at its next layer end; in its last layer this has no effect."""

    def wait(self, timeout_s: float | None) -> Sequence[Notice]:
        """Return what has happened; nothing after `timeout_s`, a `poke` or a signal."""

    def poke(self) -> None:
        """End a wait, or the next one, from any thread."""

    def ended_layers(self, block: BlockRun) -> int:
        """Return how many layers of a running block have ended."""

    def layer_started_s(self, block: BlockRun) -> float:
        """Return when the current layer of a running block began, on the monotonic clock."""

    def stop(self, timeout_s: float = STOP_S) -> int:
        """Let running blocks end and the workers go.

        Returns how many workers were not gone in time: a kernel that hangs cannot be ended but with the
        process.
        """


Launch = Callable[[Sequence[int]], WorkerPool]


def view(tensor: Any) -> NDArray[Any]:
    """Return a tensor's memory as an array."""
    array: NDArray[Any] = np.from_dlpack(tensor)
    return array


def check_alike(buffer: NDArray[Any], values: NDArray[Any]) -> None:
    """Raise ValueError unless an array of a sample has the shape and the dtype of the buffer for it."""
    if buffer.shape != values.shape or buffer.dtype != values.dtype:
        raise ValueError(
            f"an array of the sample is {values.dtype}{list(values.shape)}, its buffer is "
            f"{buffer.dtype}{list(buffer.shape)}; give one array for each input and each output of the model"
        )


def check_cores(core_ids: Sequence[int]) -> None:
    """Raise ValueError if a core is named twice or this process may not use it."""
    allowed = os.sched_getaffinity(0)
    if not core_ids or len(set(core_ids)) != len(core_ids) or not allowed.issuperset(core_ids):
        raise ValueError(
            f"cores {tuple(core_ids)} cannot all be had; this process may use {sorted(allowed)}, each once"
        )


def use_cores(cores: Sequence[int]) -> None:
    """Let kernels that this thread calls run on exactly these cores, one thread each."""
    configure = tvm.get_global_func("runtime.config_threadpool")
    configure(SPECIFY_ONE_CORE_PER_THREAD, len(cores), [str(core) for core in cores])
    # TVM leaves the calling thread, which works too, free to roam over all of them.
    os.sched_setaffinity(0, {cores[0]})


@contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Within the context, kernels that this thread calls run on these cores; then it has its own ones back.

    Processes started by a thread inherit its cores, so one that stayed pinned would pin LoadGen too.
    """
    own_cores = os.sched_getaffinity(0)
    use_cores(cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own_cores)

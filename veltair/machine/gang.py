"""Pinned workers that run the layers of a block on granted cores, each in a thread of its own.

A worker is a Python thread with its own TVM thread pool, so kernels of two blocks run side by side; the GIL
is released while a kernel runs.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import tvm

from veltair.compiler.target import sleep_when_idle, use_all_cores
from veltair.machine.library import Call

SPECIFY_ONE_CORE_PER_THREAD = (
    -2
)  # TVM's kSpecifyOneCorePerThread: pool thread i is pinned to core i of the list


@dataclass(slots=True)
class Grant:
    """The cores and versions of a running block; a worker adopts a new one at its next layer end."""

    cores: tuple[int, ...]
    versions: tuple[int, ...]


@dataclass(slots=True)
class BlockRun:
    """A block at work: `calls[k][version]` for each of its layers, and what it has been granted.

    The worker calls `before` and `after` around the layers (the sample goes in, the answer comes out).
    `ended_layers` is written by the worker only, `grant` by the engine only.
    """

    query_id: int
    calls: Sequence[Sequence[Call]]
    grant: Grant
    on_resized: Callable[["BlockRun", Grant], None]
    on_end: Callable[["BlockRun", Exception | None], None]
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None
    ended_layers: int = 0
    layer_seconds: list[float] = field(default_factory=list)


class Gang:
    """A worker for each core. A block is run by the worker of the first core that it is granted."""

    def __init__(self, core_ids: Sequence[int]) -> None:
        """Start the workers; each makes its thread pool at its full size, for TVM freezes it at first use."""
        use_all_cores()
        sleep_when_idle()
        ready = threading.Barrier(len(core_ids) + 1)
        self._workers = {core: _Worker(tuple(core_ids), ready) for core in core_ids}
        for worker in self._workers.values():
            worker.thread.start()
        try:
            ready.wait()
        except threading.BrokenBarrierError:
            self.stop()
            allowed = sorted(os.sched_getaffinity(0))
            raise ValueError(
                f"cores {tuple(core_ids)} cannot all be had; this process may use {allowed}"
            ) from None

    def run(self, block: BlockRun) -> None:
        """Let a worker run a block; it keeps its first core as long as it runs.

        Raises LookupError for a core that is not the gang's.
        """
        worker = self._workers.get(block.grant.cores[0])
        if worker is None:
            raise LookupError(f"core {block.grant.cores[0]} is not one of {tuple(self._workers)}")
        worker.work.put(block)

    def stop(self) -> None:
        """Let the blocks under way end and the workers go."""
        for worker in self._workers.values():
            worker.work.put(None)
        for worker in self._workers.values():
            worker.thread.join()


class _Worker:
    """A thread that runs blocks one after the other, on the cores that each is granted."""

    def __init__(self, all_cores: tuple[int, ...], ready: threading.Barrier) -> None:
        self.work: queue.SimpleQueue[BlockRun | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._serve, args=(all_cores, ready), daemon=True)
        self._cores: tuple[int, ...] = ()

    def _serve(self, all_cores: tuple[int, ...], ready: threading.Barrier) -> None:
        # Kernels fill every core, so whoever decides and whoever issues queries must get one at once when
        # they wake; TVM's pool threads inherit this.
        with suppress(PermissionError):  # some containers forbid it: then they wait for a time slice
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        try:
            self._use(all_cores)
        except OSError:
            ready.abort()  # else whoever makes the gang waits for ever
            return
        with suppress(threading.BrokenBarrierError):
            ready.wait()
        while (block := self.work.get()) is not None:
            error: Exception | None = None
            try:
                self._run(block)
            except Exception as failure:  # a kernel's error must reach the engine, not end the worker
                error = failure
            block.on_end(block, error)

    def _run(self, block: BlockRun) -> None:
        grant = block.grant
        self._use(grant.cores)
        clock = time.perf_counter
        if block.before is not None:
            block.before()
        for place, calls in enumerate(block.calls):
            if block.grant is not grant:
                grant = block.grant
                self._use(grant.cores)
                block.on_resized(block, grant)
            kernel, arguments = calls[grant.versions[place]]
            start_s = clock()
            kernel(*arguments)
            block.layer_seconds.append(clock() - start_s)
            block.ended_layers = place + 1
        if block.after is not None:
            block.after()

    def _use(self, cores: tuple[int, ...]) -> None:
        # Setting the pool anew costs tens of microseconds, as much as a short layer.
        if cores != self._cores:
            use_cores(cores)
            self._cores = cores


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

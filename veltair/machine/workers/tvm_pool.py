"""A gang of Python threads, each with TVM's own thread pool pinned to the cores of its block.

It is there for comparison. The interpreter's lock is released while a kernel runs, and needed between
kernels.
"""

import os
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from veltair.compiler.frontend.samples import relative_error
from veltair.compiler.search.target import sleep_when_idle, use_all_cores
from veltair.machine.workers.pool import (
    OUTPUT_TOLERANCE,
    STOP_S,
    Adopted,
    BlockRun,
    Ended,
    Grant,
    Notice,
    Runnable,
    check_alike,
    check_cores,
    use_cores,
    view,
)


@dataclass(slots=True, eq=False)
class PythonBuffers:
    """A query's room, and how far its block has come: written by the block's worker only."""

    runnable: Runnable
    ended_layers: int = 0
    layer_started_s: float = 0.0
    layer_seconds: list[float] = field(default_factory=list)


class TvmPool:
    """A thread for each core."""

    def __init__(self, core_ids: Sequence[int]) -> None:
        """Start the workers; each makes its thread pool at its full size, for TVM freezes it at first use.

        Raises ValueError for cores that this process may not use.
        """
        check_cores(core_ids)
        use_all_cores()
        sleep_when_idle()
        ready = threading.Barrier(len(core_ids) + 1)
        self._notices: queue.SimpleQueue[Notice | None] = queue.SimpleQueue()
        self._workers = {core: _Worker(tuple(core_ids), ready, self._notices) for core in core_ids}
        for worker in self._workers.values():
            worker.thread.start()
        try:
            ready.wait()
        except threading.BrokenBarrierError:
            self.stop()
            raise ValueError(f"a worker cannot be pinned to one of cores {tuple(core_ids)}") from None

    def bind(self, runnable: Runnable, name: str) -> PythonBuffers:
        """Return a query's room as blocks name it."""
        return PythonBuffers(runnable)

    def run(self, block: BlockRun) -> None:
        """Let the worker of its first core run a block.

        Raises LookupError for a core that is not the gang's.
        """
        self._check(block.grant)
        bound = _bound(block)
        bound.ended_layers, bound.layer_started_s = 0, time.monotonic()
        self._workers[block.grant.cores[0]].work.put(block)

    def resize(self, block: BlockRun, grant: Grant) -> None:
        """Grant a running block other cores and versions.

        Raises ValueError if the first core is another one, LookupError for a core that is not the gang's.
        """
        self._check(grant)
        if grant.cores[0] != block.grant.cores[0]:
            raise ValueError(
                f"a block keeps its first core {block.grant.cores[0]}; {grant.cores} begin otherwise"
            )
        block.grant = grant

    def wait(self, timeout_s: float | None) -> Sequence[Notice]:
        """Return what has happened; nothing after `timeout_s` or a `poke`."""
        try:
            notice = self._notices.get(timeout=timeout_s)
        except queue.Empty:
            return ()
        return () if notice is None else (notice,)

    def poke(self) -> None:
        """End a wait, or the next one, from any thread."""
        self._notices.put(None)

    def ended_layers(self, block: BlockRun) -> int:
        """Return how many layers of a running block have ended."""
        return _bound(block).ended_layers

    def layer_started_s(self, block: BlockRun) -> float:
        """Return when the current layer of a running block began, on the monotonic clock."""
        return _bound(block).layer_started_s

    def stop(self, timeout_s: float = STOP_S) -> int:
        """Let the blocks under way end and the workers go; return how many were not gone in time."""
        until_s = time.monotonic() + timeout_s
        for worker in self._workers.values():
            worker.work.put(None)
        for worker in self._workers.values():
            worker.thread.join(max(0.0, until_s - time.monotonic()))
        return sum(worker.thread.is_alive() for worker in self._workers.values())

    def _check(self, grant: Grant) -> None:
        for core in grant.cores:
            if core not in self._workers:
                raise LookupError(f"core {core} is not one of {tuple(self._workers)}")


class _Worker:
    """A thread that runs blocks one after the other, on the cores that each is granted."""

    def __init__(
        self,
        all_cores: tuple[int, ...],
        ready: threading.Barrier,
        notices: "queue.SimpleQueue[Notice | None]",
    ) -> None:
        self.work: queue.SimpleQueue[BlockRun | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._serve, args=(all_cores, ready), daemon=True)
        self._notices = notices
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
            bound, error, wrong = _bound(block), None, 0
            bound.layer_seconds.clear()
            try:
                wrong = self._run(block, bound)
            except Exception as failure:  # a kernel's error must reach the engine, not end the worker
                error = failure
            busy_s = sum(bound.layer_seconds)
            self._notices.put(Ended(block, error, bound.ended_layers, time.monotonic(), busy_s, wrong))

    def _run(self, block: BlockRun, bound: PythonBuffers) -> int:
        grant = block.grant
        self._use(grant.cores)
        runnable, clock = bound.runnable, time.monotonic
        if block.put_in is not None:
            for tensor, values in zip(runnable.inputs, block.put_in.values, strict=True):
                room = view(tensor)
                check_alike(room, values)
                np.copyto(room, values)
        for index, calls in enumerate(runnable.calls[block.start : block.stop]):
            if block.grant is not grant:
                grant = block.grant
                self._use(grant.cores)
                self._notices.put(Adopted(block, grant, clock()))
            kernel, arguments = calls[grant.versions[index]]
            bound.layer_started_s = clock()
            kernel(*arguments)
            bound.layer_seconds.append(clock() - bound.layer_started_s)
            bound.ended_layers = index + 1
        if block.check is None:
            return 0
        pairs = zip(runnable.outputs, block.check.answer, strict=True)
        return sum(relative_error(view(tensor), right) > OUTPUT_TOLERANCE for tensor, right in pairs)

    def _use(self, cores: tuple[int, ...]) -> None:
        # Setting the pool anew costs tens of microseconds, as much as a short layer.
        if cores != self._cores:
            use_cores(cores)
            self._cores = cores


def _bound(block: BlockRun) -> PythonBuffers:
    if not isinstance(block.bound, PythonBuffers):
        raise TypeError(f"block of query {block.query_id} was bound by another gang; bind it with this one")
    return block.bound

"""The backend in real time: real kernels on pinned cores.

One thread, the decision thread that calls wait(), keeps all accounts. Workers report what happened by
notices, LoadGen's reader and the background worker by messages; all of them end the wait.
"""

import heapq
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.costs.table import CostTable
from veltair.machine.interference.source import InterferenceSource
from veltair.machine.topology.placement import Holdings, Placement, remember
from veltair.machine.topology.topology import Machine
from veltair.machine.workers.pool import (
    STOP_S,
    BlockRun,
    CoreLostError,
    Ended,
    Grant,
    Launch,
    Notice,
    QueryBuffers,
    Sample,
    Servable,
)
from veltair.serving.engine.background import BackgroundWorker, Job, OnDone
from veltair.serving.engine.messages import Arrived, Done, EngineMessage, Failed, Flushed
from veltair.serving.engine.running_blocks import (
    CANNOT_SHARE_CORES,
    Progress,
    RunningBlock,
    least_layer_s,
    profiled_s,
)
from veltair.serving.engine.warm_up import warm_up_models
from veltair.serving.engine.watchdog import EngineError, Watchdog, check_tables, failed_error, left_error
from veltair.serving.loop.backend import Arrival, BlockEnd, Closed, Command, Event, Resized, Woken
from veltair.serving.loop.policy import Allocation, Resize, Wake, Yield
from veltair.serving.loop.query import Query

__all__ = ["Engine", "EngineError", "Sample"]

BLOCKS_REMEMBERED = 4096
HUNG_STOP_S = 0.1  # what ends by then is not what hangs
LOAD_HANGS = (
    "the load of a model has not ended in {:g} s: see that the disk of the builds answers, or build the "
    "model anew (rule `build`)"
)


class Engine:
    """Runs blocks on the cores of this machine.

    Every answer is compared with the right one; `wrong_answers` counts those that differ by more than 1e-4
    relative. Times are seconds since the engine was made, on the monotonic clock (`zero_s`).
    """

    def __init__(
        self,
        models: Mapping[str, Servable],
        samples: Sequence[tuple[str, Sample]],
        qos_s: Mapping[str, float],
        costs: CostTable,
        machine: Machine,
        placement: Placement,
        interference: InterferenceSource,
        drain_s: float,
        launch: Launch,
    ) -> None:
        """Start the workers with `launch`. `samples` maps LoadGen's sample index to a model and its input.

        Raises EngineError if the cost table is another machine's.
        """
        check_tables(costs, machine)
        self._models, self._samples, self._qos_s = models, samples, qos_s
        self._costs, self._machine = costs, machine
        self._interference, self._drain_s = interference, drain_s
        # The next block waits for what is done at the end of one, and blocks repeat.
        self._profiled_s = lru_cache(BLOCKS_REMEMBERED)(lambda *block: profiled_s(self._costs, *block))
        self._pool = launch(machine.core_ids)
        self._idle = {name: [self._new_buffers(name) for _ in machine.core_ids] for name in models}
        self._holdings = Holdings(machine, remember(placement, machine))
        self._blocks: dict[int, RunningBlock] = {}
        self._buffers: dict[int, QueryBuffers] = {}
        self._query_samples: dict[int, tuple[str, Sample]] = {}
        self._progress = Progress(self._blocks, self._pool)
        self._watchdog = Watchdog(self._pool, costs, machine.core_ids)
        self._begin()

    def _begin(self) -> None:
        """Begin a run: the clock, and whatever of a run is not of the engine."""
        self.zero_s = time.monotonic()
        self.wrong_answers = 0
        self._messages: deque[EngineMessage] = deque()
        self._notices: deque[Notice] = deque()
        self._wakes: list[float] = []
        self._close_at_s: float | None = None
        self._closed = False
        self._background = BackgroundWorker(self._post_done, self.fail)
        self._background_jobs = 0

    # What other threads call.

    def arrive(self, query_id: int, sample: int, monotonic_s: float) -> None:
        """Take in a query, from any thread."""
        self._post(Arrived(query_id, sample, monotonic_s - self.zero_s))

    def flush(self) -> None:
        """No more queries will arrive."""
        self._post(Flushed(self.now_s()))

    def fail(self, error: Exception) -> None:
        """End the run with an error, from any thread."""
        self._post(Failed(error))

    def now_s(self) -> float:
        """Return seconds since the engine was made."""
        return time.monotonic() - self.zero_s

    def _post(self, message: EngineMessage) -> None:
        self._messages.append(message)
        self._pool.poke()

    def _post_done(self, on_done: OnDone) -> None:
        self._post(Done(on_done))

    # What serve() calls.

    def wait(self) -> Event | None:
        """Return the next event; None once arrivals are flushed, nothing runs and nothing is due.

        Raises EngineError if a kernel failed or hangs, or a core was taken away, and the error that `fail`
        was given.
        """
        while not self._closed:
            if self._messages and not self._notices:
                self._notices.extend(self._pool.wait(0.0))
            if self._notices:  # first, since they free cores
                event = self._on_notice(self._notices.popleft())
            elif self._messages:
                event = self._on_message(self._messages.popleft())
            elif self._is_over():
                return None
            else:
                event = self._poll()
            if event is not None:
                return event
        return None

    def do(self, command: Command) -> None:
        """Start a block on cores that the placement picks, change or end a running one, or wake at a time."""
        match command:
            case Allocation():
                self._start(command)
            case Resize():
                self._resize(command)
            case Yield(query_id=query_id):
                self._pool.yield_block(self._blocks[query_id].run)
            case Wake(time_s=time_s):
                heapq.heappush(self._wakes, time_s)

    def pressure(self) -> float:
        """Return the pressure that a block started now would meet: none where nothing runs."""
        return self._interference.pressure() if self._blocks else 0.0

    def progress(self) -> Mapping[int, int]:
        """Return how many layers of each running block have ended; a live view."""
        return self._progress

    def _start(self, allocation: Allocation) -> None:
        if allocation.shares_cores:
            raise EngineError(CANNOT_SHARE_CORES)
        query_id, block = allocation.query_id, allocation.block
        self._holdings.take(query_id, allocation.cores, allocation.first_core)
        first = block.start == 0
        if first:
            idle = self._idle[block.model]
            self._buffers[query_id] = idle.pop() if idle else self._new_buffers(block.model)
        buffers = self._buffers[query_id]
        last = block.stop == len(buffers.runnable.calls)
        _, sample = self._query_samples[query_id]
        grant = Grant(self._holdings.of(query_id), allocation.versions)
        run = BlockRun(
            query_id,
            buffers,
            block.start,
            block.stop,
            grant,
            put_in=sample if first else None,
            check=sample if last else None,
            least_s=least_layer_s(self._costs, allocation),
        )
        self._blocks[query_id] = RunningBlock(allocation, run, grant)
        self._pool.run(run)

    def _resize(self, resize: Resize) -> None:
        run = self._blocks[resize.query_id].run
        self._holdings.resize(resize.query_id, resize.cores)
        cores = self._holdings.of(resize.query_id)[: resize.cores]
        self._pool.resize(run, Grant(cores, resize.versions or run.grant.versions))

    # What else may be asked.

    def cores_of(self, query_id: int) -> tuple[int, ...]:
        """Return the cores that a query's block holds, those of its last grant first; none if none runs."""
        return self._holdings.of(query_id)

    def in_background(self, job: Job, on_done: OnDone) -> None:
        """Do a job on the background worker, after earlier ones, then call `on_done` on this thread.

        What that returns is the next event. The run is not over before that. An error of the job ends it.
        """
        self._background_jobs += 1
        self._background.submit(job, on_done)

    def renew(self) -> None:
        """Make the engine as it was when it was made, for another run; workers and buffers stay, warm.

        What a run that was cut off left running ends first. Raises EngineError if a kernel of it failed or
        hangs, or if a background job does not end.
        """
        if not self._background.stop(STOP_S):
            raise EngineError(LOAD_HANGS.format(STOP_S))
        while self._blocks:
            self._watchdog.check(self._blocks.values())
            for notice in [*self._notices, *self._pool.wait(self._watchdog.period_s)]:
                self._on_notice(notice)
            self._notices.clear()
        for query_id, buffers in self._buffers.items():
            model, _ = self._query_samples[query_id]
            self._idle[model].append(buffers)
        self._buffers.clear()
        self._query_samples.clear()
        self._begin()

    def stop(self) -> None:
        """Let running kernels and the background job that has begun end, and stop the threads.

        Raises EngineError if one does not end: only the end of the process will.
        """
        timeout_s = HUNG_STOP_S if self._watchdog.found_hang else STOP_S
        is_gone = self._background.stop(timeout_s)
        left = self._pool.stop(timeout_s)
        if self._watchdog.found_hang:
            return
        if left:
            raise left_error(left)
        if not is_gone:
            raise EngineError(LOAD_HANGS.format(timeout_s))

    def warm_up(self, names: Collection[str] | None = None) -> None:
        """Run every idle instance of some models, or of all, once, so that no query pays for first touches.

        The models are in memory. Raises EngineError if one fails or hangs.
        """
        warm_up_models(
            *(self._pool, self._watchdog, self._costs, self._machine.core_ids),
            *(self._idle, self._samples, names),
        )

    # Accounts.

    def _new_buffers(self, model: str) -> QueryBuffers:
        return self._pool.bind(self._models[model].instance(), model)

    def _is_over(self) -> bool:
        is_idle = not self._blocks and not self._wakes and not self._background_jobs
        return self._close_at_s is not None and is_idle

    def _poll(self) -> Event | None:
        """Wait for what happens or is due next."""
        due = self._wakes[:1] if self._close_at_s is None else [*self._wakes[:1], self._close_at_s]
        timeout_s = max(0.0, min(due) - self.now_s()) if due else None
        if self._blocks:
            self._watchdog.check(self._blocks.values())
            period_s = self._watchdog.period_s
            timeout_s = period_s if timeout_s is None else min(timeout_s, period_s)
        self._notices.extend(self._pool.wait(timeout_s))
        if self._notices or self._messages or not due or min(due) > self.now_s():
            return None
        return self._due()

    def _due(self) -> Event:
        if self._wakes and (self._close_at_s is None or self._wakes[0] <= self._close_at_s):
            return Woken(max(heapq.heappop(self._wakes), self.now_s()))
        self._closed = True
        return Closed(self.now_s())

    def _on_message(self, message: EngineMessage) -> Event | None:
        match message:
            case Arrived():
                model, _ = self._query_samples[message.query_id] = self._samples[message.sample]
                query = Query(message.query_id, model, message.time_s, self._qos_s[model])
                return Arrival(message.time_s, query)
            case Flushed():
                self._close_at_s = message.time_s + self._drain_s
                return None
            case Done(on_done=on_done):
                self._background_jobs -= 1
                return on_done()
            case Failed(error=error):
                raise error

    def _on_notice(self, notice: Notice) -> Event | None:
        if isinstance(notice, Ended):
            return self._end(notice)
        block, grant = notice.block, notice.grant
        if grant is not block.grant:
            return None  # a newer one is on its way or in use: only the last frees cores for sure
        self._holdings.adopt(block.query_id, len(grant.cores))
        return Resized(notice.monotonic_s - self.zero_s, block.query_id, len(grant.cores))

    def _end(self, ended: Ended) -> Event:
        query_id = ended.block.query_id
        started = self._blocks.pop(query_id)
        self._raise(ended, started.allocation)
        self._holdings.release(query_id)
        block = started.allocation.block
        next_layer = block.start + ended.ended_layers
        self._observe(started, next_layer, ended.busy_s)
        if next_layer == len(ended.block.buffers.runnable.calls):
            self.wrong_answers += ended.wrong_outputs
            self._idle[block.model].append(self._buffers.pop(query_id))
            del self._query_samples[query_id]
        return BlockEnd(ended.monotonic_s - self.zero_s, query_id, next_layer)

    def _raise(self, ended: Ended, allocation: Allocation) -> None:
        if isinstance(ended.error, CoreLostError):
            raise EngineError(f"{allocation.block.model}: {ended.error}") from ended.error
        if ended.error is not None:
            self._watchdog.check_allowance()  # where that is why, it must not be put on the kernel
            block = allocation.block
            raise failed_error(block.start + ended.ended_layers, block.model, ended.error) from ended.error

    def _observe(self, started: RunningBlock, next_layer: int, busy_s: float) -> None:
        run, allocation = started.run, started.allocation
        if run.grant is not started.first_grant or run.least_s:
            return  # changed under way, or held back: no profiled time to compare with
        block, versions = allocation.block, run.grant.versions
        if next_layer < block.stop:
            block = LayerBlock(block.model, block.start, next_layer)
            versions = versions[: len(block)]
        alone_s, pressed_s = self._profiled_s(block, versions, allocation.cores)
        self._interference.observe(busy_s, alone_s, pressed_s)

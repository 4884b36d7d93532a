"""The backend in real time: real kernels on pinned cores.

One thread, the one that calls wait(), decides and keeps all books. Workers and LoadGen's reader only put
notices on one queue.
"""

import heapq
import queue
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veltair.compiler.samples import Samples, relative_error
from veltair.machine.cost import CostTable
from veltair.machine.gang import BlockRun, Gang, Grant
from veltair.machine.interference import InterferenceSource
from veltair.machine.library import Instance, LoadedModel
from veltair.machine.placement import Placement
from veltair.machine.topology import Machine
from veltair.serving.dispatcher import Arrival, BlockEnd, Closed, Event, Resized, Woken
from veltair.serving.policy import Allocation, Resize
from veltair.serving.query import Query

OUTPUT_TOLERANCE = 1e-4  # versions differ in the order of their sums


class EngineError(RuntimeError):
    """A run on real cores failed; the message says where and what to do."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An array for each input of a model, and its right answer."""

    values: Samples
    answer: tuple[NDArray[Any], ...]


@dataclass(frozen=True, slots=True)
class _Arrived:
    query_id: int
    sample: int
    time_s: float


@dataclass(frozen=True, slots=True)
class _Ended:
    block: BlockRun
    error: Exception | None
    time_s: float


@dataclass(frozen=True, slots=True)
class _Adopted:
    block: BlockRun
    grant: Grant
    time_s: float


@dataclass(frozen=True, slots=True)
class _Flushed:
    time_s: float


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


_Notice = _Arrived | _Ended | _Adopted | _Flushed | _Failed


class Engine:
    """Runs blocks on the cores of this machine.

    Every answer is compared with the right one; `wrong_answers` counts those that differ by more than 1e-4
    relative. Times are seconds since the engine was made, on the monotonic clock (`zero_s`).
    """

    def __init__(
        self,
        models: Mapping[str, LoadedModel],
        samples: Sequence[tuple[str, Sample]],
        qos_s: Mapping[str, float],
        costs: CostTable,
        machine: Machine,
        placement: Placement,
        interference: InterferenceSource,
        drain_s: float,
    ) -> None:
        """Start the workers. `samples` maps LoadGen's sample index to a model and its input.

        Raises EngineError if the cost table is another machine's.
        """
        if costs.machine != machine.name:
            raise EngineError(
                f"the cost table is of {costs.machine}, this machine is {machine.name}; measure it here "
                "(`profile.costs: measured`) or only simulate (`measured.enabled: false`)"
            )
        self.zero_s = time.monotonic()
        self.wrong_answers = 0
        self._models, self._samples, self._qos_s = models, samples, qos_s
        self._costs, self._machine, self._place = costs, machine, placement
        self._interference, self._drain_s = interference, drain_s
        self._notices: queue.SimpleQueue[_Notice] = queue.SimpleQueue()
        self._idle = {name: [model.instance() for _ in machine.core_ids] for name, model in models.items()}
        self._gang = Gang(machine.core_ids)
        self._free = set(machine.core_ids)
        self._held: dict[int, set[int]] = {}
        self._blocks: dict[int, BlockRun] = {}
        self._allocations: dict[int, Allocation] = {}
        self._first_grants: dict[int, Grant] = {}
        self._instances: dict[int, Instance] = {}
        self._query_samples: dict[int, Sample] = {}
        self._wakes: list[float] = []
        self._close_at_s: float | None = None
        self._closed = False

    # What other threads call.

    def arrive(self, query_id: int, sample: int, monotonic_s: float) -> None:
        """Take in a query, from any thread."""
        self._notices.put(_Arrived(query_id, sample, monotonic_s - self.zero_s))

    def flush(self) -> None:
        """No more queries will arrive."""
        self._notices.put(_Flushed(self.now_s()))

    def fail(self, error: Exception) -> None:
        """End the run with an error, from any thread."""
        self._notices.put(_Failed(error))

    def now_s(self) -> float:
        """Return seconds since the engine was made."""
        return time.monotonic() - self.zero_s

    # What serve() calls.

    def wait(self) -> Event | None:
        """Return the next event; None once arrivals are flushed, nothing runs and nothing is due.

        Raises EngineError if a kernel failed, and the error that `fail` was given.
        """
        while not self._is_over():
            due = self._wakes[:1] if self._close_at_s is None else [*self._wakes[:1], self._close_at_s]
            timeout_s = max(0.0, min(due) - self.now_s()) if due else None
            try:
                notice = self._notices.get(timeout=timeout_s)
            except queue.Empty:
                return self._due()
            if (event := self._book(notice)) is not None:
                return event
        return None

    def start(self, allocation: Allocation) -> None:
        """Run a block on cores that the placement picks."""
        query_id, block = allocation.query_id, allocation.block
        cores = self._place(allocation.cores, self._free, self._machine, ())
        self._hold(query_id, cores)
        first = block.start == 0
        if first:
            idle = self._idle[block.model]
            self._instances[query_id] = idle.pop() if idle else self._models[block.model].instance()
        instance = self._instances[query_id]
        run = BlockRun(
            query_id,
            instance.calls[block.start : block.stop],
            Grant(cores, allocation.versions),
            on_resized=self._on_resized,
            on_end=self._on_end,
            before=(lambda: self._put_in(query_id)) if first else None,
            after=(lambda: self._check(query_id)) if block.stop == len(instance.calls) else None,
        )
        self._blocks[query_id] = run
        self._allocations[query_id] = allocation
        self._first_grants[query_id] = run.grant
        self._gang.run(run)

    def resize(self, resize: Resize) -> None:
        """Grant a running block other cores; it adopts them at its next layer end."""
        run = self._blocks[resize.query_id]
        cores = run.grant.cores
        if resize.cores > len(cores):
            held = self._held[resize.query_id]
            # Cores that an earlier grant has yet to give back are its own still.
            own = [core for core in sorted(held) if core not in cores][: resize.cores - len(cores)]
            cores = (*cores, *own)
            if missing := resize.cores - len(cores):
                gained = self._place(missing, self._free, self._machine, tuple(held))
                self._hold(resize.query_id, gained)
                cores = (*cores, *gained)
        run.grant = Grant(cores[: resize.cores], resize.versions or run.grant.versions)

    def wake_at(self, time_s: float) -> None:
        """Deliver Woken at that time."""
        heapq.heappush(self._wakes, time_s)

    def pressure(self) -> float:
        """Return the pressure that a block started now would meet: none where nothing runs."""
        return self._interference.pressure() if self._blocks else 0.0

    def progress(self) -> Mapping[int, int]:
        """Return how many layers of each running block have ended."""
        return {query_id: run.ended_layers for query_id, run in self._blocks.items()}

    def stop(self) -> None:
        """Let running kernels end and stop the workers."""
        self._gang.stop()

    def warm_up(self) -> None:
        """Run every idle instance once, so that no query pays for first touches."""
        done: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        for name, instances in self._idle.items():
            solo = tuple(int(version) for version in self._costs.model(name).solo)
            sample = next(sample for model, sample in self._samples if model == name)
            for instance in instances:
                instance.set_inputs(sample.values)
                grant = Grant(self._machine.core_ids, solo)
                self._gang.run(
                    BlockRun(-1, instance.calls, grant, lambda *_: None, lambda _, error: done.put(error))
                )
                if (error := done.get()) is not None:
                    raise EngineError(
                        f"{name} fails to run: {error}; build it anew (rule `build`)"
                    ) from error

    # Books.

    def _is_over(self) -> bool:
        idle = not self._blocks and not self._wakes and self._notices.empty()
        return self._closed or (self._close_at_s is not None and idle)

    def _due(self) -> Event:
        if self._wakes and (self._close_at_s is None or self._wakes[0] <= self._close_at_s):
            return Woken(max(heapq.heappop(self._wakes), self.now_s()))
        self._closed = True
        return Closed(self.now_s())

    def _book(self, notice: _Notice) -> Event | None:
        match notice:
            case _Arrived():
                model, sample = self._samples[notice.sample]
                self._query_samples[notice.query_id] = sample
                query = Query(notice.query_id, model, notice.time_s, self._qos_s[model])
                return Arrival(notice.time_s, query)
            case _Ended():
                return self._end(notice)
            case _Adopted(block=block, grant=grant):
                if grant is not block.grant:
                    return None  # a newer one is on its way or in use: only the last frees cores for sure
                self._release(block.query_id, self._held[block.query_id].difference(grant.cores))
                return Resized(notice.time_s, block.query_id, len(grant.cores))
            case _Flushed():
                self._close_at_s = notice.time_s + self._drain_s
                return None
            case _Failed(error=error):
                raise error

    def _end(self, ended: _Ended) -> Event:
        query_id = ended.block.query_id
        allocation = self._allocations.pop(query_id)
        if ended.error is not None:
            raise EngineError(
                f"a kernel of {allocation.block} failed after {ended.block.ended_layers} layers: "
                f"{ended.error}; "
                "build the model anew (rule `build`)"
            ) from ended.error
        del self._blocks[query_id]
        self._release(query_id, set(self._held[query_id]))
        self._observe(allocation, ended.block)
        if ended.block.after is not None:
            self._idle[allocation.block.model].append(self._instances.pop(query_id))
            del self._query_samples[query_id]
        return BlockEnd(ended.time_s, query_id)

    def _observe(self, allocation: Allocation, run: BlockRun) -> None:
        if run.grant is not self._first_grants.pop(run.query_id):
            return  # changed under way: no profiled time to compare with
        costs = self._costs.model(allocation.block.model)
        layers = np.arange(allocation.block.start, allocation.block.stop)
        cores = self._costs.core_index(allocation.cores)
        seconds = costs.seconds[layers, run.grant.versions, cores]
        self._interference.observe(
            sum(run.layer_seconds), float(seconds[:, 0].sum()), float(seconds[:, -1].sum())
        )

    def _hold(self, query_id: int, cores: Sequence[int]) -> None:
        if not self._free.issuperset(cores):
            raise EngineError(f"cores {sorted(set(cores) - self._free)} would be used by two blocks at once")
        self._free.difference_update(cores)
        self._held.setdefault(query_id, set()).update(cores)

    def _release(self, query_id: int, cores: set[int]) -> None:
        self._held[query_id] -= cores
        if not self._held[query_id]:
            del self._held[query_id]
        self._free |= cores

    # What workers call.

    def _on_resized(self, block: BlockRun, grant: Grant) -> None:
        self._notices.put(_Adopted(block, grant, self.now_s()))

    def _on_end(self, block: BlockRun, error: Exception | None) -> None:
        self._notices.put(_Ended(block, error, self.now_s()))

    def _put_in(self, query_id: int) -> None:
        self._instances[query_id].set_inputs(self._query_samples[query_id].values)

    def _check(self, query_id: int) -> None:
        outputs = self._instances[query_id].outputs
        for tensor, right in zip(outputs, self._query_samples[query_id].answer, strict=True):
            if relative_error(tensor.numpy(), right) > OUTPUT_TOLERANCE:
                self.wrong_answers += 1

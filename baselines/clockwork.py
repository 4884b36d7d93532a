"""Clockwork: executors that do one thing at a time, whose ends are predicted; late queries are not begun.

Faithful: each executor runs whole models, one block at a time, as batches where the model was built for them.
How long a block takes is predicted from the last ten of its model and batch size: their 99th percentile,
which of ten is the longest; before there were any it is the profiled time. The query of the earliest latest
start (its deadline less that prediction) is next, with the largest batch of its model's waiting queries that
ends before that deadline. A query that cannot end in time is rejected before anything is spent on it. Memory
for models is managed here, in pages: one load at a time, of the model with most predicted work waiting for
it; the least recently used gives way. A query of a cold model is as late as the load makes it.

The port: executors are equal slices of the cores of one CPU, and a model's block runs on the count within
a slice that suits it best. Actions are not sent ahead (the paper plans some ms): an executor that is free
starts at once, so no action comes too late to its worker, and what would be rejected there is rejected here.
A prediction by which no query would be in time is forgotten, for it would not be measured again. No model
gives way for one with less work waiting. With `loads: exclusive` nothing runs beside a load, one
resource at a time as in the authors' "No DNN Left Behind"; `beside` runs other models meanwhile. With
`drop_late: never` late queries keep their turn. A query alone has one executor, so an idle system serves it
slower than it could.

Paper: Clockwork (Gujarati et al., OSDI 2020).
Unit: whole model, several queries where built for them.
Preemption: none.
Cores: equal slices, one block each.
Memory: weights loaded and evicted within a budget.
Versions: solo.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from enum import StrEnum
from math import ceil
from typing import Annotated, Any, ClassVar

from pydantic import Field

from veltair.serving.loop.policy import Allocation, Answer, Context, Evict, Load, Pending, Snapshot
from veltair.serving.policies.batch_times import BatchTimes
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions, admit, round_down

MEASURED = 10
PERCENTILE = 0.99
MIB = 2**20


class Loads(StrEnum):
    """What runs during the load of a model."""

    BESIDE = "beside"
    """Blocks of other models."""
    EXCLUSIVE = "exclusive"
    """Nothing."""


class Pages:
    """The memory for models in pages: which models give way for another."""

    def __init__(self, context: Context, page_bytes: float) -> None:
        limits = context.memory
        self.is_bounded = limits is not None
        if limits is None:
            return
        self._all = int(limits.budget_bytes // page_bytes)
        self._needed = {name: ceil(nbytes / page_bytes) for name, nbytes in limits.model_bytes.items()}
        self._used: dict[str, None] = {}  # the least recently used first
        for name, needed in self._needed.items():
            if needed > self._all:
                raise ValueError(
                    f"Clockwork: {name} takes {needed} pages of {page_bytes / MIB:g} MiB, of which the "
                    f"memory for models has {self._all}; raise `memory_mb`, or lower `page_mib`"
                )

    def use(self, model: str) -> None:
        """Let a model be the most recently used."""
        if self.is_bounded:
            self._used.pop(model, None)
            self._used[model] = None

    def room_for(self, model: str, resident: Sequence[str], stay: Sequence[str]) -> list[str] | None:
        """Return which resident models give way, those in `stay` never; None if that leaves no room."""
        free = self._all - sum(self._needed[name] for name in resident)
        leaving: list[str] = []
        for name in self._used:
            if free >= self._needed[model]:
                break
            if name in resident and name not in stay:
                leaving.append(name)
                free += self._needed[name]
        return leaving if free >= self._needed[model] else None


class Clockwork:
    """Serves whole models on `executors` slices, each query in time or not at all, from a cache of models."""

    loads_models: ClassVar[bool] = True
    preset_exceptions: ClassVar[Mapping[str, object]] = {"drop_late": DropLate.WHEN_DOOMED.value}

    def __init__(
        self,
        context: Context,
        *,
        executors: Annotated[int, Field(ge=1)],
        drop_late: DropLate,
        loads: Loads = Loads.BESIDE,
        page_mib: Annotated[float, Field(gt=0)] = 16.0,
    ) -> None:
        self._times = BatchTimes(context)
        counts, cores = self._times.counts, context.machine.cores
        self._slice = round_down(cores // executors, counts)
        if not self._slice:
            raise ValueError(
                f"Clockwork: executors is {executors}, on {cores} cores of which at least {counts[0]} are "
                f"given at a time; give at most {cores // counts[0]}"
            )
        self._executors, self._exclusive = executors, loads is Loads.EXCLUSIVE
        self._options = QueueOptions(Order.LLF, Conflict.WAIT, drop_late)
        self._load_s = {} if context.memory is None else context.memory.load_s
        self._pages = Pages(context, page_mib * MIB)
        self._blocks: dict[int, tuple[str, int]] = {}  # model and batch size of each that runs, by its query
        self._measured: dict[tuple[str, int], deque[float]] = {}
        self._predicted: dict[tuple[str, int], float] = {
            (model, size): self._times.least_s(model, size, self._slice)
            for model, sizes in self._times.sizes.items()
            for size in sizes
        }

    @staticmethod
    def least_partitions(options: Mapping[str, Any], tenants: int) -> int:
        """Return how many executors there are, a slice each."""
        return int(options["executors"])

    def predicted_s(self, model: str, queries: int) -> float:
        """Return how long a block is predicted to take."""
        return self._predicted[model, queries]

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late, a block for each idle executor, and the next load."""
        self._measure(snapshot)
        until_s = {name: self._cold_s(snapshot, name) for name in self._times.sizes}
        waiting, late = admit(
            snapshot,
            self._options,
            lambda entry: until_s[entry.query.model] + self._predicted[entry.query.model, 1],
        )
        if not self._pages.is_bounded:
            return [*late, *self._starts(snapshot, waiting)]
        if self._exclusive:
            return [*late, *self._one_at_a_time(snapshot, waiting)]
        starts = self._starts(snapshot, waiting)
        begun = {query_id for start in starts for query_id in (start.query_id, *start.others)}
        left = [entry for entry in waiting if entry.query.id not in begun]
        return [*late, *starts, *self._loads(snapshot, left, [start.block.model for start in starts])]

    def _measure(self, snapshot: Snapshot) -> None:
        for record in snapshot.ended:
            block = self._blocks.pop(record.query.id, None)
            if block is not None:
                last = self._measured.setdefault(block, deque(maxlen=MEASURED))
                last.append(record.end_s - record.start_s)
                self._predicted[block] = sorted(last)[ceil(PERCENTILE * len(last)) - 1]
                if self._predicted[block] > record.query.qos_s:
                    last.clear()
                    self._predicted[block] = self._times.least_s(*block, self._slice)

    def _cold_s(self, snapshot: Snapshot, model: str) -> float:
        """Return how long it takes at least until blocks of a model can start."""
        if not self._pages.is_bounded or model in snapshot.resident:
            return 0.0
        under_way_s = 0.0
        if snapshot.load is not None:
            under_way_s = max(0.0, snapshot.load.end_s - snapshot.time_s)
            if snapshot.load.model == model:
                return under_way_s
        return under_way_s + self._load_s[model]

    def _starts(self, snapshot: Snapshot, waiting: Sequence[Pending]) -> list[Allocation]:
        starts: list[Allocation] = []
        taken: set[int] = set()
        idle, free_cores = self._executors - len(snapshot.running), snapshot.free_cores
        for position, entry in enumerate(waiting):
            if not idle or free_cores < self._times.counts[0]:
                break
            model = entry.query.model
            if entry.query.id in taken or (self._pages.is_bounded and model not in snapshot.resident):
                continue
            chosen = self._batch(snapshot.time_s, waiting, position, taken)
            most = min(self._slice, free_cores)
            starts.append(self._times.start(model, chosen, most, self._slice))
            taken.update(chosen)
            self._blocks[chosen[0]] = model, len(chosen)
            self._pages.use(model)
            idle, free_cores = idle - 1, free_cores - starts[-1].cores
        return starts

    def _batch(self, time_s: float, waiting: Sequence[Pending], first: int, taken: set[int]) -> list[int]:
        """Return the queries of the largest batch that begins with one and ends by its deadline, or that."""
        query = waiting[first].query
        sizes, slack_s = self._times.sizes[query.model], query.deadline_s - time_s
        in_time = [size for size in sizes if self._predicted[query.model, size] <= slack_s]
        most = max(in_time, default=1)
        found: list[int] = []
        for entry in waiting[first:]:
            if len(found) == most:
                break
            if entry.query.model == query.model and entry.query.id not in taken:
                found.append(entry.query.id)
        return found[: max(size for size in (1, *in_time) if size <= len(found))]

    def _one_at_a_time(self, snapshot: Snapshot, waiting: Sequence[Pending]) -> Sequence[Answer]:
        """Return blocks or a load, neither of which begins before the other has ended."""
        if snapshot.load is not None:
            return ()
        wanted = self._loads(snapshot, waiting, ())
        if not wanted:
            return self._starts(snapshot, waiting)
        return wanted if not snapshot.running else ()

    def _loads(
        self, snapshot: Snapshot, waiting: Sequence[Pending], starting: Sequence[str]
    ) -> Sequence[Load | Evict]:
        """Return the load of the cold model with most work waiting, after who gives way; or nothing."""
        if snapshot.load is not None:
            return ()
        demand_s = dict.fromkeys(self._times.sizes, 0.0)
        for entry in waiting:
            demand_s[entry.query.model] += self._predicted[entry.query.model, 1]
        resident = list(snapshot.resident)
        cold = [name for name, work_s in demand_s.items() if work_s and name not in resident]
        if not cold:
            return ()
        model = max(cold, key=lambda name: demand_s[name])
        stay = [name for name in resident if demand_s[name] >= demand_s[model]]
        if not self._exclusive:
            stay += [*starting, *(running.block.model for running in snapshot.running)]
        leaving = self._pages.room_for(model, resident, stay)
        if leaving is None:
            return ()
        if not (self._exclusive and snapshot.running):
            self._pages.use(model)
        return [*(Evict(name) for name in leaving), Load(model)]

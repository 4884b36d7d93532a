"""Every query starts at once, on as many threads as the machine has cores; the operating system shares these.

What a server does that calls one session of a runtime from many threads and leaves both at their defaults:
each call runs on a thread for each core, and nobody counts them. Faithful: a query starts as soon as one of
`callers` threads is free, at most as many as Python's own pool has, else in the order of the options; it has
as many threads as the machine has cores (`threads: all`), or as suit its model best (`best`). The port: time
is shared in equal parts by threads, as Linux does where all have one priority, and what a layer takes longer
for it was measured by threads that meet at its end as those of a runtime do (`simulated.oversubscription`).
Blocks of the engine have cores of their own, so this policy runs in the simulator; on this machine ONNX
Runtime, with one session a model and as many callers, is measured beside the policies (rule
`benchmarks_engine`, `onnxruntime default`).

Paper: none; what ONNX Runtime does by default.
Unit: whole model.
Preemption: by the operating system, in time slices.
Cores: all for each query, shared in equal parts.
Memory: not managed.
Versions: solo.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import MOST_SHARING, Allocation, Answer, Context, Pending, Snapshot
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions, admit, round_down
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule

MORE_THAN_CORES = 4  # callers, up to MOST_SHARING: the threads of concurrent.futures.ThreadPoolExecutor


class Threads(StrEnum):
    """How many threads a query has."""

    ALL = "all"
    """As many as there are cores."""
    BEST = "best"
    """As many as suit its model best."""


class Oversubscribed:
    """Lets all queries run that have a caller; late is who would be late with all cores to itself."""

    simulated_only: ClassVar[str] = "blocks of the engine have cores of their own"
    blocks_share_cores: ClassVar[bool] = True

    def __init__(
        self,
        context: Context,
        *,
        order: Order,
        drop_late: DropLate,
        threads: Threads = Threads.ALL,
        callers: Annotated[int, Field(ge=1, le=MOST_SHARING)] | None = None,
    ) -> None:
        self._tables = LatencyTables(context, VersionRule.SOLO_ALONE)
        self._options = QueueOptions(order, Conflict.WAIT, drop_late)
        self._layers = {name: len(model.layers) for name, model in context.models.items()}
        every = round_down(context.machine.cores, self._tables.counts)
        self._threads = {
            name: every if threads is Threads.ALL else self._tables.best_cores(name, 0)
            for name in context.models
        }
        self.callers = callers or min(MOST_SHARING, context.machine.cores + MORE_THAN_CORES)

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late, and the queries that a caller takes now."""
        waiting, late = admit(snapshot, self._options, self._least_s)
        idle = self.callers - len(snapshot.running)
        return [*late, *(self._start(entry) for entry in waiting[:idle])]

    def _start(self, entry: Pending) -> Allocation:
        model = entry.query.model
        cores, block = self._threads[model], LayerBlock(model, entry.next_layer, self._layers[model])
        versions = self._tables.versions(block, 0, cores)
        return Allocation(entry.query.id, block, versions, cores, shares_cores=True)

    def _least_s(self, entry: Pending) -> float:
        model = entry.query.model
        index = self._tables.counts.index(self._threads[model])
        return self._tables.remaining_s(model, entry.next_layer, 0)[index]

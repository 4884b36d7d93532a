"""PREMA: tokens that waiting earns, the shortest job among those that have enough, preemption at layer ends.

Faithful: one query runs at a time, on the cores that suit it best. A query's token starts at its priority
and grows, at each scheduling point, by priority x (time waited since the last one) / (its time alone). The
threshold is the largest of 1, 3, 9 that the highest token reaches; of the queries that reach it, the one
with the shortest time left runs, and preempts whoever runs. Scheduling points are arrivals, ends, and a
period while somebody waits. (Where other published code adds the whole waiting time anew at each point,
this does not.) The port: preemption is a yield at the next layer end, so the paper's choice between
checkpoint, drain and kill is that of a layer end or, in the last layer, the query's own; all have priority
1 but where `priorities` names a model. The period is from memory of the paper.

Paper: PREMA (Choi and Rhu, HPCA 2020).
Unit: whole model, until it is preempted.
Preemption: yields at layer ends.
Cores: one query at a time on those that suit it best.
Memory: not managed.
Versions: solo.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from pydantic import Field

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Allocation, Answer, Context, Pending, Running, Snapshot, Wake, Yield
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions, admit
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule

THRESHOLDS = (9.0, 3.0, 1.0)

Priority = Annotated[float, Field(ge=1)]


class Prema:
    """Runs the shortest of the queries that have waited long for their length."""

    def __init__(
        self,
        context: Context,
        *,
        drop_late: DropLate,
        period_s: Annotated[float, Field(gt=0)] = 0.00025,
        priorities: Mapping[str, Priority] | None = None,
    ) -> None:
        self._tables = LatencyTables(context, VersionRule.SOLO_ALONE)
        self._options = QueueOptions(Order.FCFS, Conflict.WAIT, drop_late)
        self._models = context.models
        self._period_s = period_s
        self._priorities = {name: (priorities or {}).get(name, 1.0) for name in context.models}
        self._tokens: dict[int, float] = {}
        self._waits_since_s: dict[int, float] = {}
        self._wake_s = -1.0

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late, and who starts, or that who runs yields."""
        for record in snapshot.ended:
            self._tokens.pop(record.query.id, None)
            self._waits_since_s.pop(record.query.id, None)
        waiting, late = admit(
            snapshot, self._options, lambda entry: self._left_s(entry.query.model, entry.next_layer)
        )
        self._age(waiting, snapshot.time_s)
        if not waiting:
            return late
        running = next(iter(snapshot.running), None)
        chosen = self._chosen(waiting, running, snapshot.progress)
        if running is None:
            return [*late, *(self._start(entry) for entry in chosen)]
        return [*late, *self._yields(running, chosen, snapshot.progress), *self._woken(snapshot.time_s)]

    def _age(self, waiting: Sequence[Pending], time_s: float) -> None:
        """Add to the tokens what the time since the last scheduling point is worth."""
        for entry in waiting:
            query = entry.query
            priority = self._priorities[query.model]
            waited_s = time_s - self._waits_since_s.get(query.id, time_s)
            earned = priority * waited_s / self._left_s(query.model, 0)
            self._tokens[query.id] = self._tokens.get(query.id, priority) + earned
            self._waits_since_s[query.id] = time_s

    def _chosen(
        self, waiting: Sequence[Pending], running: Running | None, progress: Mapping[int, int]
    ) -> list[Pending]:
        """Return the one waiting query that is to run now; none if that is the query that runs."""
        tokens = [self._tokens[entry.query.id] for entry in waiting]
        if running is not None:
            tokens.append(self._tokens[running.query.id])
        threshold = threshold_of(max(tokens))
        enough = [entry for entry, token in zip(waiting, tokens, strict=False) if token >= threshold]
        if running is not None and tokens[-1] >= threshold:
            next_layer = running.block.start + progress.get(running.query.id, 0)
            left_s = self._left_s(running.query.model, next_layer)
            enough = [entry for entry in enough if self._entry_left_s(entry) < left_s]
        return [min(enough, key=self._entry_left_s)] if enough else []

    def _yields(
        self, running: Running, chosen: Sequence[Pending], progress: Mapping[int, int]
    ) -> Iterator[Yield]:
        """Yield the answer that makes room; none in a last layer, whose end makes room anyhow."""
        ended = progress.get(running.query.id, 0)
        if chosen and not running.yields and ended + 1 < len(running.block):
            yield Yield(running.query.id)

    def _woken(self, time_s: float) -> list[Wake]:
        """Return the wake-up at the next scheduling point, if none is under way."""
        if self._wake_s > time_s:
            return []
        self._wake_s = time_s + self._period_s
        return [Wake(self._wake_s)]

    def _start(self, entry: Pending) -> Allocation:
        model, first = entry.query.model, entry.next_layer
        del self._waits_since_s[entry.query.id]
        cores = self._tables.best_cores(model, 0, first)
        block = LayerBlock(model, first, len(self._models[model].layers))
        return Allocation(entry.query.id, block, self._tables.versions(block, 0, cores), cores)

    def _entry_left_s(self, entry: Pending) -> float:
        return self._left_s(entry.query.model, entry.next_layer)

    def _left_s(self, model: str, first: int) -> float:
        return self._tables.least_remaining_s(model, first, 0)


def threshold_of(highest: float) -> float:
    """Return the largest threshold that the highest token reaches; the smallest if it reaches none."""
    return next((threshold for threshold in THRESHOLDS if threshold <= highest), THRESHOLDS[-1])

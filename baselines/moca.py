"""MoCA: co-runners throttled in memory traffic, by priority and slack, once they ask for more than there is.

Faithful: the machine is divided into groups of cores, each runs one query at a time. Who comes next has the
highest score, priority + (time waited / time alone); beside a memory-intensive model the first that is none
goes ahead. When a part of a query begins that asks, with those that run, for more than the memory gives, its
bandwidth is what it asks for less its part of the excess: excess x W / (w + W), where w is its weight, what
it asks for x (priority + time left / slack), and W the sum of those of the others. Nobody is throttled below
an equal part. (The public code puts the score of the layer that begins in the place of the others' scores, so
that they cancel out, and the time since arrival in that of slack; this does not.) It lets queries ask for
1.5 times what the memory gives before it throttles (`limit`).

The port: the paper counts the requests of an accelerator tile in a window and holds it back; here a block has
a bandwidth that its traffic may not pass (`Allocation.dram_bytes_per_s`). Real kernels are held back by what
the cost table says that they move: the parallel loops of a layer go on in even steps, so that it takes as
long as its bytes do. A part is a run of consecutive layers of one kind, memory-bound or not, as each start of
a block costs what the paper's registers do not: a layer is memory-bound, and a model memory-intensive, if on
a group alone it draws more than an equal part of the bandwidth. As in the public code, what was set for a
part holds until it ends. Unless `groups` says so, there are four, as there, or as many as leave each model
its target: the most on which it takes at most `service_share` of that alone. All have priority 1 but where
`priorities` names a model. The slack of a query that is late is spent: it counts with its priority. A query
alone has one group, so an idle system serves it slower than it could.

Paper: MoCA (Kim, Genc, Nikiforov, Asanović, Nikolić and Shao, HPCA 2023).
Unit: consecutive layers, memory-bound or not.
Preemption: none.
Cores: equal groups, one query each.
Memory: bandwidth by demand, priority and slack, once it is short.
Versions: solo.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from baselines.ai_mt import units_of
from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Allocation, Answer, Context, Pending, Snapshot
from veltair.serving.loop.query import Query
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions, admit, round_down
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule
from veltair.serving.policies.slices import SliceTimes, most_slices

GROUPS = 4


@dataclass(frozen=True, slots=True)
class Claim:
    """What a part of a query asks of the memory, in bytes/s, and how much it counts."""

    bytes_per_s: float
    score: float

    @property
    def weight(self) -> float:
        """By what the excess is shared out: to nobody else is it left more."""
        return self.score * self.bytes_per_s


class Moca:
    """Serves one query on each of some groups of cores; late is who is late on one."""

    def __init__(
        self,
        context: Context,
        *,
        drop_late: DropLate,
        groups: Annotated[int, Field(ge=1)] | None = None,
        service_share: Annotated[float, Field(gt=0, le=1)] = 0.5,
        limit: Annotated[float, Field(gt=0)] = 1.0,
        priorities: Mapping[str, Annotated[float, Field(gt=0)]] | None = None,
    ) -> None:
        tables = LatencyTables(context, VersionRule.SOLO_ALONE)
        self._context, self._counts, self._times = context, tables.counts, SliceTimes(tables)
        self._options = QueueOptions(Order.FCFS, Conflict.WAIT, drop_late)
        self.groups = groups or min(GROUPS, most_slices(context, tables.counts, self._times, service_share))
        self._size = round_down(context.machine.cores // self.groups, tables.counts)
        if not self._size:
            raise ValueError(
                f"Moca: groups is {groups}, on {context.machine.cores} cores of which at least "
                f"{tables.counts[0]} are given at a time; give at most "
                f"{context.machine.cores // tables.counts[0]}"
            )
        self._bytes_per_s = context.machine.dram_bytes_per_s
        self._most, self._part = limit * self._bytes_per_s, self._bytes_per_s / self.groups
        self._priorities = {name: (priorities or {}).get(name, 1.0) for name in context.models}
        self._drawn: dict[tuple[LayerBlock, int], float] = {}
        self._units = {name: units_of(name, self.memory_bound(name)) for name in context.models}
        self._whole = {name: LayerBlock(name, 0, len(model.layers)) for name, model in context.models.items()}
        self._intensive = {name: self._asked(block) > self._part for name, block in self._whole.items()}

    def memory_bound(self, model: str) -> tuple[bool, ...]:
        """Return of each layer whether on a group it draws more than an equal part of the bandwidth."""
        moved, seconds = self._of_layers(model, self._size)
        bound: list[bool] = (moved / seconds > self._part).tolist()
        return tuple(bound)

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late, and what starts on the idle groups, with its bandwidth."""
        waiting, late = admit(snapshot, self._options, self._left_s)
        served = [running.query for running in snapshot.running]
        time_s, claims, starts = snapshot.time_s, list[Claim](), list[Answer]()
        for running in snapshot.running:
            score = self._score(running.query, running.block.start, time_s)
            claims.append(Claim(self._asked(running.block, running.cores), score))
        for entry in self._chosen(waiting, served, time_s):
            start, claim = self._start(entry, claims, time_s)
            starts.append(start)
            claims.append(claim)
        return [*late, *starts]

    def _chosen(self, waiting: Sequence[Pending], served: Sequence[Query], time_s: float) -> list[Pending]:
        """Return who runs on the idle groups: who has one, then by score, but no two that load memory."""
        chosen = [entry for entry in waiting if entry.next_layer]
        if len(served) + len(chosen) >= self.groups:
            return chosen
        coming = [entry for entry in waiting if not entry.next_layer]
        coming.sort(key=lambda entry: -self._rank(entry, time_s))
        intensive = any(
            self._intensive[query.model] for query in (*served, *(entry.query for entry in chosen))
        )
        while coming and len(served) + len(chosen) < self.groups:
            calm = (entry for entry in coming if not self._intensive[entry.query.model])
            entry = next(calm, coming[0]) if intensive else coming[0]
            coming.remove(entry)
            chosen.append(entry)
            intensive |= self._intensive[entry.query.model]
        return chosen

    def _start(self, entry: Pending, others: Sequence[Claim], time_s: float) -> tuple[Allocation, Claim]:
        query = entry.query
        block = self._units[query.model][entry.next_layer]
        cores = self._times.best_cores(block, self._size)
        claim = Claim(self._asked(block, cores), self._score(query, entry.next_layer, time_s))
        given = throttled(claim, others, self._most, self._part)
        versions = self._times.versions(block, cores)
        limit = given if given < claim.bytes_per_s else None
        return Allocation(query.id, block, versions, cores, dram_bytes_per_s=limit), claim

    def _rank(self, entry: Pending, time_s: float) -> float:
        query = entry.query
        alone_s = self._times.least_s(self._whole[query.model], self._size)
        return self._priorities[query.model] + (time_s - query.arrival_s) / alone_s

    def _score(self, query: Query, layer: int, time_s: float) -> float:
        """Return how much a query counts whose next layer, or that of the part that runs, is this one."""
        slack_s = query.deadline_s - time_s
        urgency = self._rest_s(query.model, layer) / slack_s if slack_s > 0 else 0.0
        return self._priorities[query.model] + urgency

    def _left_s(self, entry: Pending) -> float:
        return self._rest_s(entry.query.model, entry.next_layer)

    def _rest_s(self, model: str, first: int) -> float:
        return self._times.least_s(LayerBlock(model, first, self._whole[model].stop), self._size)

    def _asked(self, block: LayerBlock, cores: int | None = None) -> float:
        """Return the bandwidth that a block draws alone, on so many cores or on a group's."""
        key = block, cores or self._times.best_cores(block, self._size)
        if key not in self._drawn:
            moved, seconds = self._of_layers(block.model, key[1])[:, block.start : block.stop]
            self._drawn[key] = float(moved.sum() / seconds.sum())
        return self._drawn[key]

    def _of_layers(self, model: str, cores: int) -> NDArray[np.float64]:
        """Return the bytes and the seconds of each layer, shape (2, layers), on one of the core counts."""
        costs = self._context.costs.model(model)
        at = (np.arange(len(costs.solo)), costs.solo, self._context.costs.core_index(cores), 0)
        return np.stack([costs.traffic_bytes[at], costs.seconds[at]])


def throttled(claim: Claim, others: Sequence[Claim], most: float, part: float) -> float:
    """Return the bandwidth of a part that begins beside others, all in bytes/s.

    They may ask for `most` together. It gives up its part of what is more, but keeps an equal `part`.
    """
    excess = claim.bytes_per_s + sum(other.bytes_per_s for other in others) - most
    if excess <= 0:
        return claim.bytes_per_s
    theirs = sum(other.weight for other in others)
    return max(part, claim.bytes_per_s - excess * theirs / (claim.weight + theirs))

"""DART: models as pipelines of stages over nodes, each node a queue by relative deadline.

Faithful: each model's layers are cut by dynamic programming into consecutive stages, as many as there are
nodes, so that the longest stage is as short as can be; a stage is not preempted; a node serves the query of
the shortest relative deadline first (deadline-monotonic, the oldest of equals). The port: the paper's nodes
are a CPU's and a GPU's parts; here they are equal slices of one machine, so every model's stage i runs on
node i. Its cut is subject to the deadline; on equal nodes the sum of the stages does not depend on the cut,
so what follows the targets is the number of nodes: the most on which each model alone takes at most
`service_share` of its target, as the rest is for waiting, unless `nodes` says so. A model of fewer layers
than nodes has that many stages. A query alone has one node at a time, so an idle system serves it slower
than it could.

Paper: DART (Xiang and Kim, RTSS 2019).
Unit: stage of a model.
Preemption: none.
Cores: equal slices, one stage each.
Memory: not managed.
Versions: solo.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Answer, Context, Pending, Snapshot
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions, admit, round_down
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule
from veltair.serving.policies.slices import SliceTimes, most_slices, start_in_slices


class Dart:
    """Runs each query through its model's stages, one node after the other; late is who is late there."""

    def __init__(
        self,
        context: Context,
        *,
        drop_late: DropLate,
        nodes: Annotated[int, Field(ge=1)] | None = None,
        service_share: Annotated[float, Field(gt=0, le=1)] = 0.5,
    ) -> None:
        self._tables = LatencyTables(context, VersionRule.SOLO_ALONE)
        self._times = SliceTimes(self._tables)
        self._options = QueueOptions(Order.FCFS, Conflict.WAIT, drop_late)
        most = context.machine.cores // self._tables.counts[0]
        if nodes is not None and nodes > most:
            raise ValueError(
                f"Dart: nodes is {nodes}, on {context.machine.cores} cores of which at least "
                f"{self._tables.counts[0]} are given at a time; give at most {most}"
            )
        self.nodes = nodes or most_slices(context, self._tables.counts, self._times, service_share)
        size = round_down(context.machine.cores // self.nodes, self._tables.counts)
        self._sizes = (size,) * self.nodes
        self._stages = {name: self._cut(name, size) for name in context.models}

    @staticmethod
    def least_partitions(options: Mapping[str, Any], tenants: int) -> int:
        """Return how many nodes are asked for."""
        return int(options.get("nodes") or 1)

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late, and the next stage of each idle node."""
        waiting, late = admit(snapshot, self._options, self._least_s)
        starts = start_in_slices(
            sorted(waiting, key=lambda entry: entry.query.qos_s),
            snapshot.free_cores,
            [self._node(running.query.model, running.block.start) for running in snapshot.running],
            self._sizes,
            self._times,
            slice_of=lambda entry: self._node(entry.query.model, entry.next_layer),
            block_of=self._stage,
        )
        return [*late, *starts]

    def stages(self, model: str) -> tuple[int, ...]:
        """Return where the stages of a model begin, and where the last one ends."""
        return self._stages[model]

    def _node(self, model: str, layer: int) -> int:
        return next(node for node, stop in enumerate(self._stages[model][1:]) if layer < stop)

    def _stage(self, entry: Pending) -> LayerBlock:
        model, first = entry.query.model, entry.next_layer
        return LayerBlock(model, first, self._stages[model][self._node(model, first) + 1])

    def _least_s(self, entry: Pending) -> float:
        model, first = entry.query.model, entry.next_layer
        stops = [stop for stop in self._stages[model] if stop > first]
        return sum(
            self._times.least_s(LayerBlock(model, start, stop), self._sizes[0])
            for start, stop in pairwise([first, *stops])
        )

    def _cut(self, model: str, size: int) -> tuple[int, ...]:
        seconds = self._tables.seconds(model, 0)[:, self._tables.counts.index(size)]
        return cut(seconds.tolist(), min(self.nodes, len(seconds)))


def cut(seconds: Sequence[float], stages: int) -> tuple[int, ...]:
    """Return the bounds of so many consecutive stages whose longest is as short as can be.

    Stage i is [bounds[i], bounds[i + 1]). Of cuts that are equally good each stage, from the last on, is as
    long as it can be. No stage is empty: there are at most as many as layers.
    """
    total = np.concatenate([[0.0], np.cumsum(seconds)])
    longest, begins = total.copy(), []
    for stage in range(1, stages):
        at = np.zeros(len(total), dtype=np.int64)
        previous, longest = longest, np.full(len(total), np.inf)
        for stop in range(stage + 1, len(total)):
            worst = np.maximum(previous[stage:stop], total[stop] - total[stage:stop])
            at[stop] = stage + worst.argmin()
            longest[stop] = worst.min()
        begins.append(at)
    bounds = [len(seconds)]
    for at in reversed(begins):
        bounds.append(int(at[bounds[-1]]))
    return (0, *reversed(bounds))

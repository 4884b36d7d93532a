"""Equal slices of the machine, each serving whole queries one after the other.

Faithful: a query joins the shortest queue when it arrives and stays there; its instance runs it whole. The
port: slices are numbers of cores, not fixed ones; what does not divide evenly stays idle; a query runs on
the count of its slice's cores that suits it best, as an instance's threads would be set. A query alone has
one slice, so an idle system serves it slower than it could.

Paper: none; what OpenVINO's streams and TorchServe's workers do.
Unit: whole model.
Preemption: none.
Cores: k equal slices, one query each.
Memory: not managed.
Versions: solo.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from veltair.compiler.frontend.model import LayerBlock, Model
from veltair.serving.loop.policy import Answer, Context, Pending, Snapshot
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions, admit, round_down
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule
from veltair.serving.policies.slices import SliceTimes, start_in_slices


class Streams:
    """Cuts the machine into `streams` slices. `order` holds within a queue; late is who is late there."""

    def __init__(
        self,
        context: Context,
        *,
        streams: Annotated[int, Field(ge=1)],
        order: Order,
        drop_late: DropLate,
    ) -> None:
        tables = LatencyTables(context, VersionRule.SOLO_ALONE)
        size = round_down(context.machine.cores // streams, tables.counts)
        if not size:
            raise ValueError(
                f"Streams: streams is {streams}, on {context.machine.cores} cores of which at least "
                f"{tables.counts[0]} are given at a time; give at most "
                f"{context.machine.cores // tables.counts[0]}"
            )
        self._models: Mapping[str, Model] = context.models
        self._times = SliceTimes(tables)
        self._options = QueueOptions(order, Conflict.WAIT, drop_late)
        self._sizes = (size,) * streams
        self._lengths = [0] * streams
        self._stream: dict[int, int] = {}

    @staticmethod
    def least_partitions(options: Mapping[str, Any], tenants: int) -> int:
        """Return how many slices there are."""
        return int(options["streams"])

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late, and the next query of each idle stream."""
        for record in snapshot.ended:
            self._lengths[self._stream.pop(record.query.id)] -= 1
        self._join(snapshot)
        waiting, late = admit(
            snapshot, self._options, lambda entry: self._times.least_s(self._rest(entry), self._sizes[0])
        )
        starts = start_in_slices(
            waiting,
            snapshot.free_cores,
            [self._stream[running.query.id] for running in snapshot.running],
            self._sizes,
            self._times,
            slice_of=lambda entry: self._stream[entry.query.id],
            block_of=self._rest,
        )
        return [*late, *starts]

    def _join(self, snapshot: Snapshot) -> None:
        """Send who has arrived to the shortest queue, of equals the first; who waits or runs is in it."""
        # Whoever is new came last: the others of a long queue are not looked at.
        missing = len(snapshot.pending) + len(snapshot.running) - len(self._stream)
        arrived: list[int] = []
        for entry in reversed(snapshot.pending):
            if len(arrived) == missing:
                break
            if entry.query.id not in self._stream:
                arrived.append(entry.query.id)
        for query_id in reversed(arrived):
            stream = self._lengths.index(min(self._lengths))
            self._lengths[stream] += 1
            self._stream[query_id] = stream

    def _rest(self, entry: Pending) -> LayerBlock:
        model = entry.query.model
        return LayerBlock(model, entry.next_layer, len(self._models[model].layers))

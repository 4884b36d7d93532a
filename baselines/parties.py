"""PARTIES: a partition for each tenant, moved core by core as the windows' tails show who has slack.

Faithful: at the end of each window a tenant's slack is (target - 95th percentile of the window) / target.
If the smallest is below 5 % that tenant is given one unit of a resource by the tenant with most slack,
which must have more than 20 %; if all have more than 20 % the one with most gives a unit back, and if it
then falls below 5 % it gets that again, and nobody gives any back for a while (`freeze_s`). It starts from
an equal split, and changes nothing during `warm_up_s`. Only latencies of queries that ended are known
(`Snapshot.ended`).

The port: the contract grants cores and neither caches nor bandwidth, so cores are the one resource, and
where the paper tries the next one after an upsize without gain, it is cores again. Cores given back stay
idle until somebody needs them: there is no best-effort work, for which the paper frees them; with
`give_back: false` nobody gives any back, and only who needs more gets it. A new size holds from a tenant's
next query on, as queries are short beside windows. A rejected query is one of endless latency. A tenant of
which nobody ended is judged by the age of its oldest query, one without queries has all slack. A query
alone has one partition, so an idle system serves it slower than it could. A run must be much longer than
`warm_up_s` and many windows to show anything but an equal split. Bounds and times are from memory of the
paper.

Paper: PARTIES (Chen, Delimitrou and Martínez, ASPLOS 2019).
Unit: whole model.
Preemption: none.
Cores: a partition for each model, moved one unit a window.
Memory: not managed.
Versions: solo.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, inf
from typing import Annotated, Any

from pydantic import Field

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Answer, Context, Pending, Snapshot, Wake
from veltair.serving.loop.query import Ending
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions, admit, round_down
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule
from veltair.serving.policies.slices import SliceTimes, start_in_slices

UPSIZE_BELOW = 0.05
DOWNSIZE_ABOVE = 0.20
TAIL = 0.95

Seconds = Annotated[float, Field(gt=0)]


class Partitions:
    """The units of each tenant, and what the slacks of one window make of them."""

    def __init__(self, tenants: int, units: int, *, freeze_s: float, give_back: bool = True) -> None:
        if tenants > units:
            raise ValueError(f"Parties: {tenants} models on {units} units of cores; serve fewer models")
        self.units = [units // tenants] * tenants
        self.spare = units - sum(self.units)
        self._freeze_s, self._gives_back = freeze_s, give_back
        self._frozen_until_s = -inf
        self._shrunk: int | None = None

    def adjust(self, slacks: Sequence[float], time_s: float) -> None:
        """Move one unit, or none. `slacks` has the slack of each tenant, a share of its target."""
        shrunk, self._shrunk = self._shrunk, None
        worst = slacks.index(min(slacks))
        if shrunk is not None and slacks[shrunk] < UPSIZE_BELOW:
            self._grow(shrunk)
            self._frozen_until_s = time_s + self._freeze_s
        elif slacks[worst] < UPSIZE_BELOW:
            donor = self._donor(slacks)
            if not self.spare and donor is not None:
                self._shrink(donor)
            if self.spare:
                self._grow(worst)
        elif self._gives_back and min(slacks) > DOWNSIZE_ABOVE and time_s >= self._frozen_until_s:
            self._shrunk = self._donor(slacks)
            if self._shrunk is not None:
                self._shrink(self._shrunk)

    def _donor(self, slacks: Sequence[float]) -> int | None:
        """Return who has most slack of those that can give a unit; the first of equals."""
        able = [
            number for number, slack in enumerate(slacks) if slack > DOWNSIZE_ABOVE and self.units[number] > 1
        ]
        return max(able, key=lambda number: slacks[number], default=None)

    def _grow(self, number: int) -> None:
        self.units[number] += 1
        self.spare -= 1

    def _shrink(self, number: int) -> None:
        self.units[number] -= 1
        self.spare += 1


class Parties:
    """Serves each model on its partition, one query at a time; late is who is late there."""

    def __init__(
        self,
        context: Context,
        *,
        order: Order,
        drop_late: DropLate,
        window_s: Seconds = 0.5,
        warm_up_s: Seconds = 30.0,
        freeze_s: Seconds = 30.0,
        give_back: bool = True,
    ) -> None:
        tables = LatencyTables(context, VersionRule.SOLO_ALONE)
        self._counts, self._times = tables.counts, SliceTimes(tables)
        self._options = QueueOptions(order, Conflict.WAIT, drop_late)
        self._layers = [len(model.layers) for model in context.models.values()]
        self._targets_s = [model.qos_s for model in context.models.values()]
        self._number = {name: number for number, name in enumerate(context.models)}
        units = context.machine.cores // self._counts[0]
        self.partitions = Partitions(len(self._layers), units, freeze_s=freeze_s, give_back=give_back)
        self._window_s, self._warm_up_s = window_s, warm_up_s
        self._window_ends_s = window_s
        self._woken_at_s = -inf
        self._ended: list[list[float]] = [[] for _ in self._layers]

    @staticmethod
    def least_partitions(options: Mapping[str, Any], tenants: int) -> int:
        """Return how many partitions there are: one a model."""
        return tenants

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late, the next query of each idle partition, and when a window ends."""
        for record in snapshot.ended:
            latency_s = record.latency_s if record.ending is Ending.SERVED else inf
            self._ended[self._number[record.query.model]].append(latency_s)
        if snapshot.time_s >= self._window_ends_s:
            self._end_window(snapshot)
        sizes = [round_down(units * self._counts[0], self._counts) for units in self.partitions.units]
        waiting, late = admit(
            snapshot,
            self._options,
            lambda entry: self._times.least_s(self._rest(entry), sizes[self._of(entry)]),
        )
        starts = start_in_slices(
            waiting,
            snapshot.free_cores,
            [self._number[running.query.model] for running in snapshot.running],
            sizes,
            self._times,
            slice_of=self._of,
            block_of=self._rest,
        )
        return [*late, *starts, *self._woken(snapshot)]

    def _end_window(self, snapshot: Snapshot) -> None:
        """Adjust the partitions by the window that ends; windows in which nothing happened are none."""
        time_s = snapshot.time_s
        while self._window_ends_s <= time_s:
            self._window_ends_s += self._window_s
        if time_s >= self._warm_up_s:
            ages: list[list[float]] = [[] for _ in self._layers]
            open_queries = [entry.query for entry in snapshot.pending]
            open_queries += [running.query for running in snapshot.running]
            for query in open_queries:
                ages[self._number[query.model]].append(time_s - query.arrival_s)
            seen = zip(self._ended, ages, self._targets_s, strict=True)
            slacks = [_slack(ended or ([max(age)] if age else []), target) for ended, age, target in seen]
            self.partitions.adjust(slacks, time_s)
        for latencies in self._ended:
            latencies.clear()

    def _woken(self, snapshot: Snapshot) -> Iterator[Wake]:
        """Yield the wake-up at the end of a window, once, if somebody is there whose service it changes."""
        if (snapshot.pending or snapshot.running) and self._woken_at_s < self._window_ends_s:
            self._woken_at_s = self._window_ends_s
            yield Wake(self._window_ends_s)

    def _of(self, entry: Pending) -> int:
        return self._number[entry.query.model]

    def _rest(self, entry: Pending) -> LayerBlock:
        return LayerBlock(entry.query.model, entry.next_layer, self._layers[self._of(entry)])


def _slack(latencies_s: Sequence[float], target_s: float) -> float:
    """Return the part of the target that the tail of some latencies leaves: below 0 if it is missed."""
    if not latencies_s:
        return 1.0
    tail_s = sorted(latencies_s)[ceil(TAIL * len(latencies_s)) - 1]
    return (target_s - tail_s) / target_s

"""A partition of the machine for each tenant, of a size fixed beforehand.

What MPI ranks with affinity and MIG-like slices do. Each model gets the fewest cores that meet its target
alone; what is left goes by load, the rate of its queries x their time on its cores. Queries wait in a queue
of their tenant's own, and nobody borrows. If the needs do not fit they are scaled, and tenants below theirs
are named in `unservable`. With sizes `mig` a partition has {1, 2, 3, 4, 7}/7 of the machine, at least one
step of cores, all together at most 7/7.

The port: a partition is a range of cores, in the order of the cache groups, the largest first, so that as few
as can be share a cache: partitions are of cores, and those of whole groups are of caches, too. The simulator
sees that where blocks are pinned (`simulated.placement`). On this machine, where Linux offers resctrl, the
partition has ways of the L3 of its own, as many as it has of the cores; where not, a line of the run says
that partitions share it (`veltair/machine/topology/resctrl.py`). Bandwidth is nobody's. Rates are not known
to a policy: `shares` gives them, relative to each other, 1 where it names no other. A query alone has one
partition, so an idle system serves it slower than it could.

Paper: none; partitions as of NVIDIA's MIG, 2020.
Unit: whole model.
Preemption: none.
Cores: a partition for each model, fixed by need and load.
Memory: L3 ways by partition on this machine, where it has resctrl.
Versions: solo.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Answer, Context, Pending, Snapshot
from veltair.serving.policies.blocks import TOLERANCE
from veltair.serving.policies.core_shares import apportion
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions, admit, round_down
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule
from veltair.serving.policies.slices import SliceTimes, start_in_slices

SEVENTHS = (1, 2, 3, 4, 7)
WHOLE = SEVENTHS[-1]


class Sizes(StrEnum):
    """Which sizes partitions may have."""

    FREE = "free"
    """Any count of cores that can be granted."""
    MIG = "mig"
    """1, 2, 3, 4 or 7 sevenths of the machine."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A model by what its partition depends on.

    `least_s` has, by core count, its seconds alone on at most so many cores. `need` is the fewest cores on
    which these are within its target, else those on which it is fastest.
    """

    rate: float
    need: int
    least_s: Mapping[int, float]

    def load(self, cores: int) -> float:
        """Return what its queries ask of a partition: their rate x their time on it."""
        return self.rate * self.least_s[cores]

    @property
    def useful_cores(self) -> int:
        """The fewest cores beyond which it gets no faster."""
        return min(self.least_s, key=lambda count: (self.least_s[count], count))


class Static:
    """Serves each model on its own partition, one query at a time; late is who is late there."""

    def __init__(
        self,
        context: Context,
        *,
        order: Order,
        drop_late: DropLate,
        sizes: Sizes = Sizes.FREE,
        shares: Mapping[str, Annotated[float, Field(ge=0)]] | None = None,
    ) -> None:
        tables = LatencyTables(context, VersionRule.SOLO_ALONE)
        self._times = SliceTimes(tables)
        self._whole = {name: LayerBlock(name, 0, len(model.layers)) for name, model in context.models.items()}
        self._number = {name: number for number, name in enumerate(context.models)}
        self._options = QueueOptions(order, Conflict.WAIT, drop_late)
        tenants = [
            self._tenant(name, (shares or {}).get(name, 1.0), context, tables.counts)
            for name in context.models
        ]
        find = free_sizes if sizes is Sizes.FREE else mig_sizes
        self._sizes = find(tenants, tables.counts, context.machine.cores)
        self._first_cores = laid_out(self._sizes)
        self._core_ids = context.machine.core_ids
        self.unservable: tuple[str, ...] = tuple(
            name
            for name, tenant, size in zip(context.models, tenants, self._sizes, strict=True)
            if not _meets(tenant.least_s[size], context.models[name].qos_s)
        )

    @staticmethod
    def least_partitions(options: Mapping[str, Any], tenants: int) -> int:
        """Return how many partitions there are: one a model."""
        return tenants

    @property
    def partitions(self) -> Mapping[str, int]:
        """The cores of each model's partition."""
        return dict(zip(self._whole, self._sizes, strict=True))

    @property
    def partition_core_ids(self) -> Mapping[str, tuple[int, ...]]:
        """The core ids of each model's partition: nobody else is ever on them."""
        placed = zip(self._whole, self._first_cores, self._sizes, strict=True)
        return {name: self._core_ids[first : first + size] for name, first, size in placed}

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late, and the next query of each idle partition, on its cores."""
        waiting, late = admit(snapshot, self._options, self._least_s)
        starts = start_in_slices(
            waiting,
            snapshot.free_cores,
            [self._number[running.query.model] for running in snapshot.running],
            self._sizes,
            self._times,
            slice_of=lambda entry: self._number[entry.query.model],
            block_of=lambda entry: self._whole[entry.query.model],
        )
        placed = (
            replace(start, first_core=self._first_cores[self._number[start.block.model]]) for start in starts
        )
        return [*late, *placed]

    def _least_s(self, entry: Pending) -> float:
        model = entry.query.model
        return self._times.least_s(self._whole[model], self._sizes[self._number[model]])

    def _tenant(self, name: str, rate: float, context: Context, counts: Sequence[int]) -> Tenant:
        least_s = {count: self._times.least_s(self._whole[name], count) for count in counts}
        within = [count for count in counts if _meets(least_s[count], context.models[name].qos_s)]
        fastest = min(least_s, key=lambda count: (least_s[count], count))
        return Tenant(rate, within[0] if within else fastest, least_s)


def laid_out(sizes: Sequence[int]) -> list[int]:
    """Return the number of the first core of each partition: one after the other, the largest first.

    Where those larger than a cache group are multiples of it, these begin where a group does.
    """
    first_cores, next_core = [0] * len(sizes), 0
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        first_cores[number] = next_core
        next_core += sizes[number]
    return first_cores


def free_sizes(tenants: Sequence[Tenant], counts: Sequence[int], cores: int) -> list[int]:
    """Return the cores of each partition: the needs, and the rest by load, none beyond what is useful.

    If the needs do not fit, each tenant gets the smallest count and the rest goes by need. Raises ValueError
    if there are not so many.
    """
    step, units = counts[0], cores // counts[0]
    if len(tenants) > units:
        raise ValueError(
            f"Static: {len(tenants)} models on {units} steps of {step} cores; serve fewer models"
        )
    need_units = [-(-tenant.need // step) for tenant in tenants]
    least = need_units if sum(need_units) <= units else [1] * len(tenants)
    most = [tenant.useful_cores // step for tenant in tenants] if least is need_units else need_units
    room = [max(high - low, 0) for high, low in zip(most, least, strict=True)]
    weights = [tenant.load(tenant.need) for tenant in tenants] if least is need_units else room
    more = apportion(units - sum(least), weights, room)
    return [round_down((low + extra) * step, counts) for low, extra in zip(least, more, strict=True)]


def mig_sizes(tenants: Sequence[Tenant], counts: Sequence[int], cores: int) -> list[int]:
    """Return the cores of each partition, each some sevenths of the machine, together at most all.

    Each tenant begins with the fewest sevenths that cover its need. While these do not fit, the largest
    partition is made smaller; while there is room, that of the highest load whose tenant gets faster is made
    larger. Raises ValueError if not even a seventh each fits.
    """
    offered = [max(round_down(cores * part / WHOLE, counts), counts[0]) for part in SEVENTHS]
    last = len(SEVENTHS) - 1
    ranks = [next((at for at in range(last) if offered[at] >= tenant.need), last) for tenant in tenants]

    def fits(tried: Sequence[int]) -> bool:
        return (
            sum(SEVENTHS[rank] for rank in tried) <= WHOLE and sum(offered[rank] for rank in tried) <= cores
        )

    while not fits(ranks):
        largest = ranks.index(max(ranks))
        if ranks[largest] == 0:
            raise ValueError(
                f"Static: {len(tenants)} partitions of {offered[0]} cores or more do not fit "
                f"into sevenths of {cores} cores; serve fewer models"
            )
        ranks[largest] -= 1
    while (raised := _raised(ranks, tenants, offered, fits)) is not None:
        ranks = raised
    return [offered[rank] for rank in ranks]


def _raised(
    ranks: Sequence[int],
    tenants: Sequence[Tenant],
    offered: Sequence[int],
    fits: Callable[[Sequence[int]], bool],
) -> list[int] | None:
    """Return the ranks with one raised: of the highest load that gets faster by it and fits; None if none."""
    by_load = sorted(range(len(ranks)), key=lambda number: -tenants[number].load(offered[ranks[number]]))
    for number in by_load:
        rank, least_s = ranks[number], tenants[number].least_s
        raised = [*ranks[:number], rank + 1, *ranks[number + 1 :]]
        if rank + 1 < len(offered) and least_s[offered[rank + 1]] < least_s[offered[rank]] and fits(raised):
            return raised
    return None


def _meets(seconds: float, target_s: float) -> bool:
    return seconds <= target_s * (1 + TOLERANCE)

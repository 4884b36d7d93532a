"""Packrat: a model's cores cut into instances and its queries into batches, so that the slowest ends soonest.

Faithful: each model has a partition of its own. As many of its queries as wait, up to `batch`, are cut into
batches for instances that run side by side, <instances, threads, batch> by dynamic programming over profiled
latencies: L(t, b) = min over (t', b') of max(latency(t', b'), L(t - t', b - b')), where t' are powers of two
of cores and b' the batch sizes that the model was built for. Latencies are those of one instance alone, as
the paper profiles them; that instances disturb each other nobody expects.

The port: partitions are numbers of cores, fixed beforehand as those of `Static` by need and load, for the
paper has one model on a machine. The paper estimates how many queries will come and waits for them, up to a
timeout; here those that wait are served at once. Instances cost nothing to change: they are blocks, and the
next ones of a partition begin when all have ended. Where the model was built for single queries alone, all
batches are of one. A query alone has one partition, so an idle system serves it slower than it could.

Paper: Packrat (Bhardwaj et al., ICML 2025), as far as its abstract says.
Unit: whole model, several queries where built for them.
Preemption: none.
Cores: a partition for each model, cut into instances by the queries that wait.
Memory: not managed.
Versions: solo.
"""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Annotated, Any

from pydantic import Field

from baselines.static import Tenant, free_sizes
from veltair.serving.loop.policy import Allocation, Answer, Context, Pending, Snapshot
from veltair.serving.policies.batch_times import BatchTimes
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions, admit

Instance = tuple[int, int]
"""Cores and batch size."""


def best_instances(
    latency_s: Callable[[int, int], float],
    cores: Sequence[int],
    batches: Sequence[int],
    most_cores: int,
    queries: int,
) -> tuple[float, tuple[Instance, ...]]:
    """Return the instances that end soonest with so many queries on at most so many cores, and when.

    `cores` and `batches` are what an instance may have of both. Of what ends alike, fewer instances are
    taken; infinity and none where there are too few cores.
    """
    step = min(cores)
    best: dict[Instance, tuple[float, int, tuple[Instance, ...]]] = {}
    for left in range(0, most_cores + 1, step):
        best[left, 0] = 0.0, 0, ()
        for count in range(1, queries + 1):
            found: tuple[float, int, tuple[Instance, ...]] = (inf, 0, ())
            for batch in (size for size in batches if size <= count):
                for used in (one for one in cores if one <= left):
                    rest_s, number, others = best[left - used, count - batch]
                    tried = max(latency_s(used, batch), rest_s), number + 1, ((used, batch), *others)
                    found = min(found, tried)
            best[left, count] = found
    ends_s, _, instances = best[most_cores // step * step, queries]
    return ends_s, instances


class Packrat:
    """Serves each model on its partition, as many of its queries at once as wait, at most `batch`."""

    def __init__(
        self,
        context: Context,
        *,
        order: Order,
        drop_late: DropLate,
        batch: Annotated[int, Field(ge=1)] = 8,
        batches: tuple[Annotated[int, Field(ge=1)], ...] | None = None,
        shares: Mapping[str, Annotated[float, Field(ge=0)]] | None = None,
    ) -> None:
        self._times = times = BatchTimes(context)
        self._options = QueueOptions(order, Conflict.WAIT, drop_late)
        self._batch = batch
        self._sizes = {name: _chosen(name, built, batches) for name, built in times.sizes.items()}
        step = times.counts[0]
        self._threads = [count for count in times.counts if count % step == 0 and _is_power(count // step)]
        tenants = []
        for name, model in context.models.items():
            least_s = {count: times.least_s(name, 1, count) for count in times.counts}
            within = [count for count in times.counts if least_s[count] <= model.qos_s]
            need = within[0] if within else min(least_s, key=lambda count: (least_s[count], count))
            tenants.append(Tenant((shares or {}).get(name, 1.0), need, least_s))
        sizes = free_sizes(tenants, times.counts, context.machine.cores)
        self.partitions: Mapping[str, int] = dict(zip(context.models, sizes, strict=True))
        self._instances: dict[tuple[str, int], tuple[Instance, ...]] = {}

    @staticmethod
    def least_partitions(options: Mapping[str, Any], tenants: int) -> int:
        """Return how many partitions there are: one a model."""
        return tenants

    @staticmethod
    def wanted_batches(options: Mapping[str, Any]) -> Sequence[int]:
        """Return which batch sizes every model has to be built for."""
        return options.get("batches") or ()

    def instances(self, model: str, queries: int) -> tuple[Instance, ...]:
        """Return the instances for the most of so many waiting queries that fit on a model's partition."""
        key = model, min(queries, self._batch)
        if key not in self._instances:
            self._instances[key] = self._find(*key)
        return self._instances[key]

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late, and the instances of each partition that is idle."""
        waiting, late = admit(snapshot, self._options, self._least_s)
        busy = {running.query.model for running in snapshot.running}
        queues: dict[str, list[int]] = {}
        for entry in waiting:
            model = entry.query.model
            if model not in busy and len(queue := queues.setdefault(model, [])) < self._batch:
                queue.append(entry.query.id)
        return [*late, *(start for model, queue in queues.items() for start in self._starts(model, queue))]

    def _starts(self, model: str, queue: Sequence[int]) -> list[Allocation]:
        starts, begun = [], 0
        for cores, batch in self.instances(model, len(queue)):
            starts.append(self._times.start(model, queue[begun : begun + batch], cores, cores))
            begun += batch
        return starts

    def _find(self, model: str, queries: int) -> tuple[Instance, ...]:
        for served in range(queries, 0, -1):
            ends_s, instances = best_instances(
                lambda cores, batch: self._times.least_s(model, batch, cores),
                self._threads,
                self._sizes[model],
                self.partitions[model],
                served,
            )
            if ends_s < inf:
                return instances
        return ()

    def _least_s(self, entry: Pending) -> float:
        return self._times.least_s(entry.query.model, 1, self.partitions[entry.query.model])


def _chosen(model: str, built: Sequence[int], wanted: Sequence[int] | None) -> tuple[int, ...]:
    """Return the batch sizes of a model: those that it was built for, or of these the wanted ones."""
    for size in wanted or ():
        if size not in built:
            raise ValueError(
                f"Packrat: batches has {size}, but {model} was built for {', '.join(map(str, built))}; add "
                f"{size} to `models.{model}.batches`, or leave it out"
            )
    return tuple(sorted({1, *(built if wanted is None else wanted)}))


def _is_power(number: int) -> bool:
    return number & (number - 1) == 0

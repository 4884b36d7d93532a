"""The earliest deadline first: others give way to a nearer deadline, and nothing is spent on what is lost.

Source: preemptive earliest deadline first of Liu and Layland, Journal of the ACM 1973, which is optimal on
one processor. Here queries may share the cores, and one gives way at the end of a layer. It uses none of
VELTAIR's ideas: it is what a thoughtful engineer would write in a day, and what these ideas have to beat.

Paper: preemptive earliest deadline first (Liu and Layland, JACM 1973).
Unit: whole model, until it is preempted.
Preemption: yields at layer ends.
Cores: those that suit it best, or fewer where these are in time.
Memory: not managed.
Versions: solo.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from operator import attrgetter
from typing import ClassVar

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Allocation, Answer, Context, Pending, Running, Snapshot, Yield
from veltair.serving.policies.blocks import BudgetShare
from veltair.serving.policies.discipline import Conflict, DropLate, Order, QueueOptions, admit, round_down
from veltair.serving.policies.growth import grow
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule
from veltair.serving.policies.native_spec import DecisionKind, NativePolicySpec


@dataclass(slots=True, eq=False)
class Source:
    """Cores that come free in `seconds`, less those that are promised already.

    Where they are a running query's that can give way, `layer_s` is when they would come free then, and
    `deadline_s` its deadline: infinite if it will miss that anyhow.
    """

    seconds: float
    cores: int
    query_id: int = -1
    layer_s: float = inf
    deadline_s: float = -inf


class PreemptiveEdf:
    """Starts each query on the cores that suit it best, or on fewer if it is in time on these.

    A query that would be too late if it waited for others to end makes those of later deadlines yield, the
    latest first, the doomed before all. It is in time if its rest takes at most `alpha` of the time to its
    deadline, or all of that time where it has to. Times are those of the solo versions alone.
    """

    preset_exceptions: ClassVar[Mapping[str, object]] = {"drop_late": DropLate.WHEN_DOOMED.value}

    def __init__(self, context: Context, *, alpha: BudgetShare, drop_late: DropLate, growth: bool) -> None:
        self._tables = LatencyTables(context, VersionRule.SOLO_ALONE)
        self._index = {count: index for index, count in enumerate(self._tables.counts)}
        self._layers = {name: len(model.layers) for name, model in context.models.items()}
        self._options = QueueOptions(Order.EDF, Conflict.WAIT, drop_late)
        self._alpha, self._growth = alpha, growth

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late, who yields, and starts."""
        waiting, late = admit(snapshot, self._options, self._least_s)
        if not waiting:
            grown = grow(snapshot, snapshot.free_cores, self._tables) if self._growth else ()
            return [*late, *grown]
        sources = [
            Source(0.0, snapshot.free_cores),
            *(self._source(snapshot, one) for one in snapshot.running),
        ]
        answers: list[Answer] = [*late]
        for entry in waiting:
            if sum(source.cores for source in sources) < self._tables.counts[0]:
                break
            budget_s = self._budget_s(entry, snapshot.time_s)
            for source in self._who_yields(entry, budget_s, sources):
                source.seconds, source.deadline_s = source.layer_s, -inf
                answers.append(Yield(source.query_id))
            answers += self._take(entry, budget_s, sources)
        return answers

    def native_spec(self) -> NativePolicySpec:
        """Return how it decides, as data."""
        return NativePolicySpec(
            DecisionKind.PREEMPTIVE, self._tables, self._options, grows=self._growth, alpha=self._alpha
        )

    def _who_yields(self, entry: Pending, budget_s: float, sources: Sequence[Source]) -> Collection[Source]:
        """Return who has to give way to a query: nobody if it needs nobody to, or if nobody's yield helps."""
        later = [source for source in sources if source.deadline_s > entry.query.deadline_s]
        later.sort(key=attrgetter("deadline_s"), reverse=True)
        for count in range(len(later) + 1):
            if self._fit(entry, budget_s, sources, later[:count]) is not None:
                return later[:count]
        return ()

    def _take(self, entry: Pending, budget_s: float, sources: Sequence[Source]) -> Iterator[Allocation]:
        """Start a query that can be in time now, and promise cores to one that can be later."""
        fit = self._fit(entry, budget_s, sources)
        if fit is None:
            return
        seconds, cores = fit
        if seconds == 0:
            model, first = entry.query.model, entry.next_layer
            block = LayerBlock(model, first, self._layers[model])
            versions, best = self._tables.versions(block, 0, cores), self._tables.best_cores(model, 0, first)
            yield Allocation(entry.query.id, block, versions, cores, best)
        # Those that come free last: who follows may have the others before.
        for source in sorted(sources, key=attrgetter("seconds"), reverse=True):
            if source.seconds <= seconds:
                taken = min(cores, source.cores)
                source.cores -= taken
                cores -= taken

    def _fit(
        self, entry: Pending, budget_s: float, sources: Sequence[Source], yielding: Collection[Source] = ()
    ) -> tuple[float, int] | None:
        """Return in how many seconds a query could start first and be in time, and on how many cores."""
        model, first = entry.query.model, entry.next_layer
        rest_s, best = self._tables.remaining_s(model, first, 0), self._tables.best_cores(model, 0, first)
        coming = [(one.layer_s if one in yielding else one.seconds, one.cores) for one in sources]
        cores = 0
        for seconds, count in sorted(coming):
            cores += count
            granted = round_down(min(best, cores), self._tables.counts)
            if granted and seconds + rest_s[self._index[granted]] <= budget_s:
                return seconds, granted
        return None

    def _budget_s(self, entry: Pending, time_s: float) -> float:
        """Return the seconds within which a query is to end; no limit for a lost one that is not dropped."""
        slack_s, least_s = entry.query.deadline_s - time_s, self._least_s(entry)
        if least_s > slack_s:
            return inf
        return self._alpha * slack_s if least_s <= self._alpha * slack_s else slack_s

    def _least_s(self, entry: Pending) -> float:
        return self._tables.least_remaining_s(entry.query.model, entry.next_layer, 0)

    def _source(self, snapshot: Snapshot, running: Running) -> Source:
        """Return the cores of a running block as if its layer had just begun: how far it is, nobody knows."""
        query, block, cores = running.query, running.block, running.reserved_cores
        ended = min(snapshot.progress.get(query.id, 0), len(block) - 1)
        next_layer, index = block.start + ended + 1, self._index[running.cores]
        rest_s = self._tables.remaining_s(query.model, next_layer - 1, 0)[index]
        layer_s = rest_s - self._tables.remaining_s(query.model, next_layer, 0)[index]
        if running.yields or next_layer == block.stop:
            return Source(layer_s, cores)
        least_s = self._tables.least_remaining_s(query.model, next_layer, 0)
        is_doomed = snapshot.time_s + least_s > query.deadline_s
        return Source(rest_s, cores, query.id, layer_s, inf if is_doomed else query.deadline_s)

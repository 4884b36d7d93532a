"""Our own policy: few queries at a time on efficient core counts, by deadline, with the hopeless left out.

It looks ahead: before it gives cores to a query it works out what all others take until their deadlines, on
a machine as crowded as it has proved to be. Its ideas are pure functions (`crowded_times.py`,
`lookahead_shares.py`), and each can be switched off by an option, which makes the ablation of
docs/lookahead.md. What was tried and did not pay stands there too.

Paper: none; ours (docs/lookahead.md).
Unit: all layers that a query has left.
Preemption: shrinks and yields at layer ends.
Cores: the efficient count by deadline; growth into what is left.
Memory: what company adds to times is learned from the blocks that ran.
Versions: chosen for the current pressure and the cores given.
"""

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, ClassVar

from pydantic import Field

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import (
    Allocation,
    Answer,
    Context,
    Rejection,
    Resize,
    Running,
    Snapshot,
    Yield,
)
from veltair.serving.policies.block_watch import BlockWatch
from veltair.serving.policies.crowded_times import CrowdedTimes
from veltair.serving.policies.discipline import DropLate, late_reason, round_down
from veltair.serving.policies.latency_tables import AdaptiveRule, LatencyTables
from veltair.serving.policies.lookahead_shares import Claim, grow, share_out, shed, wanted_index

Margin = Annotated[float, Field(gt=0.0, le=1.0)]
Tolerance = Annotated[float, Field(ge=0.0)]


class Lookahead:
    """Decides anew at each event who is to have how many cores; blocks are all layers that a query has left.

    1. Each query wants the efficient count, or as many more as take it home with `margin` of the time that it
       has left (`wanted_index`). 2. By deadline, those are shed that keep others from being on time (`shed`);
       they come last, and are judged anew at the next event. 3. In this order all get what they want, as long
       as there are cores (`share_out`); the rest goes to whom it speeds up most (`grow`). A query that is
       alone gets the count on which it is fastest. 4. Running blocks shrink, grow and pause to make it so.

    Who cannot be on time on any count is dropped by `drop_late`; one that runs is paused first.
    Without `tolerance` (0) the efficient count is that of least work. The switches are for the ablation.
    """

    preset_exceptions: ClassVar[Mapping[str, object]] = {"drop_late": DropLate.WHEN_DOOMED.value}

    def __init__(
        self,
        context: Context,
        *,
        drop_late: DropLate,
        versions: AdaptiveRule,
        margin: Margin = 0.7,
        tolerance: Tolerance = 0.04,
        learns: bool = True,
        sheds: bool = True,
        pauses: bool = True,
        grows: bool = True,
        adapts: bool = True,
    ) -> None:
        self._tables = tables = LatencyTables(context, versions)
        self._times = CrowdedTimes(context, tables, tolerance=tolerance, learns=learns)
        self._layers = {name: len(model.layers) for name, model in context.models.items()}
        self._watch = BlockWatch(self._layers)
        self._waiting: dict[int, Claim] = {}
        self._index = {count: index for index, count in enumerate(tables.counts)}
        self._cores = context.machine.cores
        self._drop_late, self._margin = drop_late, margin
        self._sheds, self._pauses, self._grows, self._adapts = sheds, pauses, grows, adapts

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections, pauses, shrinks, starts and growth, in this order."""
        crowding = self._times.crowding.value
        for stretch in self._watch.see(snapshot):
            self._times.learn(*stretch)
        if self._times.crowding.value != crowding:
            self._waiting.clear()
        answers: list[Answer] = []
        claims, lost, held = self._running_claims(snapshot, answers)
        claims += self._waiting_claims(snapshot, lost, answers)
        if claims or lost:
            self._give(claims, lost, held)
            level = self._tables.level(snapshot.pressure) if self._adapts else 0
            answers += self._obtain(claims + lost, snapshot, level)
        return answers

    def _running_claims(
        self, snapshot: Snapshot, answers: list[Answer]
    ) -> tuple[list[Claim], list[Claim], int]:
        """Return the claims of running blocks, those of the lost, and the cores of who keeps its own."""
        claims: list[Claim] = []
        lost: list[Claim] = []
        held = 0
        for running in snapshot.running:
            query, block = running.query, running.block
            first = block.start + snapshot.progress.get(query.id, 0)
            if running.yields or first >= block.stop - 1:
                held += running.reserved_cores
                continue
            claim = Claim(query, first, query.deadline_s, self._times(query.model, first), running=running)
            claim.left_s = claim.deadline_s - snapshot.time_s
            claim.wanted = wanted_index(claim.prediction, claim.left_s, self._margin)
            claim.floor = -1 if self._pauses else 0
            if claim.prediction.least_s <= claim.left_s:
                claims.append(claim)
            elif self._pauses and self._drop_late is DropLate.WHEN_DOOMED:
                answers.append(Yield(query.id))
                held += running.reserved_cores
            else:
                lost.append(claim)
        return claims, lost, held

    def _waiting_claims(
        self, snapshot: Snapshot, lost: list[Claim], answers: list[Answer]
    ) -> Iterator[Claim]:
        """Yield the claims of those who wait; the lost ones are rejected, or added to those."""
        time_s, margin = snapshot.time_s, self._margin
        # Most who wait did so before, and their claims are kept: only the time that they have left changes.
        known, self._waiting = self._waiting, {}
        for entry in snapshot.pending:
            query = entry.query
            claim = known.get(query.id)
            if claim is None or claim.first != entry.next_layer:
                claim = Claim(
                    query, entry.next_layer, query.deadline_s, self._times(query.model, entry.next_layer)
                )
            self._waiting[query.id] = claim
            prediction = claim.prediction
            claim.left_s = left_s = claim.deadline_s - time_s
            claim.wanted, claim.given = prediction.efficient, -1
            if prediction.seconds[claim.wanted] > margin * left_s:
                claim.wanted = wanted_index(prediction, left_s, margin)
                if prediction.least_s > left_s:
                    self._lose(claim, lost, answers)
                    continue
            yield claim

    def _lose(self, claim: Claim, lost: list[Claim], answers: list[Answer]) -> None:
        """Reject a waiting query that cannot be on time, or keep it for the end."""
        is_late = self._drop_late is DropLate.AT_DEADLINE and claim.left_s < 0
        if is_late or self._drop_late is DropLate.WHEN_DOOMED:
            reason = late_reason(claim.left_s, claim.prediction.least_s)
            answers.append(Rejection(claim.query.id, reason))
        else:
            lost.append(claim)

    def _give(self, claims: list[Claim], lost: list[Claim], held: int) -> None:
        """Say who is to have how many cores; `claims` are put in their turn."""
        counts, cores = self._tables.counts, self._cores - held
        if len(claims) + len(lost) == 1 and not held:
            only = (claims or lost)[0]
            only.given = only.wanted = self._index[self._tables.best_cores(only.query.model, 0, only.first)]
            return
        claims.sort(key=attrgetter("deadline_s"))
        if self._sheds:
            works = [claim.prediction.work[claim.wanted] for claim in claims]
            last = shed([claim.left_s for claim in claims], works, self._cores)
            if last:
                claims[:] = [
                    *(claim for index, claim in enumerate(claims) if index not in last),
                    *(claims[index] for index in sorted(last)),
                ]
        cores = share_out(claims + lost, cores, counts)
        if self._grows:
            grow(claims, cores, counts)

    def _obtain(self, claims: Sequence[Claim], snapshot: Snapshot, level: int) -> Iterator[Answer]:
        """Yield what gives all what they are to have, as far as it is free already."""
        counts, free_cores = self._tables.counts, snapshot.free_cores
        runs = [(claim, claim.running) for claim in claims if claim.running is not None]
        for claim, running in runs:
            if claim.given < 0:
                yield Yield(running.query.id)
            elif counts[claim.given] < running.target_cores <= running.cores:
                yield self._resize(running, counts[claim.given], level)
        for claim in claims:
            if claim.running is None and claim.given >= 0 and free_cores >= counts[0]:
                cores = round_down(min(counts[claim.given], free_cores), counts)
                yield self._start(claim, cores, snapshot.time_s, level)
                free_cores -= cores
        for claim, running in runs:
            if claim.given < 0 or counts[claim.given] <= running.target_cores:
                continue
            cores = round_down(min(counts[claim.given], running.reserved_cores + free_cores), counts)
            if cores > running.target_cores:
                yield self._resize(running, cores, level)
                free_cores -= max(0, cores - running.reserved_cores)

    def _start(self, claim: Claim, cores: int, time_s: float, level: int) -> Allocation:
        model = claim.query.model
        block = LayerBlock(model, claim.first, self._layers[model])
        versions = self._tables.versions(block, level, cores)
        wanted_cores = self._tables.counts[claim.wanted]
        start = Allocation(claim.query.id, block, versions, cores, max(cores, wanted_cores))
        self._watch.start(start, time_s)
        return start

    def _resize(self, running: Running, cores: int, level: int) -> Resize:
        versions = self._tables.versions(running.block, level, cores)
        return Resize(running.query.id, cores, None if versions == running.versions else versions)

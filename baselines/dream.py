"""DREAM: layer by layer, whoever is most urgent and has starved longest; who is lost is dropped.

Faithful: a query's score is made anew for each of its layers, of urgency (time left / slack) and of
fairness (time since it last ran / time alone) with a weight that can be tuned, and frames that will miss
their targets are dropped (`drop_late: when_doomed`, whatever the preset). Left out: the energy part of the
score, as nothing here measures energy; the preference for an accelerator, as all cores are alike; and the
switch to a smaller supernet, as models are what they are. The port: a layer gets the cores that its part of
the budget needs, as in `LayerWise`, and conflicts are those of the options. A query whose slack is spent is
of endless urgency. The score is from memory of the paper.

Paper: DREAM (Kim et al., ASPLOS 2023).
Unit: layer.
Preemption: between layers.
Cores: fewest within the layer's budget.
Memory: not managed.
Versions: solo.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Annotated, ClassVar

from pydantic import Field

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Answer, Context, Pending, Snapshot
from veltair.serving.policies.blocks import BudgetRule, Budgets, BudgetShare, core_needs
from veltair.serving.policies.discipline import (
    Conflict,
    DropLate,
    Order,
    Proposal,
    QueueOptions,
    admit,
    start_in_turn,
)
from veltair.serving.policies.latency_tables import LatencyTables, VersionRule


class Dream:
    """Orders by urgency + `fairness` x starvation, highest first."""

    preset_exceptions: ClassVar[Mapping[str, object]] = {"drop_late": DropLate.WHEN_DOOMED.value}

    def __init__(
        self,
        context: Context,
        *,
        alpha: BudgetShare,
        budgets: BudgetRule,
        conflict: Conflict,
        drop_late: DropLate,
        fairness: Annotated[float, Field(ge=0)] = 1.0,
    ) -> None:
        self._tables = LatencyTables(context, VersionRule.SOLO_ALONE)
        self._budgets = Budgets(context, alpha, budgets)
        self._options = QueueOptions(Order.FCFS, conflict, drop_late)
        self._fairness = fairness
        self._needs: dict[tuple[str, int], list[int]] = {}
        self._waits: dict[int, tuple[int, float]] = {}

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return rejections of the late and the layers that start now."""
        for record in snapshot.ended:
            self._waits.pop(record.query.id, None)
        waiting, late = admit(snapshot, self._options, self._least_s)
        # Made of all that wait, though none may start now: when each began to wait has to be seen.
        scores = {entry.query.id: -self._score(entry, snapshot.time_s) for entry in waiting}
        starts = start_in_turn(
            sorted(waiting, key=lambda entry: scores[entry.query.id]),
            snapshot.free_cores,
            self._tables.counts,
            self._options.conflict,
            propose=lambda entry: self._propose(entry, snapshot.time_s),
            versions=lambda block, cores: self._tables.versions(block, 0, cores),
        )
        return [*late, *starts]

    def _score(self, entry: Pending, time_s: float) -> float:
        query, slack_s = entry.query, entry.query.deadline_s - time_s
        layer, since_s = self._waits.get(query.id, (0, query.arrival_s))
        if layer != entry.next_layer:
            since_s = time_s  # its layer has just ended
        self._waits[query.id] = entry.next_layer, since_s
        urgency = self._least_s(entry) / slack_s if slack_s > 0 else inf
        alone_s = self._tables.least_remaining_s(query.model, 0, 0)
        return urgency + self._fairness * (time_s - since_s) / alone_s

    def _propose(self, entry: Pending, time_s: float) -> Proposal:
        query, first = entry.query, entry.next_layer
        key = query.model, self._budgets.step(query, first, time_s)
        if key not in self._needs:
            seconds, budgets_s = self._tables.seconds(query.model, 0), self._budgets.of(*key)
            self._needs[key] = core_needs(seconds, budgets_s, self._tables.counts).tolist()
        return Proposal(LayerBlock(query.model, first, first + 1), self._needs[key][first])

    def _least_s(self, entry: Pending) -> float:
        return self._tables.least_remaining_s(entry.query.model, entry.next_layer, 0)

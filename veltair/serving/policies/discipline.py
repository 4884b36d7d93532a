"""What policies share: who comes in, whose turn it is, what a conflict leads to, and who is given up late."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from veltair.compiler.frontend.model import LayerBlock
from veltair.serving.loop.policy import Allocation, Pending, Rejection, Snapshot


class Order(StrEnum):
    """Whose turn comes first."""

    FCFS = "fcfs"
    """The oldest arrival."""
    EDF = "edf"
    """The earliest deadline."""
    LLF = "llf"
    """The least laxity: time to the deadline minus the least time that the query still takes."""


class Conflict(StrEnum):
    """What happens to a layer block that needs more cores than are free."""

    WAIT = "wait"
    """It waits, and so does everyone behind it."""
    BACKFILL = "backfill"
    """It waits; those behind it that fit go ahead."""
    SHRINK = "shrink"
    """It runs at once on the free cores."""
    SHRINK_ONE_LAYER = "shrink_one_layer"
    """Its first layer runs at once on the free cores, then it asks again."""


class DropLate(StrEnum):
    """When a waiting query is given up. A dropped query is a violation like any other."""

    NEVER = "never"
    AT_DEADLINE = "at_deadline"
    """Once its deadline has passed."""
    WHEN_DOOMED = "when_doomed"
    """Once it would miss its deadline even on the core count that suits it best."""


class Admission(StrEnum):
    """Which queries a policy gets to see. One that is turned away is a violation like any other."""

    ALL = "all"
    PROTECT_SHARES = "protect_shares"
    """Those within their tenant's part of the machine, and more while cores are idle (`admission.py`)."""
    FAIR_TURNS = "fair_turns"
    """All of them, each when its tenant's turn has come (`fair.py`)."""
    IN_TIME = "in_time"
    """Those that are predicted to be in time when they arrive (`in_time.py`)."""
    FAIR_IN_TIME = "fair_in_time"
    """Those that are predicted to be in time where tenants take turns, and those by turns."""


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """Options of policies that serve queries from one queue."""

    order: Order
    conflict: Conflict
    drop_late: DropLate


@dataclass(frozen=True, slots=True)
class Proposal:
    """The block that a query would run next and the cores that it needs."""

    block: LayerBlock
    cores: int


LeastRemaining = Callable[[Pending], float]
"""The least seconds that a waiting query still takes, on the core count that suits it best."""


def admit(
    snapshot: Snapshot, options: QueueOptions, least_remaining_s: LeastRemaining
) -> tuple[Sequence[Pending], list[Rejection]]:
    """Return the queries that wait, in their turn, and the rejections of those given up."""
    waiting, drop_late = snapshot.pending, options.drop_late
    late: list[Rejection] = []
    if drop_late is not DropLate.NEVER and waiting:
        doom = least_remaining_s if drop_late is DropLate.WHEN_DOOMED else _no_time
        reasons = [_lateness(entry, snapshot.time_s, doom(entry)) for entry in waiting]
        late = [
            Rejection(entry.query.id, reason)
            for entry, reason in zip(waiting, reasons, strict=True)
            if reason
        ]
        waiting = [entry for entry, reason in zip(waiting, reasons, strict=True) if not reason]
    return in_order(waiting, options.order, least_remaining_s), late


def in_order(
    waiting: Sequence[Pending], order: Order, least_remaining_s: LeastRemaining
) -> Sequence[Pending]:
    """Return the waiting queries (given oldest first) in their turn; ties go to the oldest.

    First come, first served costs nothing: the sequence itself comes back.
    """
    if order is Order.EDF:
        return sorted(waiting, key=lambda entry: entry.query.deadline_s)
    if order is Order.LLF:
        # The time now is the same for all: laxity without it sorts alike.
        return sorted(waiting, key=lambda entry: entry.query.deadline_s - least_remaining_s(entry))
    return waiting


def granted_cores(need: int, free_cores: int, counts: Sequence[int], conflict: Conflict) -> int:
    """Return the cores that a block gets now, 0 if it has to wait.

    `counts` are the core counts that can be granted, ascending; `need` is one of them.
    """
    if need <= free_cores:
        return need
    if conflict in (Conflict.WAIT, Conflict.BACKFILL):
        return 0
    return round_down(free_cores, counts)


def round_down(cores: float, counts: Sequence[int]) -> int:
    """Return the largest of the ascending core counts that is at most `cores`, 0 if there is none."""
    index = bisect_right(counts, cores)
    return counts[index - 1] if index else 0


def start_in_turn(
    waiting: Sequence[Pending],
    free_cores: int,
    counts: Sequence[int],
    conflict: Conflict,
    *,
    propose: Callable[[Pending], Proposal],
    versions: Callable[[LayerBlock, int], tuple[int, ...]],
) -> list[Allocation]:
    """Return the blocks to start now: each query in its turn proposes one, a conflict decides what it gets.

    `propose` names a query's next block and need; `versions` the code of a block on so many cores.
    """
    starts: list[Allocation] = []
    smallest = counts[0]
    for entry in waiting:
        if free_cores < smallest:
            break
        proposal = propose(entry)
        block, cores = proposal.block, proposal.cores
        if cores > free_cores:
            cores = granted_cores(cores, free_cores, counts, conflict)
            if cores == 0 and conflict is Conflict.WAIT:
                break
            if cores == 0:
                continue
            if conflict is Conflict.SHRINK_ONE_LAYER:
                block = LayerBlock(block.model, block.start, block.start + 1)
        starts.append(Allocation(entry.query.id, block, versions(block, cores), cores, proposal.cores))
        free_cores -= cores
    return starts


def _no_time(entry: Pending) -> float:
    return 0.0


def _lateness(entry: Pending, time_s: float, least_s: float) -> str:
    slack_s = entry.query.deadline_s - time_s
    return "" if least_s <= slack_s else late_reason(slack_s, least_s)


def late_reason(slack_s: float, least_s: float) -> str:
    """Say why a query is given up that has so little time left for so much work."""
    return f"{slack_s * 1e3:.3g} ms to its deadline, at least {least_s * 1e3:.3g} ms of work left"

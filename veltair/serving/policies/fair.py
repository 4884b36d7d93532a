"""Fair turns between tenants around any policy: who had least core-seconds for its weight comes next.

Start-time fair queueing: each tenant has a time of its own, which a query moves on by its core-seconds
divided by the tenant's weight, and the tenant whose time is least comes next. Who was silent begins at the
time of those who were not, so nothing can be saved up. The policy sees as many waiting queries as there are
free cores, or one; the others wait here, in their tenants' own order. Were it to see more, it could pass over
the same query again and again.

Source: Goyal, Vin and Cheng, "Start-time fair queuing", SIGCOMM 1996.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from typing import Generic, TypeVar

from veltair.serving.loop.policy import Answer, Context, Pending, Policy, Snapshot
from veltair.serving.loop.query import Ending
from veltair.serving.policies.admission import Price, least_core_s, parts_of

Entry = TypeVar("Entry")
Order = float | tuple[float, ...]


class FairQueue(Generic[Entry]):
    """Entries of several tenants that wait for their turn, and what each tenant has had."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        """Begin empty. Raises ValueError for a weight that is not above 0."""
        parts_of(weights, 1)
        self._weights = dict(weights)
        self._waiting: dict[str, list[tuple[Order, int, Entry]]] = {name: [] for name in weights}
        self._times = dict.fromkeys(weights, 0.0)
        self._time = 0.0
        self._pushed = 0
        self._held = 0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def push(self, tenant: str, entry: Entry, order: Order) -> None:
        """Let an entry wait; of those of its tenant the least `order` comes first, then the oldest.

        Orders of one tenant are all numbers, or all tuples. Raises LookupError for a tenant without weight.
        """
        if tenant not in self._waiting:
            raise LookupError(f"tenant {tenant} has no weight ({', '.join(self._weights)} have); name it")
        waiting = self._waiting[tenant]
        if not waiting:
            self._times[tenant] = max(self._times[tenant], self._time)
        heappush(waiting, (order, self._pushed, entry))
        self._pushed += 1

    def next_tenant(self) -> str:
        """Return whose turn it is, the empty text if nobody waits."""
        backlogged = [name for name, waiting in self._waiting.items() if waiting]
        return min(backlogged, key=self._times.__getitem__, default="")

    def peek(self) -> Entry:
        """Return what comes next. Raises IndexError if nothing waits."""
        if not (tenant := self.next_tenant()):
            raise IndexError("nobody waits; push first")
        return self._waiting[tenant][0][-1]

    def pop(self, core_s: float) -> Entry:
        """Take what comes next, for which its tenant pays so many core-seconds; `settle` it once it ended.

        Raises IndexError if nothing waits.
        """
        if not (tenant := self.next_tenant()):
            raise IndexError("nobody waits; push first")
        *_, entry = heappop(self._waiting[tenant])
        self._time = self._times[tenant]
        self._pay(tenant, core_s)
        self._held += 1
        return entry

    def settle(self, tenant: str, paid_core_s: float, core_s: float) -> None:
        """End an entry that was taken: its tenant paid so many core-seconds, and it held others."""
        self._pay(tenant, core_s - paid_core_s)
        self._held -= 1
        if not self._held and not len(self):
            # All that was asked for has been had: nobody owes anybody.
            self._time = max(self._times.values())

    def remove(self, tenant: str, entry: Entry) -> bool:
        """Take out an entry that waits; return whether it did."""
        waiting = self._waiting[tenant]
        left = [one for one in waiting if one[-1] != entry]
        found = len(left) < len(waiting)
        if found:
            waiting[:] = sorted(left, key=lambda one: one[:2])  # a sorted list is a heap
        return found

    def _pay(self, tenant: str, core_s: float) -> None:
        self._times[tenant] += core_s / self._weights[tenant]


class FairTurns:
    """A policy that sees the queries whose turn it is, and none of those behind them."""

    def __init__(self, policy: Policy, context: Context) -> None:
        tenants = context.tenants or dict.fromkeys(context.models, 1.0)
        self.loads_models = getattr(policy, "loads_models", False)
        self._policy = policy
        self._queue: FairQueue[Pending] = FairQueue(tenants)
        self._prices = {name: Price(least_core_s(context, name)) for name in context.models}
        self._unit = context.machine.core_unit
        self._known: set[int] = set()  # all that have come and not ended
        self._paid: dict[int, float] = {}  # of those that the policy may see

    def allocate(self, snapshot: Snapshot) -> Sequence[Answer]:
        """Return what the policy answers for the queries whose turn has come."""
        for record in snapshot.ended:
            query = record.query
            self._known.remove(query.id)
            if record.ending is Ending.SERVED:
                self._prices[query.model].add(record.core_s)
            self._queue.settle(query.sender, self._paid.pop(query.id), record.core_s)
        for entry in snapshot.pending:
            if entry.query.id not in self._known:
                self._known.add(entry.query.id)
                self._queue.push(entry.query.sender, entry, entry.query.deadline_s)
        waiting = sum(entry.query.id in self._paid for entry in snapshot.pending)
        while len(self._queue) and waiting < max(1, snapshot.free_cores // self._unit):
            query = self._queue.peek().query
            self._paid[query.id] = self._prices[query.model].core_s
            self._queue.pop(self._paid[query.id])
            waiting += 1
        if not len(self._queue):
            return self._policy.allocate(snapshot)
        seen = [entry for entry in snapshot.pending if entry.query.id in self._paid]
        return self._policy.allocate(replace(snapshot, pending=seen))

"""The one loop of a run: events in, commands out, and what each query has used."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from veltair.serving.loop.backend import (
    Arrival,
    Backend,
    BlockEnd,
    Closed,
    Command,
    Event,
    Loaded,
    Resized,
    Woken,
)
from veltair.serving.loop.open_queries import OpenQueries, stall
from veltair.serving.loop.policy import Allocation, Answer, Context, Policy, Rejection, Resize, Snapshot
from veltair.serving.loop.query import Ending, Query, QueryRecord

UNFINISHED_REASON = "the run ended first"


class Outcome(NamedTuple):
    """What follows from one event: commands for the backend, and queries that ended."""

    commands: Sequence[Command] = ()
    finished: Sequence[QueryRecord] = ()


@dataclass(slots=True)
class _Account:
    """A query in the system: what it has used so far."""

    query: Query
    start_s: float | None = None
    blocks: int = 0
    conflicts: int = 0
    core_s: float = 0.0
    held_since_s: float = 0.0
    batch: int = 1

    def charge(self, cores: float, time_s: float) -> None:
        """Add what it has held since it was last charged."""
        self.core_s += cores * (time_s - self.held_since_s)
        self.held_since_s = time_s

    def begin(self, allocation: Allocation, time_s: float) -> None:
        """Begin a block."""
        if self.start_s is None:
            self.start_s = time_s
        self.held_since_s = time_s
        self.blocks += 1
        self.conflicts += allocation.cores < (allocation.wanted_cores or allocation.cores)
        self.batch = 1 + len(allocation.others)

    def follow(self, query: Query) -> "_Account":
        """Return the account of a query that the only block of this one serves too: an equal part of all."""
        return replace(self, query=query)


@dataclass
class Dispatcher:
    """Keeps the state of a run, and checks each answer of a policy, for all policies and backends.

    Raises PolicyError as `OpenQueries`, and when queries wait while nothing runs and nothing is due.
    """

    policy: Policy
    context: Context
    _open: OpenQueries = field(init=False)
    _accounts: dict[int, _Account] = field(init=False, default_factory=dict)
    _rejected: list[QueryRecord] = field(init=False, default_factory=list)  # at the last decision

    def __post_init__(self) -> None:
        self._open = OpenQueries(self.policy, self.context)

    @property
    def free_cores(self) -> int:
        """The cores that a block could be started on."""
        return self._open.free_cores

    def handle(self, event: Event, pressure: float, progress: Mapping[int, int]) -> Outcome:
        """Apply an event, ask the policy, and return the commands and the queries that ended."""
        if isinstance(event, Closed):
            return Outcome(finished=self._abandon(event.time_s))
        seen = self._open
        time_s, finished = event.time_s, self._apply(event)
        ended = (*self._rejected, *finished) if self._rejected else finished
        snapshot = Snapshot(
            *(time_s, seen.free_cores, pressure, seen.pending, seen.running_view, progress, ended),
            *(seen.resident, seen.load),
        )
        # A copy: an answer made lazily would read the snapshot after earlier answers have changed the state.
        answers = tuple(self.policy.allocate(snapshot))
        commands: list[Command] = []
        self._rejected = []
        for answer in answers:
            self._obey(answer, time_s)
            if not isinstance(answer, Rejection):
                commands.append(answer)
        seen.check_idle(isinstance(event, Woken))
        return Outcome(commands, [*finished, *self._rejected])

    def check_drained(self) -> None:
        """Raise PolicyError if queries are still open although no event is due any more."""
        pending, running = self._open.pending, self._open.running
        if pending and not running:
            raise stall(self.policy, len(pending), pending[0].query, self.free_cores)
        if running:
            name = type(self.policy).__name__
            raise RuntimeError(f"the run of {name} ended while queries {sorted(running)[:5]} ran")

    def _apply(self, event: Arrival | BlockEnd | Resized | Loaded | Woken) -> list[QueryRecord]:
        """Take an event into account; return the records of the queries that it ended."""
        if isinstance(event, BlockEnd):
            self._charge_beside(event.query_id, event.time_s)
            queries = self._served(event.query_id)
            if self._open.end_block(event.query_id, event.next_layer):
                return [self._close(query.id, Ending.SERVED, event.time_s) for query in queries]
        elif isinstance(event, Arrival):
            self._open.admit(event.query)
            self._accounts[event.query.id] = _Account(event.query)
        elif isinstance(event, Resized):
            self._charge(event.query_id, event.time_s)
            self._open.adopt(event.query_id, event.cores)
        elif isinstance(event, Loaded):
            self._open.end_load()
        return []

    def _served(self, query_id: int) -> list[Query]:
        """Return whom a running block serves; what it held is theirs in equal parts."""
        running = self._open.running[query_id]
        if running.others:
            account = self._accounts[query_id]
            account.core_s /= account.batch
            self._accounts |= {query.id: account.follow(query) for query in running.others}
        return [running.query, *running.others]

    def _obey(self, answer: Answer, time_s: float) -> None:
        """Check an answer of the policy, and take it into account."""
        if isinstance(answer, Resize) and answer.query_id in self._open.running:
            self._charge(answer.query_id, time_s)
        if isinstance(answer, Allocation) and answer.shares_cores:
            self._charge_all(time_s)
        self._open.obey(answer, time_s)
        if isinstance(answer, Allocation):
            self._accounts[answer.query_id].begin(answer, time_s)
        elif isinstance(answer, Rejection):
            record = self._close(answer.query_id, Ending.REJECTED, time_s, answer.reason)
            self._rejected.append(record)

    def _charge(self, query_id: int, time_s: float) -> None:
        self._accounts[query_id].charge(self._open.held_cores(self._open.running[query_id]), time_s)

    def _charge_beside(self, query_id: int, time_s: float) -> None:
        """Charge a block, and those that share its cores: their parts change when it ends."""
        if self._open.running[query_id].shares_cores:
            self._charge_all(time_s)
        else:
            self._charge(query_id, time_s)

    def _charge_all(self, time_s: float) -> None:
        for query_id in self._open.running:
            self._charge(query_id, time_s)

    def _abandon(self, time_s: float) -> list[QueryRecord]:
        seen = self._open
        self._charge_all(time_s)
        queries = [entry.query for entry in seen.pending]
        for query_id in seen.running:
            queries += self._served(query_id)
        seen.clear()
        return [self._close(query.id, Ending.UNFINISHED, time_s, UNFINISHED_REASON) for query in queries]

    def _close(self, query_id: int, ending: Ending, time_s: float, reason: str = "") -> QueryRecord:
        account = self._accounts.pop(query_id)
        start_s = time_s if account.start_s is None else account.start_s
        used = account.blocks, account.conflicts, account.core_s
        return QueryRecord(account.query, ending, start_s, time_s, *used, reason, account.batch)


def serve(dispatcher: Dispatcher, backend: Backend) -> Iterator[QueryRecord]:
    """Run to the end and yield each query's record once: the same loop in virtual and in real time."""
    while (event := backend.wait()) is not None:
        outcome = dispatcher.handle(event, backend.pressure(), backend.progress())
        for command in outcome.commands:
            backend.do(command)
        yield from outcome.finished
    dispatcher.check_drained()

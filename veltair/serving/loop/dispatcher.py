"""The one loop of a run: events in, commands out, and the only mutable state of serving."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from veltair.serving.loop.backend import Arrival, Backend, BlockEnd, Closed, Command, Event, Resized, Woken
from veltair.serving.loop.policy import (
    Allocation,
    Context,
    Pending,
    Policy,
    Rejection,
    Resize,
    Running,
    Snapshot,
    Wake,
    Yield,
)
from veltair.serving.loop.query import Ending, Query, QueryRecord
from veltair.serving.loop.queues import PendingQueue, SeenIds, ValuesView

UNFINISHED_REASON = "the run ended first"
IDLE_WAKES = 10_000  # in a row: no policy has a reason to let queries wait for so many while nothing runs


class PolicyError(RuntimeError):
    """A policy broke its contract; the message names it."""


class Outcome(NamedTuple):
    """What follows from one event: commands for the backend, and queries that ended."""

    commands: Sequence[Command] = ()
    finished: Sequence[QueryRecord] = ()


@dataclass(slots=True)
class _Account:
    """A query in the system: its entry in the queue (None while it runs), and what it has used so far."""

    query: Query
    layers: int
    waiting: Pending | None
    start_s: float | None = None
    blocks: int = 0
    conflicts: int = 0
    core_s: float = 0.0
    held_since_s: float = 0.0

    def charge(self, cores: int, time_s: float) -> None:
        """Add what it has held since it was last charged."""
        self.core_s += cores * (time_s - self.held_since_s)
        self.held_since_s = time_s


@dataclass
class Dispatcher:
    """Keeps the state of a run, and checks each answer of a policy, for all policies and backends.

    Raises PolicyError, naming the policy, when it gives cores that are not free, names an unknown query,
    starts layers out of order, yields a query that does not run or yields already, or leaves queries waiting
    while nothing runs and nothing but wakes is due. No policy can yield for ever: a block ends at least one
    layer, and each layer of a query ends once.
    """

    policy: Policy
    context: Context
    free_cores: int = field(init=False)
    _seen: SeenIds = field(init=False, default_factory=SeenIds)
    _accounts: dict[int, _Account] = field(init=False, default_factory=dict)
    _pending: PendingQueue = field(init=False, default_factory=PendingQueue)
    _running: dict[int, Running] = field(init=False, default_factory=dict)
    _running_view: Sequence[Running] = field(init=False)
    _rejected: list[QueryRecord] = field(init=False, default_factory=list)  # at the last decision
    _idle_wakes: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.free_cores = self.context.machine.cores
        self._running_view = ValuesView(self._running)

    def handle(self, event: Event, pressure: float, progress: Mapping[int, int]) -> Outcome:
        """Apply an event, ask the policy, and return the commands and the queries that ended."""
        if isinstance(event, Closed):
            return Outcome(finished=self._abandon(event.time_s))
        time_s, finished = event.time_s, self._apply(event)
        ended = (*self._rejected, *finished) if self._rejected else finished
        snapshot = Snapshot(
            time_s, self.free_cores, pressure, self._pending, self._running_view, progress, ended
        )
        # A copy: an answer made lazily would read the snapshot after earlier answers have changed the state.
        answers = tuple(self.policy.allocate(snapshot))
        commands: list[Command] = []
        self._rejected = []
        for answer in answers:
            if isinstance(answer, Rejection):
                self._rejected.append(self._reject(answer, time_s))
            else:
                self._obey(answer, time_s)
                commands.append(answer)
        self._check_idle(event)
        return Outcome(commands, [*finished, *self._rejected])

    def check_drained(self) -> None:
        """Raise PolicyError if queries are still open although no event is due any more."""
        if self._pending and not self._running:
            raise stall(self.policy, len(self._pending), self._pending[0].query, self.free_cores)
        if self._running:
            raise RuntimeError(f"the run of {self._name} ended while queries {sorted(self._running)[:5]} ran")

    @property
    def _name(self) -> str:
        return type(self.policy).__name__

    def _apply(self, event: Arrival | BlockEnd | Resized | Woken) -> list[QueryRecord]:
        """Take an event into account; return the record of a query that it ended."""
        if isinstance(event, BlockEnd):
            return self._end_block(event)
        if isinstance(event, Arrival):
            self._admit(event.query)
        elif isinstance(event, Resized):
            self._adopt(event)
        return []

    def _obey(self, command: Command, time_s: float) -> None:
        """Check what the policy wants of the backend, and take it into account."""
        match command:
            case Allocation():
                self._start(command, time_s)
            case Resize():
                self._resize(command, time_s)
            case Yield():
                self._yield(command)
            case Wake():
                self._check_wake(command, time_s)
            case _:
                raise PolicyError(
                    f"{self._name} answered {command!r}; return Allocation, Resize, Yield, Rejection or Wake"
                )

    def _reject(self, rejection: Rejection, time_s: float) -> QueryRecord:
        account, _ = self._dequeue(rejection.query_id)
        return self._close(account, Ending.REJECTED, time_s, rejection.reason)

    def _admit(self, query: Query) -> None:
        if not self._seen.add(query.id):
            raise ValueError(f"query {query.id} arrived twice")
        model = self.context.models.get(query.model)
        if model is None:
            raise LookupError(f"query {query.id} asks for {query.model}, which this run does not serve")
        entry = Pending(query, 0)
        self._accounts[query.id] = _Account(query, len(model.layers), entry)
        self._pending.add(entry)

    def _end_block(self, event: BlockEnd) -> list[QueryRecord]:
        query_id = event.query_id
        running, account = self._running.pop(query_id), self._accounts[query_id]
        reserved_cores = running.reserved_cores
        account.charge(reserved_cores, event.time_s)
        self.free_cores += reserved_cores
        block, next_layer = running.block, event.next_layer
        if not block.start < next_layer <= block.stop:
            raise RuntimeError(
                f"the backend ended {block} of query {query_id} before layer {next_layer}; a block ends "
                f"after one of its layers, so from {block.start + 1} to {block.stop}"
            )
        if next_layer == account.layers:
            return [self._close(account, Ending.SERVED, event.time_s)]
        account.waiting = Pending(account.query, next_layer)
        self._pending.add(account.waiting)
        return []

    def _adopt(self, event: Resized) -> None:
        running = self._running[event.query_id]
        self._update(running, event.cores, running.target_cores, running.versions, event.time_s)

    def _start(self, allocation: Allocation, time_s: float) -> None:
        block, cores = allocation.block, allocation.cores
        account, next_layer = self._dequeue(allocation.query_id)
        query, layers = account.query, account.layers
        if block.model != query.model or block.start != next_layer or block.stop > layers:
            raise PolicyError(
                f"{self._name} starts {block} for query {query.id}, whose next layer is "
                f"{next_layer} of "
                f"{layers} of {query.model}"
            )
        self._take(cores, query.id)
        wanted = allocation.wanted_cores or cores
        if account.start_s is None:
            account.start_s = time_s
        account.held_since_s = time_s
        account.blocks += 1
        account.conflicts += cores < wanted
        self._running[query.id] = Running(query, block, allocation.versions, cores, cores, wanted, time_s)

    def _resize(self, resize: Resize, time_s: float) -> None:
        running = self._running.get(resize.query_id)
        if running is None:
            raise PolicyError(f"{self._name} resizes query {resize.query_id}, which is not running")
        if running.yields:
            raise PolicyError(
                f"{self._name} resizes query {resize.query_id}, which yields; wait for the end of its block"
            )
        if resize.cores < running.target_cores and running.target_cores > running.cores:
            # The block may have grown already, with its Resized still on the way.
            raise PolicyError(
                f"{self._name} takes back cores from query {resize.query_id}, which is growing from "
                f"{running.cores} to {running.target_cores}; wait for its Resized event"
            )
        versions = running.versions if resize.versions is None else resize.versions
        if len(versions) != len(running.block):
            raise PolicyError(
                f"{self._name} resizes query {resize.query_id} with {len(versions)} versions for "
                f"{len(running.block)} layers"
            )
        self._update(running, running.cores, resize.cores, versions, time_s)

    def _yield(self, answer: Yield) -> None:
        running = self._running.get(answer.query_id)
        if running is None:
            raise PolicyError(f"{self._name} yields query {answer.query_id}, which is not running")
        if running.yields:
            raise PolicyError(
                f"{self._name} yields query {answer.query_id} twice; a yield cannot be taken back: wait for "
                "the end of its block"
            )
        self._running[answer.query_id] = running._replace(yields=True)

    def _update(
        self, before: Running, cores: int, target_cores: int, versions: tuple[int, ...], time_s: float
    ) -> None:
        query, reserved_cores = before.query, before.reserved_cores
        wanted_cores, start_s, yields = before.wanted_cores, before.start_s, before.yields
        after = Running(query, before.block, versions, cores, target_cores, wanted_cores, start_s, yields)
        self._accounts[query.id].charge(reserved_cores, time_s)
        gained = after.reserved_cores - reserved_cores
        if gained > 0:
            self._take(gained, query.id)
        else:
            self.free_cores -= gained
        self._running[query.id] = after

    def _take(self, cores: int, query_id: int) -> None:
        if cores > self.free_cores:
            raise PolicyError(
                f"{self._name} gives {cores} cores to query {query_id}, but {self.free_cores} of "
                f"{self.context.machine.cores} are free"
            )
        self.free_cores -= cores

    def _dequeue(self, query_id: int) -> tuple[_Account, int]:
        """Take a query out of the queue; return its account and its next layer."""
        account = self._accounts.get(query_id)
        entry = account.waiting if account is not None else None
        if account is None or entry is None:
            raise PolicyError(f"{self._name} answers for query {query_id}, which is not waiting")
        self._pending.remove(entry)
        account.waiting = None
        return account, entry.next_layer

    def _check_wake(self, wake: Wake, time_s: float) -> None:
        if not wake.time_s > time_s:
            raise PolicyError(
                f"{self._name} asks at {time_s} s to be woken at {wake.time_s} s; name a later time"
            )

    def _check_idle(self, event: Event) -> None:
        is_idle = isinstance(event, Woken) and self._pending and not self._running
        self._idle_wakes = self._idle_wakes + 1 if is_idle else 0
        if self._idle_wakes == IDLE_WAKES:
            oldest = self._pending[0].query
            raise PolicyError(
                f"{self._name} waits for ever: {len(self._pending)} queries wait (the oldest is {oldest.id}, "
                f"a {oldest.model}), nothing runs, and woken {IDLE_WAKES} times in a row it started none; "
                "allocate cores or reject the query"
            )

    def _abandon(self, time_s: float) -> list[QueryRecord]:
        for query_id, running in self._running.items():
            self._accounts[query_id].charge(running.reserved_cores, time_s)
        queries = [entry.query for entry in self._pending]
        queries.extend(running.query for running in self._running.values())
        self._pending.clear()
        self._running.clear()
        return [
            self._close(self._accounts[query.id], Ending.UNFINISHED, time_s, UNFINISHED_REASON)
            for query in queries
        ]

    def _close(self, account: _Account, ending: Ending, time_s: float, reason: str = "") -> QueryRecord:
        query = account.query
        del self._accounts[query.id]
        start_s = time_s if account.start_s is None else account.start_s
        return QueryRecord(
            query, ending, start_s, time_s, account.blocks, account.conflicts, account.core_s, reason
        )


def stall(policy: Policy, waiting: int, oldest: Query, free_cores: int) -> PolicyError:
    """Return the error of a policy that leaves queries waiting for good."""
    return PolicyError(
        f"{type(policy).__name__} stalls: {waiting} queries wait (the oldest is {oldest.id}, a "
        f"{oldest.model}), {free_cores} cores are free, and nothing is due; "
        "allocate cores, reject the query or return a Wake"
    )


def serve(dispatcher: Dispatcher, backend: Backend) -> Iterator[QueryRecord]:
    """Run to the end and yield each query's record once: the same loop in virtual and in real time."""
    while (event := backend.wait()) is not None:
        outcome = dispatcher.handle(event, backend.pressure(), backend.progress())
        for command in outcome.commands:
            backend.do(command)
        yield from outcome.finished
    dispatcher.check_drained()

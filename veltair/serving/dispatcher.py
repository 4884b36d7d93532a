"""The one loop of a run: events in, commands out, and the only mutable state of serving."""

from bisect import insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from veltair.serving.policy import (
    Allocation,
    Context,
    Pending,
    Policy,
    Rejection,
    Resize,
    Running,
    Snapshot,
    Wake,
)
from veltair.serving.query import Ending, Query, QueryRecord


class PolicyError(RuntimeError):
    """A policy broke its contract; the message names it."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A query arrived."""

    time_s: float
    query: Query


@dataclass(frozen=True, slots=True)
class BlockEnd:
    """The running block of a query ended; its cores are free."""

    time_s: float
    query_id: int


@dataclass(frozen=True, slots=True)
class Resized:
    """A running block adopted its new core count at a layer end; cores it gave up are free."""

    time_s: float
    query_id: int
    cores: int


@dataclass(frozen=True, slots=True)
class Woken:
    """A time that the policy asked for has come."""

    time_s: float


@dataclass(frozen=True, slots=True)
class Closed:
    """The run is over: whatever is still open counts as unfinished."""

    time_s: float


Event = Arrival | BlockEnd | Resized | Woken | Closed
Command = Allocation | Resize | Wake


class Backend(Protocol):
    """Where time comes from. It never decides.

    Events come in the order of their times; at equal times cores are freed (BlockEnd, Resized) before
    queries arrive, then wakes; ties go by sequence.
    """

    def start(self, allocation: Allocation) -> None:
        """Run a block from now on."""

    def resize(self, resize: Resize) -> None:
        """Change a running block at its next layer end (no effect, and no event, in its last layer)."""

    def wake_at(self, time_s: float) -> None:
        """Deliver Woken at that time."""

    def wait(self) -> Event | None:
        """Return the next event, or None once nothing is left to arrive, to run or to wake for."""

    def pressure(self) -> float:
        """Return the pressure in [0, 1] that a block started now would meet."""

    def progress(self) -> Mapping[int, int]:
        """Return how many layers of each running block have ended; a live view."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What follows from one event: commands for the backend, and queries that ended."""

    commands: Sequence[Command] = ()
    finished: Sequence[QueryRecord] = ()


@dataclass(slots=True)
class _Account:
    """What a query has used so far."""

    start_s: float | None = None
    blocks: int = 0
    conflicts: int = 0
    core_s: float = 0.0
    held_since_s: float = 0.0


@dataclass
class Dispatcher:
    """Keeps the books of a run and guards the contract once for all policies and backends.

    Raises PolicyError, naming the policy, when it gives cores that are not free, names an unknown query,
    starts layers out of order, or leaves queries waiting while nothing runs and nothing is due.
    """

    policy: Policy
    context: Context
    free_cores: int = field(init=False)
    _pending: list[Pending] = field(init=False, default_factory=list)
    _running: dict[int, Running] = field(init=False, default_factory=dict)
    _accounts: dict[int, _Account] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.free_cores = self.context.machine.cores

    def handle(self, event: Event, pressure: float, progress: Mapping[int, int]) -> Outcome:
        """Book an event, ask the policy, and return the commands and the queries that ended."""
        finished: list[QueryRecord] = []
        match event:
            case Arrival(query=query):
                self._admit(query)
            case BlockEnd():
                finished.extend(self._end_block(event))
            case Resized():
                self._adopt(event)
            case Woken():
                pass
            case Closed():
                return Outcome(finished=self._abandon(event.time_s))
        snapshot = Snapshot(
            event.time_s,
            self.free_cores,
            pressure,
            self._pending,
            tuple(self._running.values()),
            progress,
        )
        commands: list[Command] = []
        for answer in tuple(self.policy.allocate(snapshot)):
            match answer:
                case Allocation():
                    self._start(answer, event.time_s)
                    commands.append(answer)
                case Resize():
                    self._resize(answer, event.time_s)
                    commands.append(answer)
                case Wake():
                    self._check_wake(answer, event.time_s)
                    commands.append(answer)
                case Rejection():
                    query = self._remove_pending(answer.query_id).query
                    finished.append(self._close(query, Ending.REJECTED, event.time_s, answer.reason))
                case _:
                    raise PolicyError(
                        f"{self._name} answered {answer!r}; return Allocation, Resize, Rejection or Wake"
                    )
        return Outcome(commands, finished)

    def check_drained(self) -> None:
        """Raise PolicyError if queries are still open although no event is due any more."""
        if self._pending and not self._running:
            oldest = self._pending[0]
            raise PolicyError(
                f"{self._name} stalls: {len(self._pending)} queries wait (the oldest is {oldest.query.id}, a "
                f"{oldest.query.model}), {self.free_cores} cores are free, and nothing is due; "
                "allocate cores, reject the query or return a Wake"
            )
        if self._running:
            raise RuntimeError(f"the run of {self._name} ended while queries {sorted(self._running)[:5]} ran")

    @property
    def _name(self) -> str:
        return type(self.policy).__name__

    def _admit(self, query: Query) -> None:
        if query.id in self._accounts:
            raise ValueError(f"query {query.id} arrived twice")
        if query.model not in self.context.models:
            raise LookupError(f"query {query.id} asks for {query.model}, which this run does not serve")
        self._accounts[query.id] = _Account()
        insort(self._pending, Pending(query, 0), key=_age)

    def _end_block(self, event: BlockEnd) -> Iterator[QueryRecord]:
        running = self._running.pop(event.query_id)
        self._charge(running, event.time_s)
        self.free_cores += running.reserved_cores
        if running.block.stop == len(self.context.models[running.query.model].layers):
            yield self._close(running.query, Ending.SERVED, event.time_s)
        else:
            insort(self._pending, Pending(running.query, running.block.stop), key=_age)

    def _adopt(self, event: Resized) -> None:
        running = self._running[event.query_id]
        self._reserve(running, replace(running, cores=event.cores), event.time_s)

    def _start(self, allocation: Allocation, time_s: float) -> None:
        pending = self._remove_pending(allocation.query_id)
        block, query = allocation.block, pending.query
        layers = len(self.context.models[query.model].layers)
        if block.model != query.model or block.start != pending.next_layer or block.stop > layers:
            raise PolicyError(
                f"{self._name} starts {block} for query {query.id}, whose next layer is "
                f"{pending.next_layer} of "
                f"{layers} of {query.model}"
            )
        self._take(allocation.cores, query.id)
        wanted = allocation.wanted_cores or allocation.cores
        account = self._accounts[query.id]
        account.start_s = time_s if account.start_s is None else account.start_s
        account.held_since_s = time_s
        account.blocks += 1
        account.conflicts += allocation.cores < wanted
        self._running[query.id] = Running(
            query, block, allocation.versions, allocation.cores, allocation.cores, wanted, time_s
        )

    def _resize(self, resize: Resize, time_s: float) -> None:
        running = self._running.get(resize.query_id)
        if running is None:
            raise PolicyError(f"{self._name} resizes query {resize.query_id}, which is not running")
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
        self._reserve(running, replace(running, target_cores=resize.cores, versions=versions), time_s)

    def _reserve(self, before: Running, after: Running, time_s: float) -> None:
        self._charge(before, time_s)
        gained = after.reserved_cores - before.reserved_cores
        if gained > 0:
            self._take(gained, before.query.id)
        else:
            self.free_cores -= gained
        self._running[before.query.id] = after

    def _charge(self, running: Running, time_s: float) -> None:
        account = self._accounts[running.query.id]
        account.core_s += running.reserved_cores * (time_s - account.held_since_s)
        account.held_since_s = time_s

    def _take(self, cores: int, query_id: int) -> None:
        if cores > self.free_cores:
            raise PolicyError(
                f"{self._name} gives {cores} cores to query {query_id}, but {self.free_cores} of "
                f"{self.context.machine.cores} are free"
            )
        self.free_cores -= cores

    def _remove_pending(self, query_id: int) -> Pending:
        for place, pending in enumerate(self._pending):
            if pending.query.id == query_id:
                return self._pending.pop(place)
        raise PolicyError(f"{self._name} answers for query {query_id}, which is not waiting")

    def _check_wake(self, wake: Wake, time_s: float) -> None:
        if not wake.time_s > time_s:
            raise PolicyError(
                f"{self._name} asks at {time_s} s to be woken at {wake.time_s} s; name a later time"
            )

    def _abandon(self, time_s: float) -> list[QueryRecord]:
        for running in self._running.values():
            self._charge(running, time_s)
        queries = [entry.query for entry in self._pending]
        queries.extend(running.query for running in self._running.values())
        self._pending.clear()
        self._running.clear()
        return [self._close(query, Ending.UNFINISHED, time_s, "the run ended first") for query in queries]

    def _close(self, query: Query, ending: Ending, time_s: float, reason: str = "") -> QueryRecord:
        account = self._accounts[query.id]
        start_s = time_s if account.start_s is None else account.start_s
        return QueryRecord(
            query, ending, start_s, time_s, account.blocks, account.conflicts, account.core_s, reason
        )


def serve(dispatcher: Dispatcher, backend: Backend) -> Iterator[QueryRecord]:
    """Run to the end and yield each query's record once: the same loop in virtual and in real time."""
    while (event := backend.wait()) is not None:
        outcome = dispatcher.handle(event, backend.pressure(), backend.progress())
        for command in outcome.commands:
            _send(command, backend)
        yield from outcome.finished
    dispatcher.check_drained()


def _send(command: Command, backend: Backend) -> None:
    match command:
        case Allocation():
            backend.start(command)
        case Resize():
            backend.resize(command)
        case Wake(time_s=time_s):
            backend.wake_at(time_s)


def _age(pending: Pending) -> tuple[float, int]:
    return pending.query.arrival_s, pending.query.id

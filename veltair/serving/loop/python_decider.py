"""Policies in Python under the loop in C, which calls them back: one decision, one call."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from veltair.compiler.frontend.model import LayerBlock
from veltair.machine.c_library import CLibrary
from veltair.serving.loop.open_queries import OpenQueries
from veltair.serving.loop.policy import (
    Allocation,
    Answer,
    Context,
    Evict,
    Load,
    Policy,
    Rejection,
    Resize,
    Running,
    Snapshot,
    Wake,
)
from veltair.serving.loop.query import Ending, Query, QueryRecord

_VERSIONS_REMEMBERED = 4096
_REASON_BYTES = 1000  # an entry of a log has to fit into what is written at once

QueryOf = Callable[[Any], Query]
"""Returns the query of an `account_t`, which has just arrived."""


class _Known(NamedTuple):
    """A query in the system, and its account in C."""

    query: Query
    account: Any


class PythonDecider:
    """Lets a policy decide for a loop in C as it would for a dispatcher: equal snapshots, checks and errors.

    As long as this object lives, `decider` is what one loop asks in one run, from any thread, one at a time.
    What the policy sees is kept from call to call, by the event that each is about, so that a decision does
    not get slower with the length of the queue. Once the policy or a check has raised `error`, decisions
    return DECIDER_FAILED. `decision` is the number of the decision under way, 0 while there is none.
    """

    def __init__(
        self, policy: Policy, context: Context, library: CLibrary, query_of: QueryOf | None = None
    ) -> None:
        """Take a library that has been compiled with serving_loop.c.

        `query_of` is for queries whose target is not their model's. Where it takes over from another decider,
        nothing may run.
        """
        self.error: BaseException | None = None
        self.decision = 0
        self._decisions = 0
        self._policy, self._library, self._context = policy, library, context
        self._models = list(context.models.values())
        self._query_of = query_of or self._served
        self._open = OpenQueries(policy, context)
        self._known: dict[int, _Known] = {}
        self._answers: Sequence[Answer] = ()
        self._reasons: dict[int, str] = {}  # of those rejected at the last decision
        self._commands = _Commands(policy, library, self._known, list(context.models))
        self._progress = _Progress(library, self._known, self._open.running)
        self._endings = {number: ending for ending, number in library.numbers(Ending, "ending_t").items()}
        self._view: int | None = None  # its address, which a loop keeps
        c, ffi = library.functions, library.ffi
        self._arrival, self._block_end, self._resized = c.ARRIVAL, c.BLOCK_END, c.RESIZED
        self._loaded, self._woken, self._failed = c.LOADED, c.WOKEN, int(c.DECIDER_FAILED)
        self._withdrawn, self._renewed = c.WITHDRAWN, c.RENEWED
        kind = "int(const view_t *, commands_t *)"
        self._callback = ffi.callback(kind, self._decide, error=self._failed)
        self._asked: Any = ffi.new("asked_t *", {"ask": self._callback})
        self.decider = ffi.new("decider_t *", (c.decide_by_asking, self._asked))

    def asked(self) -> Iterator[tuple[LayerBlock, tuple[int, ...], int]]:
        """Yield the blocks that the last decision started or changed, their versions and core counts."""
        for answer in self._answers:
            if isinstance(answer, Allocation | Resize):
                running = self._open.running[answer.query_id]
                name = self._context.costs_name(running.block.model, 1 + len(running.others))
                block = LayerBlock(name, running.block.start, running.block.stop)
                versions = answer.versions if isinstance(answer, Allocation) else running.versions
                yield block, versions, answer.cores

    def _decide(self, view: Any, commands: Any) -> int:
        self._decisions += 1
        self.decision = self._decisions
        try:
            self._take(view)
            self._answer(view, commands)
        except BaseException as error:
            self.error = error
            return self._failed
        finally:
            self.decision = 0
        return 0

    def _take(self, view: Any) -> None:
        """Take the event into account that the decision is about."""
        kind, account, seen = view.event, view.changed, self._open
        if kind == self._arrival:
            self._admit(account)
        elif kind == self._block_end:
            query_id = account.id
            seen.end_block(query_id, account.next_layer)
            self._commands.forget(query_id)
            self._progress.forget(query_id)
        elif kind == self._resized:
            seen.adopt(account.id, account.cores)
        elif kind == self._loaded:
            seen.end_load()
        elif kind == self._withdrawn:
            seen.withdraw(account.id)
        elif kind == self._renewed:
            account = view.oldest
            while account:
                self._admit(account)
                account = account.newer

    def _admit(self, account: Any) -> None:
        query = self._query_of(account)
        self._open.admit(query, account.next_layer)
        self._known[query.id] = _Known(query, account)

    def _answer(self, view: Any, commands: Any) -> None:
        seen, time_s = self._open, view.now_s
        # A copy: an answer made lazily would read the snapshot after earlier answers have changed the state.
        self._answers = answers = tuple(self._policy.allocate(self._snapshot(view, time_s)))
        if answers:
            items, obey, write = self._commands.room(commands, len(answers)), seen.obey, self._commands.write
            for index, answer in enumerate(answers):
                obey(answer, time_s)
                write(items[index], answer)
                if isinstance(answer, Rejection):
                    self._reasons[answer.query_id] = answer.reason
            commands.count = len(answers)
        seen.check_idle(view.event == self._woken)

    def _snapshot(self, view: Any, time_s: float) -> Snapshot:
        seen, count, ended = self._open, view.record_count, list[QueryRecord]()
        if count:
            ended = [self._record(view.records[index]) for index in range(count)]
            self._reasons.clear()
        if self._view is None:
            self._view = self._library.address(view)
        self._progress.renew(self._view)
        pressure, pending, running = self._asked.pressure, seen.pending, seen.running_view
        memory = seen.resident, seen.load
        return Snapshot(time_s, seen.free_cores, pressure, pending, running, self._progress, ended, *memory)

    def _record(self, record: Any) -> QueryRecord:
        query, _ = self._known.pop(record.id)
        times, used = (record.start_s, record.end_s), (record.blocks, record.conflicts, record.core_s)
        reason = self._reasons.get(query.id, "")
        return QueryRecord(query, self._endings[record.ending], *times, *used, reason, record.batch)

    def _served(self, account: Any) -> Query:
        model = self._models[account.model]
        return Query(account.id, model.name, account.arrival_s, model.qos_s)


class _Commands:
    """Answers as C reads them; what it reads of them is kept here as long as it may."""

    def __init__(
        self, policy: Policy, library: CLibrary, known: Mapping[int, _Known], models: Sequence[str]
    ) -> None:
        self._policy, self._library, self._known = policy, library, known
        self._models = {name: number for number, name in enumerate(models)}
        self._ffi, c = library.ffi, library.functions
        self._start, self._resize, self._yield = c.START, c.RESIZE, c.YIELD
        self._reject, self._wake, self._load, self._evict = c.REJECT, c.WAKE, c.LOAD, c.EVICT
        # A brief call keeps the interpreter's lock: whoever else waits for it would have it for milliseconds.
        self._make, self._room = library.brief("commands_make"), c.ASKED_COMMANDS
        self._versions: dict[int, list[Any]] = {}  # while a block runs
        self._said: list[Any] = []  # until the commands are done
        self._packed = lru_cache(_VERSIONS_REMEMBERED)(self._pack)

    def room(self, commands: Any, count: int) -> Any:
        """Return where so many commands, all zero, are to be written."""
        self._said.clear()
        if count > self._room and self._make(self._library.address(commands), count):
            raise MemoryError("no memory for the commands of a policy")
        return commands.items

    def forget(self, query_id: int) -> None:
        """Forget a block that ended."""
        del self._versions[query_id]

    def write(self, command: Any, answer: Answer) -> None:
        """Write an answer, which has been checked."""
        if isinstance(answer, Wake):
            command.kind, command.wake_s = self._wake, answer.time_s
            return
        if isinstance(answer, Load | Evict):
            command.kind = self._load if isinstance(answer, Load) else self._evict
            command.model = self._models[answer.model]
            return
        query_id = answer.query_id
        command.account = self._known[query_id].account
        if isinstance(answer, Allocation):
            cores = answer.cores
            versions = self._packed(answer.versions)
            self._versions[query_id] = [versions]
            command.kind, command.stop, command.cores = self._start, answer.block.stop, cores
            command.versions, command.wanted = versions, answer.wanted_cores or cores
            if answer.others:
                others = [self._known[other].account for other in answer.others]
                self._said.append(self._ffi.new("account_t *[]", others))
                command.others, command.other_count = self._said[-1], len(others)
            command.bytes_per_s, command.shares_cores = answer.dram_bytes_per_s or 0.0, answer.shares_cores
            command.first_core = 0 if answer.first_core is None else answer.first_core + 1
        elif isinstance(answer, Resize):
            command.kind, command.cores = self._resize, answer.cores
            if answer.versions is not None:
                command.versions = versions = self._packed(answer.versions)
                self._versions[query_id].append(versions)
        elif isinstance(answer, Rejection):
            self._said.append(self._ffi.new("char[]", answer.reason.encode()[:_REASON_BYTES]))
            command.kind, command.reason = self._reject, self._said[-1]
        else:
            command.kind = self._yield

    def _pack(self, versions: tuple[int, ...]) -> Any:
        try:
            return self._ffi.new("uint8_t[]", bytes(versions))
        except ValueError:
            raise LookupError(
                f"{type(self._policy).__name__} runs layers in versions {versions}, which were not profiled"
            ) from None


class _Progress(Mapping[int, int]):
    """The ended layers of running blocks by query, read when asked for: most decisions do not ask."""

    def __init__(
        self, library: CLibrary, known: Mapping[int, _Known], running: Mapping[int, Running]
    ) -> None:
        self._known, self._running, self._ffi = known, running, library.ffi
        self._read = library.brief("view_ended")
        self._ended: Any = None
        self._view = 0
        self._slots: dict[int, int] = {}

    def renew(self, view: int) -> None:
        """Be those of the decision under way, whose view is at that address."""
        self._view, self._ended = view, None

    def forget(self, query_id: int) -> None:
        """Forget where a block was that ended."""
        self._slots.pop(query_id, None)

    def __getitem__(self, query_id: int) -> int:
        slot = self._slots.get(query_id)
        if slot is None:
            if query_id not in self._running:
                raise KeyError(query_id)
            slot = self._slots[query_id] = self._known[query_id].account.slot
        if self._ended is None:
            self._ended = self._ffi.cast("int32_t *", self._read(self._view))
        ended: int = self._ended[slot]
        return ended

    def __iter__(self) -> Iterator[int]:
        return iter(self._running)

    def __len__(self) -> int:
        return len(self._running)

"""The front's link to the real engine process: `EngineLink` of link.py, for one event loop.

The engine may end at any time and be started anew by whoever watches over it: requests under way fail then,
and the models are added again to the next one that listens on the same socket.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from veltair.service.engine.connection import DOWN, RECONNECT_S, Connection
from veltair.service.engine.link import (
    EngineDownError,
    EngineRefusalError,
    EngineStatistics,
    ModelCounts,
    Outcome,
    OutcomeKind,
    ServedModel,
    Slot,
)
from veltair.service.engine.messages import (
    ASK,
    CANCEL,
    REJECTED,
    REQUEST,
    SERVED,
    Added,
    AddModel,
    Answer,
    Ended,
    Order,
    RemoveModel,
    Welcome,
)
from veltair.service.engine.slots import PooledSlot, SlotMemory, SlotPool, layout_of


@dataclass(slots=True)
class _Served:
    """A model that is to be served: what it was added with, and its slots while the engine has it."""

    order: AddModel
    model: ServedModel | None = None
    pool: SlotPool | None = None
    takes_requests: bool = True
    ended: Counter[OutcomeKind] = field(default_factory=Counter)
    queue_s: float = 0.0
    compute_s: float = 0.0
    core_s: float = 0.0
    under_way: int = 0
    is_idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.is_idle.set()


@dataclass(slots=True)
class _Asked:
    """A request under way."""

    served: _Served
    slot: PooledSlot
    sent_ns: int
    due_ns: int
    tenant: str
    ended: "asyncio.Future[Outcome]"
    is_cancelled: bool = False


class EngineClient:
    """An `EngineLink`. Made by `connect`."""

    def __init__(self, path: Path) -> None:
        """Be about to connect to the socket at a path."""
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._welcome = Welcome("", 0)
        self._served: dict[str, _Served] = {}
        self._asked: dict[int, _Asked] = {}
        self._sequence = 0
        self._core_s_by_tenant = defaultdict[str, float](float)
        self._turn = asyncio.Lock()  # one message about models at a time
        self._all_ended = asyncio.Event()
        self._all_ended.set()
        self._restarts = 0
        self._drains = self._is_closed = False
        self._return: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, path: Path) -> Self:
        """Return a link to the engine that listens at a path, once that answers.

        It is waited for as long as it takes: whoever starts it sees whether it does.
        """
        client = cls(path)
        await client._connect()
        return client

    @property
    def is_up(self) -> bool:
        """Whether the process takes requests."""
        return self._connection is not None and not self._drains

    @property
    def cores(self) -> int:
        """The cores that the engine may use."""
        return self._welcome.cores

    @property
    def models(self) -> Mapping[str, ServedModel]:
        """The models that can be asked now, by key."""
        return {
            key: one.model
            for key, one in self._served.items()
            if one.model is not None and one.takes_requests
        }

    async def add_model(self, key: str, folder: Path, qos_s: float, slots: int) -> ServedModel:
        """See `EngineLink`."""
        # A caller that is cancelled leaves no answer behind that somebody else would take for its own.
        return await asyncio.shield(
            self._loop.create_task(self._add_in_turn(AddModel(key, str(folder), qos_s, slots)))
        )

    async def remove_model(self, key: str) -> None:
        """See `EngineLink`."""
        served = self._find(key)
        served.takes_requests = False
        await served.is_idle.wait()
        await asyncio.shield(self._loop.create_task(self._remove_in_turn(key)))

    def slot(self, key: str) -> Slot | None:
        """See `EngineLink`."""
        self._check_up()
        pool = self._find(key).pool
        if pool is None:
            raise EngineDownError(f"{key} is being loaded again, for the engine was started anew")
        return pool.take()

    async def infer(self, slot: Slot, deadline_s: float, tenant: str) -> Outcome:
        """See `EngineLink`."""
        if not isinstance(slot, PooledSlot) or slot.under_way or slot.is_released:
            raise ValueError("the slot is under way or was released; take another one")
        served = self._served.get(slot.key)
        if served is None or served.pool is not slot.pool or not self.is_up:
            return Outcome(OutcomeKind.FAILED, reason=DOWN)
        self._sequence += 1
        sequence, sent_ns, due_ns = self._sequence, time.monotonic_ns(), round(1e9 * deadline_s)
        asked = _Asked(served, slot, sent_ns, due_ns, tenant, self._loop.create_future())
        self._asked[sequence] = asked
        slot.under_way = True
        served.under_way += 1
        served.is_idle.clear()
        self._all_ended.clear()
        self._send(REQUEST.pack(ASK, slot.number, sequence, sent_ns, max(due_ns, 1)))
        try:
            return await asked.ended
        except asyncio.CancelledError:
            if sequence in self._asked:
                asked.is_cancelled = True
                self._send(REQUEST.pack(CANCEL, 0, sequence, 0, 0))
            raise

    async def statistics(self) -> EngineStatistics:
        """See `EngineLink`."""
        self._check_up()
        known = self._served.items()
        models = {
            key: ModelCounts(
                dict(one.ended),
                *(one.queue_s, one.compute_s, one.core_s),
                one.under_way,
                0 if one.pool is None else one.pool.free,
            )
            for key, one in known
        }
        resident = [one.model.weight_bytes + one.model.buffer_bytes for _, one in known if one.model]
        policy, cores = self._welcome.policy, self._welcome.cores
        tenants = dict(self._core_s_by_tenant)
        return EngineStatistics(policy, cores, self._restarts, sum(resident), models, tenants)

    async def drain(self) -> None:
        """See `EngineLink`."""
        self._drains = True
        await self._all_ended.wait()

    async def close(self) -> None:
        """See `EngineLink`."""
        self._is_closed = True
        if self._return is not None:
            self._return.cancel()
        self._drop()

    # Requests.

    def _find(self, key: str) -> _Served:
        served = self._served.get(key)
        if served is None or not served.takes_requests:
            raise EngineRefusalError(f"{key} is not served")
        return served

    def _check_up(self) -> None:
        if not self.is_up:
            raise EngineDownError("the engine takes no requests now")

    def _send(self, packet: bytes) -> None:
        if self._connection is not None:
            self._connection.send(packet)

    def _hear(self, ended: Ended) -> None:
        if (asked := self._asked.pop(ended.sequence, None)) is not None:
            self._end(asked, _outcome(asked, ended))

    def _end(self, asked: _Asked, outcome: Outcome) -> None:
        asked.slot.end()
        served = asked.served
        served.under_way -= 1
        if not served.under_way:
            served.is_idle.set()
        served.ended[outcome.kind] += 1
        served.queue_s += outcome.queue_s
        served.compute_s += outcome.compute_s
        served.core_s += outcome.core_s
        self._core_s_by_tenant[asked.tenant] += outcome.core_s
        if not asked.ended.done():
            asked.ended.set_result(outcome)
        if not self._asked:
            self._all_ended.set()

    # Models.

    async def _tell(self, order: Order) -> tuple[Answer, list[int]]:
        if self._connection is None:
            raise EngineDownError(DOWN)
        return await self._connection.tell(order)

    async def _add_in_turn(self, order: AddModel) -> ServedModel:
        async with self._turn:
            self._check_up()
            if order.key in self._served:
                raise EngineRefusalError(f"{order.key} is served already")
            served = _Served(order)
            model = await self._add(served)
            self._served[order.key] = served
            return model

    async def _remove_in_turn(self, key: str) -> None:
        async with self._turn:
            served = self._served.pop(key, None)
            if served is None or served.pool is None:
                return  # the engine ended meanwhile, and what comes after it will not have the model
            served.pool.memory.close()
            with suppress(EngineDownError):
                await self._tell(RemoveModel(key))

    async def _add(self, served: _Served) -> ServedModel:
        answer, files = await self._tell(served.order)
        assert isinstance(answer, Added)
        layout = layout_of(answer.model.inputs, answer.model.outputs)
        (file,) = files
        memory = SlotMemory(layout, answer.model.slots, file)
        served.pool = SlotPool(served.order.key, memory, answer.first_slot)
        served.model = answer.model
        return answer.model

    # The connection.

    async def _connect(self) -> None:
        connection = await Connection.open(self._path, self._hear, self._lose)
        self._welcome, self._connection = connection.welcome, connection

    def _lose(self, connection: Connection) -> None:
        """Fail what is under way, for the engine is gone, and wait for the next one."""
        if connection is not self._connection:
            return
        self._drop()
        self._restarts += 1
        if not self._is_closed and (self._return is None or self._return.done()):
            self._return = self._loop.create_task(self._come_back())

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        for served in self._served.values():
            if served.pool is not None:
                served.pool.memory.close()
            served.pool = served.model = None
        asked, self._asked = self._asked, {}
        for one in asked.values():
            self._end(one, Outcome(OutcomeKind.FAILED, reason=DOWN))
        self._all_ended.set()

    async def _come_back(self) -> None:
        """Connect to the next engine, and have it serve what the last one did."""
        async with self._turn:
            while self._connection is None:
                try:
                    await self._connect()
                    for key, served in list(self._served.items()):
                        try:
                            await self._add(served)
                        except EngineRefusalError:
                            del self._served[key]
                except EngineDownError:
                    await asyncio.sleep(RECONNECT_S)


def _outcome(asked: _Asked, ended: Ended) -> Outcome:
    if ended.ending == SERVED:
        kind = OutcomeKind.FINISHED if ended.ended_ns <= asked.due_ns else OutcomeKind.LATE
    elif ended.ending == REJECTED:
        kind = OutcomeKind.REJECTED
    else:
        kind = OutcomeKind.CANCELLED if asked.is_cancelled else OutcomeKind.FAILED
    if not ended.blocks:
        return Outcome(kind)
    queue_s, compute_s = 1e-9 * (ended.began_ns - asked.sent_ns), 1e-9 * (ended.ended_ns - ended.began_ns)
    return Outcome(kind, max(queue_s, 0.0), compute_s, ended.core_s)

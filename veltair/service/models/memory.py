"""Keeps the models in demand in the engine's memory, one load at a time.

What to load and what gives way, `residency.py` decides. A request for an absent model waits here.
"""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from veltair.provenance import write_atomically
from veltair.service.engine.link import EngineDownError, EngineLink, EngineRefusalError, ServedModel, Tensor
from veltair.service.models.residency import HORIZON_S, ModelUse, next_change, stays_until_s
from veltair.service.models.store import output_names
from veltair.service.tenancy.admission import Rates
from veltair.service.tenancy.errors import ServiceError, Trouble

FACTS = "served.json"
# Of arrivals by which a model's rate is known.
MOST_ARRIVALS = 64
# How soon it is looked again whether a model that was just loaded may give way.
AGAIN_S = 0.05


@dataclass(slots=True)
class _Known:
    tenant: str
    folder: Path
    qos_s: float
    slots: int
    facts: ServedModel
    loaded_s: float | None = None
    users: int = 0
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_ARRIVALS))
    waiting: set[asyncio.Future[None]] = field(default_factory=set)


class Memory:
    """The models that may be asked, and those of them that the engine holds."""

    def __init__(
        self,
        link: EngineLink,
        budget_bytes: int,
        guaranteed_bytes: Mapping[str, int],
        rates: Rates,
        clock: Callable[[], float],
    ) -> None:
        """Begin with none. `guaranteed_bytes` are by tenant; `clock` returns seconds."""
        self._link, self._budget_bytes = link, budget_bytes
        self._guaranteed, self._rates, self._clock = dict(guaranteed_bytes), rates, clock
        self._known: dict[str, _Known] = {}
        self._waiting = 0  # requests that wait for a load
        self._change = asyncio.Event()
        self._changing = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None

    def facts(self, key: str) -> ServedModel | None:
        """Return what is known of a model that may be asked, in memory or not; None if it may not."""
        known = self._known.get(key)
        return known.facts if known else None

    def is_resident(self, key: str) -> bool:
        """Whether a model is in memory and stays there as long as it is used."""
        known = self._known.get(key)
        return known is not None and known.loaded_s is not None

    @property
    def held_bytes(self) -> int:
        """Bytes of all models in memory."""
        return sum(one.facts.weight_bytes for one in self._known.values() if one.loaded_s is not None)

    def start(self) -> None:
        """Begin to load what is asked for."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """Load no more; whoever waits is told that the service ends."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        for one in self._known.values():
            _fail(one, "the service ends")

    async def add(self, key: str, tenant: str, folder: Path, qos_s: float, slots: int) -> ServedModel:
        """Let a model be asked; it is loaded now if that displaces no other, else when it is asked.

        Raises ServiceError if the engine refuses it.
        """
        if key in self._known:
            return self._known[key].facts
        facts = _read_facts(folder, key)
        if facts is None or self.held_bytes + facts.weight_bytes <= self._budget_bytes:
            async with self._changing:
                facts = await self._load(key, folder, qos_s, slots)
            if self.held_bytes + facts.weight_bytes > self._budget_bytes:
                await self._link.remove_model(key)
                if facts.weight_bytes > self._budget_bytes:
                    raise ServiceError(
                        Trouble.UNAVAILABLE,
                        f"the model has {facts.weight_bytes / 1e6:.1f} MB of weights, more than the service "
                        "has for all models; upload a smaller one",
                    )
        known = self._known[key] = _Known(tenant, folder, qos_s, slots, facts)
        if key in self._link.models:
            known.loaded_s = self._clock()
        return facts

    async def remove(self, key: str) -> None:
        """Let a model no longer be asked. Raises EngineDownError."""
        known = self._known.pop(key, None)
        if known is None:
            return
        _fail(known, "the model was unloaded")
        async with self._changing:
            if known.loaded_s is not None:
                await self._link.remove_model(key)
        self._change.set()

    def want(self, key: str) -> None:
        """Count a request for a model that is not waited for: the load would take too long for it.

        Those after it find the model in memory, if it is in more demand than others.
        """
        if (known := self._known.get(key)) is not None:
            known.arrivals.append(self._clock())
            self._change.set()

    @contextlib.asynccontextmanager
    async def using(self, key: str) -> Any:
        """Within the context the model is in memory and stays there; entering waits for its load.

        Raises ServiceError if it may not be asked any more, or its load fails.
        """
        known = self._known.get(key)
        if known is None:
            raise ServiceError(Trouble.UNAVAILABLE, "the model was unloaded")
        known.arrivals.append(self._clock())
        known.users += 1
        try:
            if known.loaded_s is None:
                await self._wait(known)
            yield
        finally:
            known.users -= 1
            if not known.users and self._waiting:
                self._change.set()  # it may give way now

    async def _wait(self, known: _Known) -> None:
        there = asyncio.get_running_loop().create_future()
        known.waiting.add(there)
        self._waiting += 1
        self._change.set()
        try:
            await there
        finally:
            known.waiting.discard(there)
            self._waiting -= 1

    async def _keep(self) -> None:
        while True:
            await self._change.wait()
            self._change.clear()
            try:
                while await self._do_one():
                    pass
            except EngineDownError:
                await asyncio.sleep(AGAIN_S)
                self._change.set()

    async def _do_one(self) -> bool:
        """Make one change if there is one to make; return whether another may follow."""
        async with self._changing:
            now_s = self._clock()
            uses = [self._use(key, one, now_s) for key, one in self._known.items()]
            change = next_change(uses, self._budget_bytes, self._guaranteed, now_s)
            if change is None:
                if any(one.waiting for one in self._known.values()):
                    # It has to wait for one that was just loaded; nothing else tells when that may go.
                    soonest_s = min(map(stays_until_s, uses), default=now_s)
                    delay_s = max(AGAIN_S, soonest_s - now_s)
                    asyncio.get_running_loop().call_later(delay_s, self._change.set)
                return False
            loading = self._known[change.load]
            for key in change.evict:
                self._known[key].loaded_s = None  # first, so that no request begins that would hold it up
            for key in change.evict:
                await self._link.remove_model(key)
            await self._bring(change.load, loading)
            return True

    async def _bring(self, key: str, known: _Known) -> None:
        try:
            known.facts = await self._load(key, known.folder, known.qos_s, known.slots)
        except ServiceError as error:
            _fail(known, str(error))
            return
        known.loaded_s = self._clock()
        for there in known.waiting:
            if not there.done():
                there.set_result(None)

    async def _load(self, key: str, folder: Path, qos_s: float, slots: int) -> ServedModel:
        start_s = self._clock()
        try:
            facts = await self._link.add_model(key, folder, qos_s, slots)
        except EngineRefusalError as error:
            raise ServiceError(Trouble.UNAVAILABLE, f"the engine refuses the model: {error}") from None
        self._rates.loaded(key, self._clock() - start_s)
        if len(names := output_names(folder)) == len(facts.outputs):
            named = zip(facts.outputs, names, strict=True)
            facts = replace(facts, outputs=tuple(replace(one, name=name) for one, name in named))
        _write_facts(folder, facts)
        return facts

    def _use(self, key: str, one: _Known, now_s: float) -> ModelUse:
        recent = sum(time_s > now_s - HORIZON_S for time_s in one.arrivals)
        facts = one.facts
        return ModelUse(
            name=key,
            tenant=one.tenant,
            nbytes=facts.weight_bytes,
            core_s=facts.core_s,
            load_s=self._rates.load_s(key, facts.weight_bytes),
            rate=recent / HORIZON_S,
            waiting=len(one.waiting),
            loaded_s=one.loaded_s,
            in_use=one.users > len(one.waiting),
        )


def _fail(known: _Known, reason: str) -> None:
    for there in known.waiting:
        if not there.done():
            there.set_exception(ServiceError(Trouble.UNAVAILABLE, reason))
    known.waiting.clear()
    known.arrivals.clear()  # so that it is loaded again only when it is asked again


def _read_facts(folder: Path, key: str) -> ServedModel | None:
    """Return what the engine said of a model when it was first loaded; None if it never was."""
    try:
        values = json.loads((folder / FACTS).read_bytes())
        tensors = {
            name: tuple(Tensor(one["name"], one["dtype"], tuple(one["shape"])) for one in values.pop(name))
            for name in ("inputs", "outputs")
        }
        return ServedModel(**(values | tensors | {"key": key}))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_facts(folder: Path, facts: ServedModel) -> None:
    write_atomically({folder / FACTS: json.dumps(asdict(facts)).encode()})

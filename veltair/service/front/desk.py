"""What the service does for a tenant, whatever protocol the request came by.

A protocol's front reads tokens, names and tensors and writes answers; who may ask for what, what it costs and
whether it would be in time, is decided here. One event loop calls it.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar

from veltair.service.engine.link import (
    EngineDownError,
    EngineLink,
    EngineRefusalError,
    Outcome,
    OutcomeKind,
    ServedModel,
    Slot,
    Tensor,
)
from veltair.service.keys.tenant_keys import TenantKeys, TenantsKeys
from veltair.service.models.memory import Memory
from veltair.service.models.registry import Entry, ModelNameError, Registry, checked_name, checked_version
from veltair.service.tenancy.admission import Admission, Asked
from veltair.service.tenancy.errors import ServiceError, Trouble, not_found
from veltair.service.tenancy.statistics import Gauge, ModelStatistics, TenantStatistics
from veltair.service.tenancy.tenants import Refusal, Tokens
from veltair.service.tenancy.turns import Turns

Answer = TypeVar("Answer", covariant=True)  # noqa: PLC0105  (what it is says more than how it varies)
# When a request of the default priority comes among those of its tenant: after 1, the highest.
DEFAULT_PRIORITY = 2
# How long a restart of the engine takes, about.
RESTART_S = 1.0
# A slot of a model is free when one of its requests has ended.
SLOT_S = 0.02


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a request says of itself: seconds until its deadline (None: the tenant's), 0 or its priority."""

    timeout_s: float | None = None
    priority: int = 0


class Exchange(Protocol[Answer]):
    """One request for inference as its protocol has it."""

    async def receive(self, entry: Entry, model: ServedModel) -> Wishes:
        """Read the request for a version of a model and check it.

        Raises ServiceError if it is wrong or comes too slowly.
        """

    def put(self, inputs: Sequence[memoryview]) -> None:
        """Write the input tensors, each of its exact size."""

    def take(self, outputs: Sequence[memoryview]) -> Answer:
        """Return the answer with a copy of the output tensors."""


@dataclass(slots=True)
class _Request(Generic[Answer]):
    """What is known of a request under way, for statistics."""

    tenant: TenantKeys
    entry: Entry
    model: ServedModel
    exchange: Exchange[Answer]
    arrival_s: float
    input_s: float = 0.0
    output_s: float = 0.0
    engine_has_it: bool = False
    outcome: Outcome | None = None

    @property
    def core_s(self) -> float:
        """Core-seconds that it held: as foreseen where nobody waited for its end, so that it pays for it."""
        if self.outcome is not None:
            return self.outcome.core_s
        return self.model.core_s if self.engine_has_it else 0.0


class Desk:
    """All of the service's answers about models that are there; uploads are the `Intake`'s."""

    def __init__(
        self,
        keys: TenantsKeys,
        registry: Registry,
        link: EngineLink,
        memory: Memory,
        admission: Admission,
        cores: int,
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
    ) -> None:
        """`clock` is the link's, `calendar` the seconds since 1970."""
        self._tokens = Tokens(keys.tenants)
        self._registry, self._link, self._memory, self._admission = registry, link, memory, admission
        # One more than there are cores, so that no core waits for this process.
        self._turns = Turns({one.name: one.weight for one in keys.tenants}, cores + 1)
        self._clock, self._calendar = clock, calendar
        self._models: dict[tuple[str, str, int], ModelStatistics] = {}
        self._tenants = {one.name: TenantStatistics() for one in keys.tenants}
        self._drains = False

    # Who and what

    def tenant_of(self, authorization: str) -> TenantKeys:
        """Return who asks. Raises ServiceError without a valid token."""
        if (found := self._tokens.tenant_of(authorization)) is None:
            raise ServiceError(Trouble.NO_TENANT, "give a valid token as `Authorization: Bearer TOKEN`")
        return found

    def entry(self, tenant: TenantKeys, name: str, version: str = "") -> Entry:
        """Return a version of a model, without one the newest. Raises ServiceError if it is not there.

        Another's model is as absent as one that nobody has.
        """
        try:
            number = checked_version(version) if version else None
            found = self._registry.find(tenant.name, checked_name(name), number)
        except ModelNameError:
            found = None
        if found is None:
            raise not_found()
        return found

    def described(self, entry: Entry) -> ServedModel:
        """Return the inputs and outputs of a model. Raises ServiceError if it is not served."""
        facts = self._memory.facts(key_of(entry)) if entry.state.is_served else None
        if facts is None:
            reason = f": {entry.reason}" if entry.reason else ""
            raise ServiceError(
                Trouble.UNAVAILABLE, f"{entry.name} version {entry.version} is {entry.state}{reason}"
            )
        return facts

    def is_ready(self, entry: Entry) -> bool:
        """Whether requests for it are answered."""
        return entry.state.is_served and self._memory.facts(key_of(entry)) is not None and self._link.is_up

    @property
    def accepts(self) -> bool:
        """Whether requests are answered at all."""
        return self._link.is_up and not self._drains

    def index(self, tenant: TenantKeys, ready: bool = False) -> Sequence[Entry]:
        """Return all models of a tenant, or those that are ready."""
        return [one for one in self._registry.of(tenant.name) if not ready or self.is_ready(one)]

    def versions(self, entry: Entry) -> Sequence[int]:
        """Return the versions of a model that are served."""
        return [
            one.version for one in self._registry.versions(entry.tenant, entry.name) if one.state.is_served
        ]

    # Inference

    async def infer(self, tenant: TenantKeys, name: str, version: str, exchange: Exchange[Answer]) -> Answer:
        """Return the answer to a request. Raises ServiceError with the reason why there is none.

        A task that is cancelled takes its request back, if it has not begun.
        """
        arrival_s = self._clock()
        ending = "gone"
        try:
            entry = self.entry(tenant, name, version)
            request = _Request(tenant, entry, self.described(entry), exchange, arrival_s)
            try:
                answer = await self._admitted(request)
            except ServiceError:
                self._statistics(entry).failed(self._clock() - arrival_s, self._calendar())
                raise
            ending = self._count(request)
            return answer
        except ServiceError as error:
            ending = error.trouble.value
            raise
        finally:
            self._tenants[tenant.name].endings[ending] += 1

    async def _admitted(self, request: _Request[Answer]) -> Answer:
        if not self.accepts:
            raise _down()
        tenant, model = request.tenant, request.model
        asked = _asked(request, self._memory.is_resident(model.key))
        ticket = self._admission.enter(asked, request.arrival_s)
        if isinstance(ticket, Refusal):
            raise ServiceError(Trouble.QUOTA, str(ticket), retry_after_s=ticket.retry_after_s)
        try:
            wishes = await request.exchange.receive(request.entry, model)
            timeout_s = tenant.qos_ms / 1e3 if wishes.timeout_s is None else wishes.timeout_s
            async with self._offered(asked, request, request.arrival_s + timeout_s):
                return await self._served(request, wishes, request.arrival_s + timeout_s)
        finally:
            self._tenants[tenant.name].core_s += request.core_s
            self._admission.leave(tenant.name, ticket, request.core_s, self._clock())

    @asynccontextmanager
    async def _offered(self, asked: Asked, request: _Request[Answer], deadline_s: float) -> Any:
        """Within the context others are predicted to wait for the request."""
        number, predicted = self._admission.offer(asked, deadline_s, self._clock())
        if not predicted.in_time:
            if asked.load_bytes:
                self._memory.want(asked.model)
            predicted_ms = 1e3 * (predicted.finish_s - request.arrival_s)
            raise ServiceError(
                Trouble.UNAVAILABLE,
                f"the answer would come {predicted_ms:.0f} ms after the request, too late for its deadline",
                retry_after_s=predicted.wait_s,
                predicted_ms=predicted_ms,
            )
        try:
            yield
        finally:
            outcome = request.outcome
            ran_s = outcome.compute_s if outcome is not None and outcome.has_outputs else None
            self._admission.ended(number, ran_s, self._clock())

    async def _served(self, request: _Request[Answer], wishes: Wishes, deadline_s: float) -> Answer:
        late = ServiceError(Trouble.LATE, "the request was taken, but its turn did not come in time")
        in_time = asyncio.timeout(max(0.0, deadline_s - self._clock()))
        try:
            async with in_time, self._memory.using(request.model.key):
                slot = self._slot(request.model.key)
                try:
                    await self._filled(request, slot, wishes, deadline_s)
                    in_time.reschedule(None)  # The engine has it: its policy drops what is late.
                    await self._ask_engine(request, slot, deadline_s)
                    return self._taken(request, slot, late)
                finally:
                    slot.release()
        except TimeoutError:
            raise late from None

    async def _filled(self, request: _Request[Answer], slot: Slot, wishes: Wishes, deadline_s: float) -> None:
        """Write the inputs and wait for the request's turn."""
        start_s = self._clock()
        request.exchange.put(slot.inputs)
        request.input_s = self._clock() - start_s
        self._admission.rates.copied(tensor_bytes(request.model.inputs), request.input_s)
        order = (float(wishes.priority or DEFAULT_PRIORITY), deadline_s)
        await self._turns.take(request.tenant.name, request.model.core_s, order)

    async def _ask_engine(self, request: _Request[Answer], slot: Slot, deadline_s: float) -> None:
        request.engine_has_it = True
        try:
            request.outcome = await self._link.infer(slot, deadline_s, request.tenant.name)
        finally:
            self._turns.end(request.tenant.name, request.model.core_s, request.core_s)

    def _taken(self, request: _Request[Answer], slot: Slot, late: ServiceError) -> Answer:
        outcome = request.outcome
        assert outcome is not None
        if outcome.kind is OutcomeKind.FAILED:
            raise (
                _down()
                if not self._link.is_up
                else ServiceError(
                    Trouble.INTERNAL, "the engine could not answer; the operator's log says why"
                )
            )
        if not outcome.has_outputs:
            raise late
        start_s = self._clock()
        answer = request.exchange.take(slot.outputs)
        request.output_s = self._clock() - start_s
        self._admission.rates.copied(tensor_bytes(request.model.outputs), request.output_s)
        return answer

    def _slot(self, key: str) -> Slot:
        try:
            slot = self._link.slot(key)
        except EngineDownError:
            raise _down() from None
        except EngineRefusalError:
            raise ServiceError(Trouble.UNAVAILABLE, "the model was unloaded") from None
        if slot is None:
            raise ServiceError(
                Trouble.QUOTA, "all slots of the model are in use; try again", retry_after_s=SLOT_S
            )
        return slot

    # Statistics

    def statistics(self, entry: Entry) -> ModelStatistics:
        """Return what became of the requests for a version of a model since the service began."""
        return self._statistics(entry)

    def metrics(self) -> tuple[Mapping[str, TenantStatistics], tuple[Gauge, ...]]:
        """Return the numbers of all tenants, for the operator."""
        accounts = self._admission.accounts
        return self._tenants, (
            Gauge(
                "veltair_requests_in_flight", "gauge", "Requests under way.",
                {name: float(one.in_flight) for name, one in accounts.items()},
            ),
            Gauge(
                "veltair_queued_bytes", "gauge", "Bytes of the tensors of requests under way.",
                {name: float(one.queued_bytes) for name, one in accounts.items()},
            ),
            Gauge(
                "veltair_requests_waiting", "gauge", "Requests that wait for their turn at the engine.",
                {"": float(self._turns.waiting)},
            ),
            Gauge(
                "veltair_resident_bytes", "gauge", "Weights of the models in memory.",
                {"": float(self._memory.held_bytes)},
            ),
            Gauge("veltair_up", "gauge", "Whether requests are answered.", {"": float(self.accepts)}),
        )  # fmt: skip

    async def drain(self) -> None:
        """Take no more requests and return once all that were taken have been answered."""
        self._drains = True
        await self._link.drain()

    def _count(self, request: _Request[Answer]) -> str:
        outcome = request.outcome
        assert outcome is not None
        model, now_s = self._statistics(request.entry), self._clock()
        total_s = now_s - request.arrival_s
        steps_s = request.input_s + outcome.compute_s + request.output_s
        model.served(
            total_s, max(0.0, total_s - steps_s), request.input_s, outcome.compute_s, request.output_s,
            self._calendar(),
        )  # fmt: skip
        if outcome.kind is OutcomeKind.LATE:
            model.late += 1
            return "late_answer"
        return "served"

    def _statistics(self, entry: Entry) -> ModelStatistics:
        return self._models.setdefault(entry.key, ModelStatistics())


@lru_cache(4096)
def tensor_bytes(tensors: tuple[Tensor, ...]) -> int:
    """Return the bytes of some tensors together."""
    return sum(one.nbytes for one in tensors)


def key_of(entry: Entry) -> str:
    """Return under which key the engine serves an entry; no two tenants share one."""
    return f"{entry.tenant}/{entry.name}/{entry.version}/{entry.digest[:12]}"


def _asked(request: _Request[Any], resident: bool) -> Asked:
    model = request.model
    input_bytes, output_bytes = tensor_bytes(model.inputs), tensor_bytes(model.outputs)
    return Asked(
        tenant=request.tenant.name,
        model=model.key,
        alone_s=model.alone_s,
        core_s=model.core_s,
        input_bytes=input_bytes,
        output_bytes=output_bytes,
        load_bytes=0 if resident else model.weight_bytes,
    )


def _down() -> ServiceError:
    return ServiceError(
        Trouble.UNAVAILABLE, "the service is starting or ending; try again", retry_after_s=RESTART_S
    )

"""Takes models in: uploads, what is built of them, when they are served and when no longer.

Requests for inference never wait for this: models are built one at a time by another process.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from veltair.service.engine.link import EngineDownError
from veltair.service.front.desk import key_of
from veltair.service.keys.tenant_keys import TenantKeys
from veltair.service.models.builder import Built, OnState
from veltair.service.models.memory import Memory
from veltair.service.models.registry import (
    BEING_BUILT,
    Entry,
    ExistsError,
    ModelNameError,
    Registry,
    RegistryError,
    State,
    checked_name,
    checked_version,
)
from veltair.service.models.store import Store, StoreError, check_seal, place_of, request_bytes
from veltair.service.tenancy.admission import Admission
from veltair.service.tenancy.errors import ServiceError, Trouble, bad_request, not_found
from veltair.serving.policies.fair import FairQueue

LOG = logging.getLogger(__name__)
UNLOADED = "unloaded"
# How soon a model is tried again that could not be brought to an engine which was being started.
AGAIN_S = 1.0
# What a build is taken to take until it ended, for tenants to have fair turns of the builder.
EXPECTED_S = 60.0


class Builds(Protocol):
    """What builds the models that the store keeps, as `Builder` does."""

    async def build(self, place: str, on_state: OnState) -> Built:
        """Build the model of a place and publish it there; the result says why not."""


class Intake:
    """The models of all tenants, from upload to removal."""

    def __init__(
        self,
        tenants: Iterable[TenantKeys],
        registry: Registry,
        store: Store,
        builder: Builds,
        memory: Memory,
        admission: Admission,
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
    ) -> None:
        """`clock` is that of the quotas, `calendar` the seconds since 1970."""
        self._tenants: Mapping[str, TenantKeys] = {one.name: one for one in tenants}
        self._registry, self._store, self._builder = registry, store, builder
        self._memory, self._admission = memory, admission
        self._clock, self._calendar = clock, calendar
        self._queue: FairQueue[Entry] = FairQueue(dict.fromkeys(self._tenants, 1.0))
        self._came = asyncio.Event()
        self._settled: dict[tuple[str, str, int], asyncio.Event] = {}
        self._worker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve what was served when the service ended, and go on building; tenants that are gone stay so."""
        self._store.sweep({place_of(one.tenant, one.digest) for one in self._registry})
        for entry in self._registry.served():
            if entry.tenant in self._tenants:
                await self._serve(entry)
        for entry in self._registry.unfinished():
            if entry.tenant in self._tenants:
                self._wait_for_builder(entry)
        self._worker = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Build no more; what was begun begins again at the next start."""
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker

    @property
    def waiting(self) -> int:
        """How many models wait to be built."""
        return len(self._queue)

    def check(self, tenant: TenantKeys, name: str, version: str, nbytes: int | None) -> tuple[str, int]:
        """Return the checked name and version of an upload before its bytes are read.

        Raises ServiceError for what is no name, more bytes than the tenant may upload, or a quota used up.
        """
        try:
            checked = checked_name(name), checked_version(version)
        except ModelNameError as error:
            raise bad_request(str(error)) from None
        if nbytes is not None and nbytes > self.most_bytes(tenant):
            raise too_large(tenant)
        if (
            self._registry.find(tenant.name, *checked) is None
            and len(self._registry.of(tenant.name)) >= tenant.models
        ):
            raise ServiceError(
                Trouble.QUOTA,
                f"the quota models of {tenant.models} is used up; unload and remove a version first",
            )
        if refused := self._admission.accounts[tenant.name].compile_refusal(self._clock()):
            raise ServiceError(Trouble.QUOTA, str(refused), retry_after_s=refused.retry_after_s)
        return checked

    @staticmethod
    def most_bytes(tenant: TenantKeys) -> int:
        """Return how many bytes a tenant may upload as one model."""
        return int(tenant.upload_mb * 1e6)

    def incoming(self) -> Path:
        """Return a new empty file for the bytes of an upload."""
        return self._store.incoming()

    def upload(self, tenant: TenantKeys, name: str, version: int, incoming: Path, digest: str) -> Entry:
        """Take an upload in whose bytes are in a file of `incoming`, with their digest; it is built next.

        Raises ServiceError for other bytes under a version that is there.
        """
        nbytes = incoming.stat().st_size
        try:
            entry, is_new = self._registry.upload(
                tenant.name, name, version, digest, nbytes, self._calendar()
            )
        except ExistsError as error:
            incoming.unlink()
            raise bad_request(str(error)) from None
        if not is_new:
            incoming.unlink()
            return entry
        self._store.keep(incoming, _place(entry))
        self._wait_for_builder(entry)
        return entry

    async def load(self, tenant: TenantKeys, name: str, version: int | None = None) -> Entry:
        """Serve a model again that was unloaded, or build it once more; without a version, its newest.

        Raises ServiceError if it is not there.
        """
        entry = self._found(tenant, name, version)
        if entry.state.is_served or entry.state in BEING_BUILT:
            return entry
        if entry.built and self._store.is_built(_place(entry)):
            return await self._serve(self._registry.move(entry, State.READY))
        entry = self._registry.move(entry, State.UPLOADED)
        self._wait_for_builder(entry)
        return entry

    async def settled(self, entry: Entry, seconds: float) -> Entry:
        """Return an entry as it is once it is built or refused, or after so many seconds."""
        known = self._registry.find(*entry.key) or entry
        if known.state not in BEING_BUILT:
            return known
        settled = self._settled.setdefault(entry.key, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await settled.wait()
        return self._registry.find(*entry.key) or entry

    async def unload(self, tenant: TenantKeys, name: str, version: int | None = None) -> None:
        """Serve a model no more, in all versions or in one; requests under way are answered first.

        Raises ServiceError if it is not there.
        """
        first = self._found(tenant, name, version)
        every = [first] if version is not None else self._registry.versions(tenant.name, first.name)
        for entry in every:
            moved = self._registry.move(entry, State.UNAVAILABLE, entry.reason or UNLOADED)
            with contextlib.suppress(EngineDownError):
                await self._memory.remove(key_of(moved))

    async def remove(self, tenant: TenantKeys, name: str, version: int) -> None:
        """Forget a version, and its bytes at the next start. Raises ServiceError if it is not there."""
        entry = self._found(tenant, name, version)
        await self.unload(tenant, name, version)
        self._registry.remove(entry)

    def _found(self, tenant: TenantKeys, name: str, version: int | None) -> Entry:
        try:
            entry = self._registry.find(tenant.name, checked_name(name), version)
        except ModelNameError:
            entry = None
        if entry is None:
            raise not_found()
        return entry

    async def _work(self) -> None:
        while True:
            await self._came.wait()
            while len(self._queue):
                entry = self._queue.pop(EXPECTED_S)
                took_s = 0.0
                try:
                    took_s = await self._build(entry)
                except Exception:  # the next tenant's model is built all the same
                    LOG.exception("building version %d of a model of %s", entry.version, entry.tenant)
                    self._move(entry, State.UNAVAILABLE, "the service could not build it; its log says why")
                finally:
                    self._queue.settle(entry.tenant, EXPECTED_S, took_s)
                    self._tell_settled(entry)
            self._came.clear()

    def _tell_settled(self, entry: Entry) -> None:
        if (settled := self._settled.pop(entry.key, None)) is not None:
            settled.set()

    def _wait_for_builder(self, entry: Entry) -> None:
        self._queue.push(entry.tenant, entry, self._clock())
        self._came.set()

    async def _build(self, entry: Entry) -> float:
        """Build a model if it is still wanted, and serve it; return the seconds that the builder took."""
        took_s = 0.0
        if not self._is_wanted(entry):
            return took_s
        if not self._store.is_built(_place(entry)):
            built = await self._builder.build(_place(entry), partial(self._enter, entry))
            took_s = built.seconds
            self._admission.accounts[entry.tenant].compiled(took_s, self._clock())
            if built.reason and self._is_wanted(entry):
                self._move(entry, State.UNAVAILABLE, built.reason)
            if built.reason:
                return took_s
        if self._is_wanted(entry) and self._move(entry, State.READY):
            await self._serve(entry)
        return took_s

    def _is_wanted(self, entry: Entry) -> bool:
        """Whether a model is still to be built: nobody unloaded or removed it meanwhile."""
        known = self._registry.find(*entry.key)
        return known is not None and known.digest == entry.digest and known.state in BEING_BUILT

    def _enter(self, entry: Entry, state: State) -> None:
        self._move(entry, state)

    def _move(self, entry: Entry, state: State, reason: str = "") -> bool:
        try:
            self._registry.move(entry, state, reason)
        except RegistryError:
            return False  # It was unloaded or removed meanwhile.
        return True

    async def _serve(self, entry: Entry) -> Entry:
        """Let a ready model be asked; one whose files were changed, or that the engine refuses, cannot be."""
        tenant, folder = self._tenants[entry.tenant], self._store.folder(_place(entry))
        while True:
            try:
                # On a thread: of large models it takes longer than anybody else should wait.
                await asyncio.to_thread(check_seal, folder)
                now = self._registry.find(*entry.key)
                if now is None or not now.state.is_served or now.digest != entry.digest:
                    return now or entry  # It was unloaded or removed meanwhile.
                slots = slots_of(tenant, request_bytes(folder))
                await self._memory.add(key_of(entry), entry.tenant, folder, tenant.qos_ms / 1e3, slots)
            except EngineDownError:
                await asyncio.sleep(AGAIN_S)
                continue
            except (StoreError, ServiceError) as error:
                return self._registry.move(entry, State.UNAVAILABLE, str(error))
            return self._registry.find(*entry.key) or entry


def slots_of(tenant: TenantKeys, nbytes: int) -> int:
    """Return how many requests of so many bytes a tenant can have under way, at least one."""
    return max(1, min(tenant.in_flight, int(tenant.queued_mb * 1e6 // max(1, nbytes))))


def _place(entry: Entry) -> str:
    return place_of(entry.tenant, entry.digest)


def too_large(tenant: TenantKeys) -> ServiceError:
    """Return the error of an upload that is larger than the tenant's models may be."""
    return ServiceError(
        Trouble.TOO_LARGE, f"the upload is larger than upload_mb, {tenant.upload_mb:g}, allows; upload less"
    )

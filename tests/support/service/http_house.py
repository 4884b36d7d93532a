"""A whole service in this process, its engine and builder faked, and a client that needs no network."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.support.service.fake_builder import FakeBuilder
from tests.support.service.fake_link import FakeLink, echo
from tests.support.service.tenant_builders import tenant_keys
from veltair.service.front.desk import Desk, key_of
from veltair.service.front.http_body import Patience
from veltair.service.front.http_front import HttpFront
from veltair.service.front.intake import Intake
from veltair.service.keys.tenant_keys import TenantKeys, TenantsKeys
from veltair.service.models.memory import Memory
from veltair.service.models.registry import Entry, Registry, State
from veltair.service.models.store import Store, place_of
from veltair.service.tenancy.admission import Admission

SHOP, BANK = tenant_keys("shop", "shop-token"), tenant_keys("bank", "bank-token")
App = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(frozen=True)
class Answered:
    """What came back."""

    code: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def values(self) -> Any:
        """The body read as JSON."""
        return json.loads(self.body)


def bearer(token: str) -> dict[str, str]:
    """Return the header that carries a token."""
    return {"authorization": f"Bearer {token}"}


async def ask(
    app: App,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | Sequence[bytes] = b"",
    gone: asyncio.Event | None = None,
) -> Answered:
    """Send a request as a server would pass it on; the client goes away when `gone` is set."""
    parts = [body] if isinstance(body, bytes) else list(body)
    given = {"content-length": str(sum(map(len, parts)))} if any(parts) else {}
    given |= headers or {}
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
    }  # fmt: skip
    left, sent = list(enumerate(parts, start=1)), []

    async def receive() -> Mapping[str, Any]:
        if left:
            number, part = left.pop(0)
            return {"type": "http.request", "body": part, "more_body": number < len(parts)}
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    if not sent:
        return Answered(0, {}, b"")
    return Answered(
        sent[0]["status"],
        {name.decode(): value.decode() for name, value in sent[0]["headers"]},
        b"".join(bytes(one["body"]) for one in sent[1:]),
    )


@dataclass
class House:
    """The parts of a service."""

    front: HttpFront
    desk: Desk
    intake: Intake
    link: FakeLink
    registry: Registry
    store: Store
    builder: FakeBuilder
    memory: Memory

    async def get(self, path: str, token: str = "shop-token") -> Answered:
        """Get a page as a tenant."""
        return await ask(self.front, "GET", path, bearer(token))

    async def post(
        self, path: str, body: bytes | Sequence[bytes] = b"", token: str = "shop-token", **others: Any
    ) -> Answered:
        """Post a body as a tenant."""
        headers = bearer(token) | others.pop("headers", {})
        return await ask(self.front, "POST", path, headers, body, **others)

    async def serve(
        self, name: str = "net", tenant: TenantKeys = SHOP, version: int = 1, **model: Any
    ) -> None:
        """Let a tenant have a model that answers with its input."""
        content = f"{tenant.name} {name} {version}".encode()
        digest = sha256(content).hexdigest()
        folder = self.store.folder(place_of(tenant.name, digest))
        self.link.folders[folder] = echo("", **model)
        incoming = self.intake.incoming()
        incoming.write_bytes(content)
        self.intake.upload(tenant, name, version, incoming, digest)
        await self.until(name, State.READY, tenant, version)

    def is_settled(self, entry: Entry) -> bool:
        """Whether a model, if ready, may be asked: its files were found to be those that were built."""
        return entry.state is not State.READY or self.memory.facts(key_of(entry)) is not None

    async def until(self, name: str, state: State, tenant: TenantKeys = SHOP, version: int = 1) -> None:
        """Wait for a model to get into a state."""
        found = None
        for _ in range(300):
            found = self.registry.find(tenant.name, name, version)
            if found is not None and found.state is state and self.is_settled(found):
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"{name} is {found}")


@contextlib.asynccontextmanager
async def housed(
    tmp_path: Path,
    tenants: Sequence[TenantKeys] = (SHOP, BANK),
    patience: Patience | None = None,
    **admission: Any,
) -> AsyncIterator[House]:
    """Run a service of some tenants."""
    keys = TenantsKeys(tenants=tuple(tenants), admission=admission)
    registry, store, link = Registry(tmp_path / "registry"), Store(tmp_path / "store"), FakeLink()
    decides = Admission(keys.tenants, keys.admission, 2, asyncio.get_running_loop().time())
    memory = Memory(link, 1_000_000, {}, decides.rates, asyncio.get_running_loop().time)
    builder = FakeBuilder(store)
    intake = Intake(keys.tenants, registry, store, builder, memory, decides, asyncio.get_running_loop().time)
    desk = Desk(keys, registry, link, memory, decides, 2, asyncio.get_running_loop().time)
    memory.start()
    await intake.start()
    try:
        yield House(
            HttpFront(desk, intake, "0", patience), desk, intake, link, registry, store, builder, memory
        )
    finally:
        await intake.stop()
        await memory.stop()
        registry.close()


def within(tmp_path: Path, scene: Callable[[House], Awaitable[None]], **options: Any) -> None:
    """Play a scene in a service, for 5 seconds at most."""

    async def play() -> None:
        async with asyncio.timeout(5), housed(tmp_path, **options) as house:
            await scene(house)

    asyncio.run(play())

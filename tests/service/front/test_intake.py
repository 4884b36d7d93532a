import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support.service.fake_builder import FakeBuilder
from tests.support.service.fake_link import FakeLink
from tests.support.service.tenant_builders import tenant_keys
from veltair.service.front import intake
from veltair.service.front.intake import Intake, slots_of
from veltair.service.keys.tenant_keys import AdmissionKeys
from veltair.service.models.memory import Memory
from veltair.service.models.registry import Entry, Registry, State
from veltair.service.models.store import Store, check_seal
from veltair.service.tenancy.admission import Admission
from veltair.service.tenancy.errors import ServiceError, Trouble

SHOP, BANK = tenant_keys("shop", models=2, upload_mb=0.001), tenant_keys("bank", "other")


@dataclass
class House:
    registry: Registry
    builder: FakeBuilder
    intake: Intake
    link: FakeLink

    def upload(self, content: bytes = b"x", name: str = "net", version: int = 1, tenant: Any = SHOP) -> Entry:
        incoming = self.intake.incoming()
        incoming.write_bytes(content)
        return self.intake.upload(tenant, name, version, incoming, sha256(content).hexdigest())

    def is_settled(self, entry: Entry) -> bool:
        return entry.state is not State.READY or any(
            key.split("/")[:3] == [entry.tenant, entry.name, str(entry.version)] for key in self.link.models
        )

    async def until(self, name: str, state: State, tenant: str = "shop") -> Entry:
        for _ in range(200):
            found = self.registry.find(tenant, name)
            # A ready model is in memory once its files were found to be those that were built.
            if found is not None and found.state is state and self.is_settled(found):
                return found
            await asyncio.sleep(0.001)
        raise AssertionError(f"{name} is {found}")


def run(tmp_path: Path, scene: Callable[[House], Awaitable[None]], **builder: Any) -> None:
    async def within() -> None:
        registry, store, link = Registry(tmp_path / "registry"), Store(tmp_path / "store"), FakeLink()
        admission = Admission([SHOP, BANK], AdmissionKeys(), 2, 0.0)
        memory = Memory(link, 10_000, {}, admission.rates, lambda: 0.0)
        made = FakeBuilder(store, **builder)
        intake = Intake([SHOP, BANK], registry, store, made, memory, admission, lambda: 0.0, lambda: 1.0)
        memory.start()
        await intake.start()
        try:
            await scene(House(registry, made, intake, link))
        finally:
            await intake.stop()
            await memory.stop()
            registry.close()

    asyncio.run(within())


def test_an_upload_is_built_and_then_served_under_a_key_of_its_tenant(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        house.upload()
        await house.until("net", State.READY)
        assert [key.split("/")[:3] for key in house.link.models] == [["shop", "net", "1"]]

    run(tmp_path, scene)


def test_the_next_start_serves_what_is_there_and_builds_what_is_not(tmp_path: Path) -> None:
    async def first(house: House) -> None:
        house.upload()
        await house.until("net", State.READY)
        house.builder.gate = asyncio.Event()
        house.upload(b"y", "other")
        await house.until("other", State.PROFILING)

    async def second(house: House) -> None:
        assert len(house.link.models) == 1
        await house.until("other", State.READY)
        assert len(house.builder.built) == 1
        assert len(house.link.models) == 2

    run(tmp_path, first)
    run(tmp_path, second)


def test_a_refused_model_says_why_and_costs_what_the_builder_took(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        house.upload()
        entry = await house.until("net", State.UNAVAILABLE)
        assert entry.reason == "the model has a body"
        with pytest.raises(ServiceError, match="compile_s_per_day") as caught:
            house.intake.check(SHOP, "net", "2", 1)
        assert caught.value.trouble is Trouble.QUOTA
        house.intake.check(BANK, "net", "1", 1)

    run(tmp_path, scene, reason="the model has a body", seconds=4000.0)


def test_tenants_take_turns_at_the_builder(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        house.builder.gate = asyncio.Event()
        house.upload(b"1", "a")
        await house.until("a", State.PROFILING)
        house.upload(b"2", "b")
        house.upload(b"3", "c", tenant=BANK)
        house.builder.gate.set()
        await house.until("b", State.READY)
        order = [key.split("/")[0] for key in house.link.added]
        assert order == ["shop", "bank", "shop"]

    run(tmp_path, scene)


def test_what_is_unloaded_while_it_is_built_is_not_served(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        house.builder.gate = asyncio.Event()
        house.upload()
        await house.until("net", State.PROFILING)
        await house.intake.unload(SHOP, "net")
        house.builder.gate.set()
        await asyncio.sleep(0.02)
        found = house.registry.find("shop", "net")
        assert found is not None
        assert (found.state, found.reason) == (State.UNAVAILABLE, "unloaded")
        assert not house.link.models

    run(tmp_path, scene)


def test_what_was_unloaded_is_served_again_without_a_build(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        house.upload()
        await house.until("net", State.READY)
        await house.intake.unload(SHOP, "net")
        assert not house.link.models
        entry = await house.intake.load(SHOP, "net")
        assert entry.state is State.READY
        assert len(house.link.models) == len(house.builder.built) == 1

    run(tmp_path, scene)


def test_code_that_was_changed_on_the_disk_is_not_loaded(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        house.upload()
        await house.until("net", State.READY)
        await house.intake.unload(SHOP, "net")
        for path in (tmp_path / "store").rglob("kernels.so"):
            path.write_text("other")
        entry = await house.intake.load(SHOP, "net")
        assert entry.state is State.UNAVAILABLE
        assert "is not what was built" in entry.reason
        assert not house.link.models

    run(tmp_path, scene)


def test_others_go_on_while_files_are_checked_and_what_is_unloaded_meanwhile_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()

    def check(folder: Path) -> None:
        assert goes_on.wait(5)
        check_seal(folder)

    monkeypatch.setattr(intake, "check_seal", check)

    async def scene(house: House) -> None:
        house.upload()
        while (found := house.registry.find("shop", "net")) is None or found.state is not State.READY:
            await asyncio.sleep(0.001)
        await house.intake.unload(SHOP, "net")
        goes_on.set()
        house.upload(b"y", "other")
        await house.until("other", State.READY)
        assert [key.split("/")[1] for key in house.link.models] == ["other"]

    run(tmp_path, scene)


def test_anothers_model_can_be_neither_loaded_nor_unloaded(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        house.upload()
        await house.until("net", State.READY)
        for call in (house.intake.load(BANK, "net"), house.intake.unload(BANK, "net")):
            with pytest.raises(ServiceError) as caught:
                await call
            assert caught.value.trouble is Trouble.NOT_FOUND
        assert len(house.link.models) == 1

    run(tmp_path, scene)


def test_uploads_are_bounded_in_bytes_and_number_before_they_are_read(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        with pytest.raises(ServiceError, match=r"upload_mb, 0.001") as caught:
            house.intake.check(SHOP, "net", "1", 1001)
        assert caught.value.trouble is Trouble.TOO_LARGE
        for number in (1, 2):
            house.upload(b"x", version=number)
        with pytest.raises(ServiceError, match="the quota models of 2"):
            house.intake.check(SHOP, "net", "3", 10)
        assert house.intake.check(SHOP, "net", "2", 10) == ("net", 2)
        for name, version in (("../x", "1"), ("net", "0")):
            with pytest.raises(ServiceError) as caught:
                house.intake.check(SHOP, name, version, 10)
            assert caught.value.trouble is Trouble.BAD_REQUEST

    run(tmp_path, scene)


def test_slots_are_as_many_as_the_bytes_of_a_tenant_allow() -> None:
    keys = tenant_keys(in_flight=8, queued_mb=1.0)
    assert [slots_of(keys, nbytes) for nbytes in (10, 250_000, 5_000_000)] == [8, 4, 1]

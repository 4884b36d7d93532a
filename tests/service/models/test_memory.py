import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.service.fake_link import FakeLink, echo
from veltair.service.models.memory import Memory
from veltair.service.tenancy.admission import Rates
from veltair.service.tenancy.errors import ServiceError


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def run(
    tmp_path: Path, scene: Callable[[FakeLink, Memory, Clock], Awaitable[None]], budget: int = 250
) -> None:
    async def within() -> None:
        link, clock = FakeLink(), Clock()
        memory = Memory(link, budget, {}, Rates(10, 0.99), clock)
        memory.start()
        try:
            for name in "xyz":
                (tmp_path / name).mkdir(exist_ok=True)
                await memory.add(name, "shop", tmp_path / name, 0.1, 8)
            await scene(link, memory, clock)
        finally:
            await memory.stop()

    asyncio.run(within())


def test_models_that_fit_are_in_memory_and_the_others_can_be_asked(tmp_path: Path) -> None:
    async def scene(link: FakeLink, memory: Memory, clock: Clock) -> None:
        assert sorted(link.models) == ["x", "y"]
        facts = memory.facts("z")
        assert facts is not None
        assert facts.inputs == echo("z").inputs

    run(tmp_path, scene)
    # The next start knows what is too much without loading it.
    run(tmp_path, scene)


def test_an_absent_model_is_loaded_when_it_is_asked_and_an_idle_one_gives_way(tmp_path: Path) -> None:
    async def scene(link: FakeLink, memory: Memory, clock: Clock) -> None:
        clock.now_s += 60
        async with memory.using("x"), memory.using("z"):
            assert sorted(link.models) == ["x", "z"]
        assert link.removed[-1] == "y"

    run(tmp_path, scene)


def test_a_request_that_cannot_wait_for_the_load_lets_those_after_it_find_the_model(tmp_path: Path) -> None:
    async def scene(link: FakeLink, memory: Memory, clock: Clock) -> None:
        clock.now_s += 60
        memory.want("z")
        for _ in range(100):
            await asyncio.sleep(0.001)
            if "z" in link.models:
                break
        assert sorted(link.models) == ["y", "z"]

    run(tmp_path, scene)


def test_who_waits_for_a_model_that_is_unloaded_is_told(tmp_path: Path) -> None:
    async def scene(link: FakeLink, memory: Memory, clock: Clock) -> None:
        async def ask() -> None:
            async with memory.using("z"):
                raise AssertionError("it is not there")

        async with memory.using("x"), memory.using("y"):  # nothing can give way
            asking = asyncio.create_task(ask())
            await asyncio.sleep(0.01)
            await memory.remove("z")
            with pytest.raises(ServiceError, match="the model was unloaded"):
                await asking
        with pytest.raises(ServiceError, match="the model was unloaded"):
            await ask()

    run(tmp_path, scene)


def test_a_model_in_use_is_waited_for(tmp_path: Path) -> None:
    async def scene(link: FakeLink, memory: Memory, clock: Clock) -> None:
        clock.now_s += 60
        loaded = asyncio.Event()

        async def ask() -> None:
            async with memory.using("z"):
                loaded.set()

        async with memory.using("x"):
            async with memory.using("y"):
                asking = asyncio.create_task(ask())
                await asyncio.sleep(0.01)
                assert not loaded.is_set()
            await asking
        assert sorted(link.models) == ["x", "z"]

    run(tmp_path, scene)


def test_a_model_that_the_engine_refuses_fails_those_who_wait(tmp_path: Path) -> None:
    async def scene(link: FakeLink, memory: Memory, clock: Clock) -> None:
        clock.now_s += 60
        link.models["z"] = echo("z")  # what the engine refuses to add again
        with pytest.raises(ServiceError, match="the engine refuses the model"):
            async with memory.using("z"):
                pass

    run(tmp_path, scene)


def test_a_model_larger_than_all_memory_is_refused_with_its_size(tmp_path: Path) -> None:
    async def within() -> None:
        link = FakeLink()
        memory = Memory(link, 50, {}, Rates(10, 0.99), Clock())
        with pytest.raises(ServiceError, match=r"has 0.0 MB of weights, more than the service has"):
            await memory.add("x", "shop", tmp_path, 0.1, 8)
        assert not link.models

    asyncio.run(within())

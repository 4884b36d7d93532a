import asyncio

from veltair.service.tenancy.turns import Turns


async def let_run() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_no_more_requests_are_in_the_engine_than_it_may_have() -> None:
    async def scene() -> list[str]:
        turns, order = Turns({"a": 1.0, "b": 1.0}, 2), []

        async def request(tenant: str, name: str) -> None:
            await turns.take(tenant, 1.0, 0.0)
            order.append(name)

        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(request("a", f"a{number}"))
            group.create_task(request("b", "b0"))
            await let_run()
            assert (turns.inside, turns.waiting) == (2, 3)
            for _ in range(3):
                turns.end("a", 1.0, 1.0)
                await let_run()
        return order

    assert asyncio.run(scene()) == ["a0", "a1", "b0", "a2", "a3"]


def test_who_goes_away_while_waiting_holds_nobody_up() -> None:
    async def scene() -> tuple[int, int]:
        turns = Turns({"a": 1.0}, 1)
        await turns.take("a", 1.0, 0.0)
        gone = asyncio.create_task(turns.take("a", 1.0, 0.0))
        await let_run()
        gone.cancel()
        await let_run()
        turns.end("a", 1.0, 1.0)
        return turns.inside, turns.waiting

    assert asyncio.run(scene()) == (0, 0)


def test_who_goes_away_as_its_turn_comes_gives_it_back() -> None:
    async def scene() -> tuple[int, int]:
        turns = Turns({"a": 1.0}, 1)
        await turns.take("a", 1.0, 0.0)
        gone = asyncio.create_task(turns.take("a", 1.0, 0.0))
        await let_run()
        turns.end("a", 1.0, 1.0)
        gone.cancel()
        await let_run()
        return turns.inside, turns.waiting

    assert asyncio.run(scene()) == (0, 0)

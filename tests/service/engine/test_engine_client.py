import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.service.artifacts import CORES, write_artifact
from tests.support.service.engines import Engines, ask, kill, with_client
from veltair.machine.models.library import LoadedModel
from veltair.machine.workers.pool import on_cores
from veltair.service.engine.engine_client import EngineClient
from veltair.service.engine.link import EngineRefusalError, OutcomeKind

TENANTS = 8
SLOTS = 4
MANY = 128  # more than can end while they are sent


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    return write_artifact(tmp_path_factory.mktemp("artifact") / "tiny", tiny_folder, "tiny")


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory, c_build: Path) -> Iterator[Engines]:
    made = Engines(tmp_path_factory.mktemp("engine"), c_build)
    yield made
    made.stop()


@pytest.fixture
def path(engines: Engines) -> Path:
    engines.start()
    return engines.path


def drawn(count: int, seed: int) -> list[NDArray[Any]]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal((1, 3, 16, 16), dtype=np.float32) for _ in range(count)]


def right_answers(model: LoadedModel, inputs: list[NDArray[Any]]) -> list[bytes]:
    instance, found = model.instance(), []
    with on_cores(CORES):
        for values in inputs:
            instance.set_inputs((values,))
            found.append(instance.run([0] * len(model.plan.layers))[0].tobytes())
    return found


def soon() -> float:
    return time.monotonic() + 10


def test_eight_tenants_get_the_bits_of_a_request_alone_while_models_come_and_go(
    path: Path, artifact: Path, tiny_loaded: LoadedModel
) -> None:
    async def one_tenant(client: EngineClient, number: int, until: asyncio.Event) -> int:
        inputs = drawn(SLOTS, number)
        right, asked = right_answers(tiny_loaded, inputs), 0
        while not until.is_set():
            key = f"tenant{number}/net"
            answers = await asyncio.gather(*(ask(client, key, one, soon(), f"t{number}") for one in inputs))
            assert [outcome.kind for outcome, _ in answers] == [OutcomeKind.FINISHED] * SLOTS
            assert [output for _, output in answers] == right
            asked += SLOTS
        return asked

    async def use(client: EngineClient) -> None:
        for number in range(TENANTS):
            await client.add_model(f"tenant{number}/net", artifact, 1.0, SLOTS)
        until = asyncio.Event()
        tenants = [asyncio.create_task(one_tenant(client, number, until)) for number in range(TENANTS)]
        for number in range(4):
            await client.add_model(f"guest{number}", artifact, 1.0, SLOTS)
            await client.remove_model(f"guest{number}")
        until.set()
        asked = await asyncio.gather(*tenants)
        counts = await client.statistics()
        assert sum(asked) > TENANTS * SLOTS
        for number in range(TENANTS):
            assert counts.models[f"tenant{number}/net"].ended == {OutcomeKind.FINISHED: asked[number]}
            assert counts.models[f"tenant{number}/net"].slots_free == SLOTS
            assert counts.core_s_by_tenant[f"t{number}"] > 0

    with_client(path, use)


def test_a_model_says_what_it_takes_and_costs(path: Path, artifact: Path) -> None:
    async def use(client: EngineClient) -> None:
        model = await client.add_model("net", artifact, 0.5, SLOTS)
        (value,), (output,) = model.inputs, model.outputs
        assert (value.name, value.dtype, value.shape) == ("input", "float32", (1, 3, 16, 16))
        assert (output.shape, output.nbytes) == ((1, 10), 40)
        assert model.qos_s == 0.5
        assert model.alone_s == pytest.approx(1e-4 * 6, rel=0.5)
        assert model.weight_bytes > 0
        assert client.models == {"net": model}
        await client.remove_model("net")
        assert client.models == {}
        assert (await client.statistics()).resident_bytes == 0

    with_client(path, use)


def test_what_cannot_be_served_is_refused_and_the_rest_goes_on(
    path: Path, artifact: Path, tmp_path: Path
) -> None:
    async def use(client: EngineClient) -> None:
        with pytest.raises(EngineRefusalError, match="cannot be loaded") as told:
            await client.add_model("absent", tmp_path, 1.0, SLOTS)
        assert str(tmp_path) not in str(told.value)
        await client.add_model("net", artifact, 1.0, SLOTS)
        with pytest.raises(EngineRefusalError, match="already"):
            await client.add_model("net", artifact, 1.0, SLOTS)
        with pytest.raises(EngineRefusalError, match="not served"):
            await client.remove_model("other")
        with pytest.raises(EngineRefusalError, match="not served"):
            client.slot("other")
        outcome, _ = await ask(client, "net", drawn(1, 0)[0], soon())
        assert outcome.kind is OutcomeKind.FINISHED

    with_client(path, use)


def test_a_model_that_the_policy_cannot_be_made_for_is_refused_and_the_rest_goes_on(
    artifact: Path, c_build: Path, tmp_path: Path
) -> None:
    async def use(client: EngineClient) -> None:
        await client.add_model("net", artifact, 1.0, SLOTS)
        for _ in range(2):
            with pytest.raises(EngineRefusalError, match="one model is enough"):
                await client.add_model("other", artifact, 1.0, SLOTS)
        outcome, _ = await ask(client, "net", drawn(1, 0)[0], soon())
        assert outcome.kind is OutcomeKind.FINISHED

    engines = Engines(tmp_path, c_build, "tests.support.service.picky_policy:PickyPolicy")
    engines.start()
    try:
        with_client(engines.path, use)
    finally:
        engines.stop()


def test_an_outcome_tells_how_long_a_request_waited_and_ran_and_whether_it_was_late(
    path: Path, artifact: Path
) -> None:
    async def use(client: EngineClient) -> None:
        await client.add_model("net", artifact, 1.0, SLOTS)
        outcome, _ = await ask(client, "net", drawn(1, 0)[0], soon())
        assert outcome.kind is OutcomeKind.FINISHED
        assert outcome.has_outputs
        assert min(outcome.queue_s, outcome.compute_s, outcome.core_s) > 0
        late, output = await ask(client, "net", drawn(1, 0)[0], time.monotonic() - 1)
        assert late.kind is OutcomeKind.LATE
        assert any(output)

    with_client(path, use)


def test_a_request_whose_task_is_cancelled_gives_its_slot_back(path: Path, artifact: Path) -> None:
    async def cancel_all(client: EngineClient) -> None:
        tasks = [asyncio.create_task(ask(client, "net", drawn(1, 0)[0], soon())) for _ in range(MANY)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended)

    async def use(client: EngineClient) -> None:
        await client.add_model("net", artifact, 1.0, MANY)
        counts = (await client.statistics()).models["net"]
        # Where this process waits for a core, the engine may have served all before it hears of it.
        while OutcomeKind.CANCELLED not in counts.ended:
            before = sum(counts.ended.values())
            await cancel_all(client)
            while (counts := (await client.statistics()).models["net"]).slots_free < MANY:
                await asyncio.sleep(0.001)
            assert counts.under_way == 0
            assert sum(counts.ended.values()) == before + MANY

    with_client(path, use)


def test_requests_of_an_engine_that_dies_fail_and_the_next_engine_serves_the_models(
    engines: Engines, artifact: Path, tiny_loaded: LoadedModel
) -> None:
    async def use(client: EngineClient) -> None:
        await client.add_model("net", artifact, 1.0, 64)
        inputs = drawn(1, 3)
        right = right_answers(tiny_loaded, inputs)
        first = [asyncio.create_task(ask(client, "net", inputs[0], soon())) for _ in range(64)]
        await asyncio.sleep(0)
        kill(process)
        kinds = {outcome.kind for outcome, _ in await asyncio.gather(*first)}
        assert OutcomeKind.FAILED in kinds
        assert not client.is_up
        engines.start()
        while "net" not in client.models:
            await asyncio.sleep(0.01)
        outcome, output = await ask(client, "net", inputs[0], soon())
        assert (outcome.kind, output) == (OutcomeKind.FINISHED, right[0])
        assert (await client.statistics()).restarts == 1

    process = engines.start()
    with_client(engines.path, use)


def test_who_gives_up_adding_a_model_takes_no_answer_away_from_others(path: Path, artifact: Path) -> None:
    async def use(client: EngineClient) -> None:
        adding = asyncio.create_task(client.add_model("given up", artifact, 1.0, SLOTS))
        await asyncio.sleep(0.01)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        model = await client.add_model("net", artifact, 1.0, SLOTS)
        assert model.key == "net"
        await client.remove_model("given up")
        assert list(client.models) == ["net"]

    with_client(path, use)


def test_who_drains_waits_for_what_is_under_way_and_takes_nothing_more(path: Path, artifact: Path) -> None:
    async def use(client: EngineClient) -> None:
        await client.add_model("net", artifact, 1.0, SLOTS)
        tasks = [asyncio.create_task(ask(client, "net", drawn(1, 0)[0], soon())) for _ in range(SLOTS)]
        await asyncio.sleep(0)
        await client.drain()
        assert not client.is_up
        assert [outcome.kind for outcome, _ in await asyncio.gather(*tasks)] == [OutcomeKind.FINISHED] * SLOTS

    with_client(path, use)

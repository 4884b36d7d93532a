import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.service.artifacts import CORES, write_artifact
from tests.support.service.kept import Serving, infer, keep, post
from tests.support.tiny import tiny
from veltair.machine.models.library import LoadedModel
from veltair.machine.workers.pool import on_cores

TENANTS = tuple(f"tenant{number}" for number in range(8))
INPUTS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    place = tmp_path_factory.mktemp("kept")
    artifact = write_artifact(place / "artifact", tiny_folder, "tiny")
    models = dict.fromkeys(TENANTS, ("net", "guest"))
    keep(place / "service", models, tiny().SerializeToString(deterministic=True), artifact)
    return place / "service"


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Serving]:
    serving = Serving(folder, TENANTS)
    _await(serving)
    yield serving
    serving.end()


def _await(serving: Serving) -> None:
    """Wait until the models of all tenants are there."""
    for tenant in TENANTS:
        while infer(serving.connect(), tenant, "net", np.zeros((1, 3, 16, 16), np.float32))[0] != 200:
            time.sleep(0.05)


def asked_and_right(model: LoadedModel, seed: int) -> list[tuple[NDArray[Any], bytes]]:
    generator, instance = np.random.default_rng(seed), model.instance()
    pairs = []
    with on_cores(CORES):
        for _ in range(INPUTS):
            values = generator.standard_normal((1, 3, 16, 16), dtype=np.float32)
            instance.set_inputs((values,))
            pairs.append((values, instance.run([0] * len(model.plan.layers))[0].tobytes()))
    return pairs


def test_eight_tenants_get_the_bits_of_a_request_alone_while_models_load_and_unload(
    service: Serving, tiny_loaded: LoadedModel
) -> None:
    pairs = {tenant: asked_and_right(tiny_loaded, seed) for seed, tenant in enumerate(TENANTS)}
    ends = threading.Event()

    def ask(tenant: str) -> int:
        connection, asked = service.connect(), 0
        while not ends.is_set():
            for values, right in pairs[tenant]:
                assert infer(connection, tenant, "net", values) == (200, right)
                asked += 1
        return asked

    with ThreadPoolExecutor(len(TENANTS)) as threads:
        running = [threads.submit(ask, tenant) for tenant in TENANTS]
        try:
            connection = service.connect()
            for _ in range(3):
                for what in ("unload", "load"):
                    path = f"repository/models/guest/{what}"
                    assert post(connection, TENANTS[0], path)[0] == 200
        finally:
            ends.set()
        assert all(one.result() >= INPUTS for one in running)


@pytest.mark.long
def test_an_engine_that_is_killed_costs_answers_but_makes_none_wrong(
    service: Serving, tiny_loaded: LoadedModel
) -> None:
    pairs = {tenant: asked_and_right(tiny_loaded, seed) for seed, tenant in enumerate(TENANTS)}
    until_s = time.monotonic() + 20

    def ask(tenant: str) -> list[int]:
        connection, codes = service.connect(), []
        while (time.monotonic() < until_s and codes[-20:] != [200] * 20) or 503 not in codes:
            for values, right in pairs[tenant]:
                code, output = infer(connection, tenant, "net", values)
                codes.append(code)
                assert code in (200, 503)
                assert output == right if code == 200 else True
        return codes

    with ThreadPoolExecutor(len(TENANTS)) as threads:
        running = [threads.submit(ask, tenant) for tenant in TENANTS]
        time.sleep(0.2)
        service.engine.kill()
        assert all(one.result()[-1] == 200 for one in running)


@pytest.mark.long
def test_a_service_that_is_told_to_end_answers_what_it_has_taken(
    folder: Path, service: Serving, tiny_loaded: LoadedModel
) -> None:
    ((values, right), *_) = asked_and_right(tiny_loaded, 1)

    def ask(tenant: str) -> list[int]:
        connection, codes = service.connect(), []
        while True:
            try:
                code, output = infer(connection, tenant, "net", values)
            except ConnectionError:
                return codes
            assert (code, output) == (200, right) or code == 503
            codes.append(code)

    with ThreadPoolExecutor(len(TENANTS)) as threads:
        running = [threads.submit(ask, tenant) for tenant in TENANTS]
        time.sleep(0.5)
        assert service.end() == 0
        for one in running:
            assert one.result()[0] == 200

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.service.artifacts import write_artifact
from tests.support.service.kept import keep
from tests.support.tiny import tiny
from veltair.evaluation.benchmarks.service.figures import QUOTA_TIMES
from veltair.evaluation.benchmarks.service.in_process import artifact_of, in_process
from veltair.evaluation.benchmarks.service.measure import (
    Extent,
    isolation_rounds,
    load_rounds,
    paired_rounds,
    refused_s,
    resident_readings,
)
from veltair.evaluation.benchmarks.service.networks import dense_network, image_network
from veltair.evaluation.benchmarks.service.senders import Caller, Sender
from veltair.evaluation.benchmarks.service.started import StartedService
from veltair.evaluation.benchmarks.service.write import POLICY, PRESET, SIZES, TENANTS, values_of
from veltair.evaluation.remote.connection import Address
from veltair.evaluation.remote.server_facts import RemoteError
from veltair.evaluation.runtimes.started_server import null_server

CONTENT = tiny().SerializeToString(deterministic=True)
SHORT = Extent(rounds=1, requests=3, slot_rounds=1, slot_s=0.2, refusals=3, swaps=1, cycles=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    place = tmp_path_factory.mktemp("benchmark")
    artifact = write_artifact(place / "artifact", tiny_folder, "tiny")
    keep(place / "service", dict.fromkeys(TENANTS, ("net", "guest")), CONTENT, artifact)
    return place / "service"


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[StartedService]:
    with StartedService(folder, TENANTS) as started:
        for tenant in TENANTS:
            assert started.upload_s(tenant, "net", CONTENT) > 0  # as it was built before
        yield started


def test_a_service_is_asked_in_turn_with_the_engine_in_process_and_the_null_server(
    service: StartedService, folder: Path, c_build: Path
) -> None:
    values = values_of(CONTENT)
    message = service.request("owner", "net", values)
    with (
        null_server([service.metadata("owner", "net")], folder / "null") as null,
        Caller(service.address) as ours,
        Caller(Address.of(null.url)) as nothing,
        in_process(artifact_of(folder, CONTENT), values, POLICY, PRESET, c_build) as bare,
    ):
        before = service.steps("owner", "net").inference_count
        (found,) = paired_rounds(ours, bare, nothing, message, SHORT)
        assert service.steps("owner", "net").inference_count > before
    assert found.served_s.shape == found.in_process_s.shape == found.floor_s.shape == (SHORT.requests,)
    assert (found.in_process_s > 0).all()


def test_a_victim_sends_the_same_beside_any_aggressor(service: StartedService) -> None:
    values = values_of(CONTENT)
    victim, aggressor = (
        Sender(service.request(tenant, "net", values), 100.0) for tenant in ("victim", "aggressor")
    )
    (loads,), late_s = isolation_rounds(service.address, victim, aggressor, SHORT, seed=0)
    assert len(late_s) == len(loads) == len(QUOTA_TIMES)
    assert len({len(load.asks) for load in loads.values()}) == 1
    assert {ask.code for load in loads.values() for ask in load.asks} == {200}


def test_refusals_are_counted_by_code_and_one_that_does_not_come_is_an_error(service: StartedService) -> None:
    values = values_of(CONTENT)
    with Caller(service.address) as caller:
        late = service.request("owner", "net", values, {"timeout": 1})
        assert len(refused_s(caller, late, 503, SHORT.refusals)) == SHORT.refusals
        with pytest.raises(RemoteError, match="0 were 429"):
            refused_s(caller, late, 429, 1)
        beyond = service.request("aggressor", "net", values)
        assert len(refused_s(caller, beyond, 429, SHORT.refusals)) == SHORT.refusals


def test_models_load_while_others_are_asked_and_memory_is_read(service: StartedService) -> None:
    victim = Sender(service.request("victim", "net", values_of(CONTENT)), 50.0)
    ((quiet, busy),), loads = load_rounds(service, victim, "owner", "guest", SHORT, seed=0)
    assert loads > 0
    assert len(quiet.asks) == len(busy.asks) > 0
    readings = resident_readings(service, "owner", "guest", SHORT.cycles)
    assert len(readings) == SHORT.cycles + 1
    assert min(readings) > 0
    assert service.front_cpu_s() > 0


@pytest.mark.parametrize(("size", "least"), [("9kb", 9_000), ("600kb", 600_000)])
def test_the_bytes_of_a_body_are_those_that_its_name_says(size: str, least: int) -> None:
    (values,) = values_of(image_network(*SIZES[size]))
    assert least <= values.nbytes < 1.05 * least


def test_weights_of_dense_layers_are_as_many_as_asked_for() -> None:
    content = dense_network(64, 3)
    assert 3 * 4 * 64**2 <= len(content) < 3 * 4 * 64**2 + 2_000
    assert np.isfinite(values_of(content)[0]).all()

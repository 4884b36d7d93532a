from pathlib import Path

from tests.support.service.http_house import House, ask, bearer, within
from tests.support.service.infer_bodies import json_body
from tests.support.service.tenant_builders import digest
from veltair.service.front.operator_front import OperatorFront


def test_metrics_are_the_operators_alone(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        front = OperatorFront(house.desk, digest("operator"))
        for headers in ({}, bearer("wrong"), bearer("shop-token"), {"authorization": "Basic operator"}):
            assert (await ask(front, "GET", "/metrics", headers)).code == 401
        assert (await ask(front, "GET", "/other", bearer("operator"))).code == 404
        await house.serve()
        await house.post("/v2/models/net/infer", json_body())
        await house.post("/v2/models/none/infer", json_body())
        answered = await ask(front, "GET", "/metrics", bearer("operator"))
        assert answered.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = answered.body.decode().splitlines()
        assert 'veltair_requests_total{tenant="shop",ending="served"} 1' in lines
        assert 'veltair_requests_total{tenant="shop",ending="not_found"} 1' in lines
        assert 'veltair_core_seconds_total{tenant="shop"} 0.004' in lines
        assert 'veltair_requests_in_flight{tenant="bank"} 0.0' in lines
        assert "veltair_up 1.0" in lines
        assert all(line.startswith(("# ", "veltair_")) for line in lines)

    within(tmp_path, scene)


def test_after_a_drain_requests_are_told_to_go_elsewhere(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        front = OperatorFront(house.desk, digest("operator"))
        await house.serve()
        assert (await ask(front, "POST", "/admin/drain", bearer("operator"))).code == 200
        assert (await house.post("/v2/models/net/infer", json_body())).code == 503
        assert (await ask(house.front, "GET", "/v2/health/ready")).code == 503

    within(tmp_path, scene)

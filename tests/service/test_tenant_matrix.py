"""Every endpoint with no token, a wrong one, another tenant's and the tenant's own."""

import json
from pathlib import Path

import pytest

from tests.support.service.http_house import BANK, Answered, House, ask, bearer, within
from tests.support.service.infer_bodies import json_body

UPLOAD = b"other bytes"
# Method, path of tenant shop's model, body, and the code with its own token.
ENDPOINTS: dict[str, tuple[str, str, bytes, int]] = {
    "model ready": ("GET", "/v2/models/net/ready", b"", 200),
    "version ready": ("GET", "/v2/models/net/versions/1/ready", b"", 200),
    "metadata": ("GET", "/v2/models/net", b"", 200),
    "metadata of a version": ("GET", "/v2/models/net/versions/1", b"", 200),
    "configuration": ("GET", "/v2/models/net/config", b"", 200),
    "statistics": ("GET", "/v2/models/net/stats", b"", 200),
    "statistics of a version": ("GET", "/v2/models/net/versions/1/stats", b"", 200),
    "inference": ("POST", "/v2/models/net/infer", json_body(), 200),
    "inference of a version": ("POST", "/v2/models/net/versions/1/infer", json_body(), 200),
    "load": ("POST", "/v2/repository/models/net/load", b"", 200),
    "unload": ("POST", "/v2/repository/models/net/unload", b"", 200),
    "removal": ("DELETE", "/v2/repository/models/net/versions/1", b"", 200),
    "own path": ("GET", "/tenants/shop/v2/models/net", b"", 200),
}
# Those of nobody's model: what a tenant has of its own.
OWN = {
    "server": ("GET", "/v2", b""),
    "index": ("POST", "/v2/repository/index", b""),
    "all statistics": ("GET", "/v2/models/stats", b""),
}


async def call(
    house: House, endpoint: tuple[str, str, bytes], token: str | None, name: str = "net"
) -> Answered:
    method, path, body = endpoint
    headers = {} if token is None else bearer(token)
    return await ask(house.front, method, path.replace("net", name), headers, body)


@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_tenants_model_is_there_for_its_own_token_alone(name: str, tmp_path: Path) -> None:
    *endpoint, code = ENDPOINTS[name]
    asked = (endpoint[0], endpoint[1], endpoint[2])

    async def scene(house: House) -> None:
        await house.serve("net")
        for token in (None, "wrong", "shop-token2", ""):
            answered = await call(house, asked, token)
            assert answered.code == 401
            assert answered.headers["www-authenticate"] == "Bearer"
        foreign = await call(house, asked, "bank-token")
        absent = await call(house, asked, "bank-token", "none")
        assert foreign.code == absent.code == 404
        assert (foreign.body, foreign.headers) == (absent.body, absent.headers)
        assert (await call(house, asked, "shop-token")).code == code

    within(tmp_path, scene)


@pytest.mark.parametrize("name", OWN)
def test_what_is_a_tenants_own_shows_nothing_of_others(name: str, tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve("net")
        for token in (None, "wrong"):
            assert (await call(house, OWN[name], token)).code == 401
        foreign = await call(house, OWN[name], "bank-token")
        assert foreign.code == 200
        assert b"net" not in foreign.body
        if name != "server":
            assert b"net" in (await call(house, OWN[name], "shop-token")).body

    within(tmp_path, scene)


def test_an_upload_goes_to_the_tenant_of_the_token(tmp_path: Path) -> None:
    path = "/v2/repository/models/net/versions/7"

    async def scene(house: House) -> None:
        for headers in ({}, bearer("wrong")):
            assert (await ask(house.front, "PUT", path, headers, UPLOAD)).code == 401
        answered = await ask(house.front, "PUT", path, bearer("bank-token"), UPLOAD)
        assert answered.code == 202
        assert house.registry.of("shop") == []
        assert [one.version for one in house.registry.of("bank")] == [7]

    within(tmp_path, scene)


def test_two_tenants_may_call_their_models_alike(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve("net", shape=(1, 4))
        await house.serve("net", BANK, shape=(1, 9))
        shapes = [
            (await house.get("/v2/models/net", token)).values["inputs"][0]["shape"]
            for token in ("shop-token", "bank-token")
        ]
        assert shapes == [[1, 4], [1, 9]]

    within(tmp_path, scene)


def test_a_tenants_path_and_its_token_must_agree(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve("net")
        assert (await house.get("/tenants/shop/v2/models/net")).code == 200
        for path in (
            "/tenants/bank/v2/models/net",
            "/tenants/nobody/v2/models/net",
            "/tenants/v2/models/net",
        ):
            assert (await house.get(path)).code == 404

    within(tmp_path, scene)


def test_health_is_anybodys(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        assert (await ask(house.front, "GET", "/v2/health/live")).code == 200
        assert (await ask(house.front, "GET", "/v2/health/ready")).code == 200
        house.link.is_up = False
        assert (await ask(house.front, "GET", "/v2/health/live")).code == 200
        assert (await ask(house.front, "GET", "/v2/health/ready")).code == 503
        assert (await house.get("/v2/models/net/ready")).code == 404

    within(tmp_path, scene)


HOSTILE_PATHS = [
    "/v2/models/../models/net", "/v2/models/%2e%2e/net", "/v2/models/..%2fshop%2fnet", "/v2/models/net%00",
    "/v2/models/shop%2fnet", "/v2/models/net%0d%0aX: y", "//v2/models/net", "/v2//models/net", "/v2/models//",
    "/v2/models/%ff", "/v2/models/" + "n" * 2000, "/v2/models/net/versions/..",
    "/v2/models/net/versions/-1/ready",
    "/v2/models/net/versions/1e3", "/v2/models/net/versions/%31%00", "/etc/passwd", "/", "", "/v2/models/NET",
    "/metrics", "/admin/drain", "/tenants/shop", "/tenants/%73hop%2f/v2",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_a_path_that_means_something_to_a_disk_means_nothing_here(path: str, tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve("net")
        answered = await house.get(path)
        assert answered.code == 404
        said = json.loads(answered.body)["error"]
        assert str(tmp_path) not in said
        assert "n" * 100 not in said
        for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE"):
            assert (await ask(house.front, method, path, bearer("shop-token"))).code in (400, 404)

    within(tmp_path, scene)

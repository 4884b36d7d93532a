import base64
import json
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.service.http_house import House, ask, bearer, within
from tests.support.service.tenant_builders import tenant_keys
from veltair.service.models.registry import State

LOAD = "/v2/repository/models/net/load"
PUT = "/v2/repository/models/net/versions/1"
SMALL = [tenant_keys("shop", "shop-token", upload_mb=0.001), tenant_keys("bank", "bank-token")]


def load_body(content: bytes = b"model", name: str = "file:1/model.onnx") -> bytes:
    return json.dumps({"parameters": {"config": "{}", name: base64.b64encode(content).decode()}}).encode()


def digest_header(content: bytes) -> dict[str, str]:
    return bearer("shop-token") | {"digest": f"SHA-256={base64.b64encode(sha256(content).digest()).decode()}"}


def test_a_model_can_be_uploaded_by_a_load_which_waits_until_it_is_served(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        answered = await house.post(LOAD, load_body())
        assert (answered.code, answered.values) == (200, {})
        (line,) = (await house.post("/v2/repository/index")).values
        assert line == {"name": "net", "version": "1", "state": "READY", "reason": ""}
        (kept,) = (tmp_path / "store" / "models").iterdir()
        assert (kept / "model.onnx").read_bytes() == b"model"

    within(tmp_path, scene)


def test_a_refused_model_is_a_wrong_request_with_the_reason(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        house.builder.reason = "the model has a body"
        answered = await house.post(LOAD, load_body())
        assert answered.code == 400
        assert answered.values["error"] == "net cannot be served: the model has a body"

    within(tmp_path, scene)


@pytest.mark.parametrize(
    "name",
    [
        "file:../../x", "file:/etc/passwd", "file:1/../model.onnx", "file:1/model.onnx\0", "file:",
        "file:1/model.plan", "file:..%2fx", "file:-1/model.onnx", "file:1\\model.onnx", "file:1/MODEL.ONNX",
        "file:0/model.onnx", "file:99999999999/model.onnx",
    ],
)  # fmt: skip
def test_a_file_of_any_other_name_is_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        before = sorted(tmp_path.rglob("*"))
        answered = await house.post(LOAD, load_body(name=name))
        assert answered.code == 400
        assert [one for one in sorted(tmp_path.rglob("*")) if one not in before] == []
        assert house.registry.of("shop") == []

    within(tmp_path, scene)


def test_several_files_are_refused(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        values = {"file:1/model.onnx": "AAAA", "file:2/model.onnx": "AAAA"}
        answered = await house.post(LOAD, json.dumps({"parameters": values}).encode())
        assert answered.code == 400

    within(tmp_path, scene)


@pytest.mark.parametrize("text", ['"***"', '"AAA"', "7", "null", '["AAAA"]', '"A\\u0041AA"'])
def test_a_file_that_is_no_base64_is_refused(text: str, tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        body = b'{"parameters": {"file:1/model.onnx": ' + text.encode() + b"}}"
        answered = await house.post(LOAD, body)
        assert answered.code == 400
        assert list((tmp_path / "store" / "incoming").iterdir()) == []

    within(tmp_path, scene)


def test_base64_with_escaped_slashes_is_the_same(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        content = b"\xff" * 30
        body = load_body(content).replace(b"////", b"\\/\\/\\/\\/")
        assert (await house.post(LOAD, body)).code == 200
        (kept,) = (tmp_path / "store" / "models").iterdir()
        assert (kept / "model.onnx").read_bytes() == content

    within(tmp_path, scene)


def test_a_raw_upload_is_taken_with_its_digest_and_not_with_anothers(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        wrong = await ask(house.front, "PUT", PUT, digest_header(b"other"), b"model")
        assert wrong.code == 400
        assert house.registry.of("shop") == []
        odd = await ask(house.front, "PUT", PUT, bearer("shop-token") | {"digest": "MD5=abc"}, b"model")
        assert odd.code == 400
        right = await ask(house.front, "PUT", PUT, digest_header(b"model"), [b"mo", b"del"])
        assert (right.code, right.values["state"]) == (202, "UPLOADED")
        await house.until("net", State.READY)
        again = await ask(house.front, "PUT", PUT, digest_header(b"model"), b"model")
        assert (again.code, again.values["state"]) == (200, "READY")
        other = await ask(house.front, "PUT", PUT, bearer("shop-token"), b"another")
        assert other.code == 400
        assert "as version 2" in other.values["error"]
        assert list((tmp_path / "store" / "incoming").iterdir()) == []

    within(tmp_path, scene)


def test_an_upload_that_is_too_large_is_refused_however_it_comes(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        content = b"m" * 1001
        assert (await ask(house.front, "PUT", PUT, bearer("shop-token"), content)).code == 413
        hidden = bearer("shop-token") | {"content-length": "10"}
        assert (await ask(house.front, "PUT", PUT, hidden, [content[:500], content[500:]])).code == 413
        assert (await house.post(LOAD, load_body(content))).code == 413
        assert (await house.post(LOAD, b" " * 100_000)).code == 413
        assert list((tmp_path / "store" / "incoming").iterdir()) == []
        assert house.registry.of("shop") == []

    within(tmp_path, scene, tenants=SMALL)


def test_what_is_unloaded_is_shown_so_and_can_be_loaded_again(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        assert (await house.post("/v2/repository/models/net/unload", b"{}")).code == 200
        (line,) = (await house.post("/v2/repository/index")).values
        assert (line["state"], line["reason"]) == ("UNAVAILABLE", "unloaded")
        assert (await house.post("/v2/repository/index", b'{"ready": true}')).values == []
        assert (await house.get("/v2/models/net/ready")).code == 400
        assert (await house.post(LOAD)).code == 200
        assert (await house.get("/v2/models/net/ready")).code == 200

    within(tmp_path, scene)


def test_a_removed_version_is_not_there_any_more(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        assert (await ask(house.front, "DELETE", PUT, bearer("shop-token"))).code == 200
        assert (await house.get("/v2/models/net")).code == 404
        assert (await ask(house.front, "DELETE", PUT, bearer("shop-token"))).code == 404

    within(tmp_path, scene)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ready": 1}', b'{"parameters": []}', b"[" * 50_000])
def test_a_wrong_body_is_a_wrong_request(body: bytes, tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        path = "/v2/repository/index" if b"parameters" not in body else LOAD
        assert (await house.post(path, body)).code == 400

    within(tmp_path, scene)

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veltair.evaluation.runtimes.started_server import null_server
from veltair.service.null_server import main
from veltair.wire.infer import InferRequest, Tensor, json_bytes, read_response, write_request
from veltair.wire.messages import ModelMetadata, TensorMetadata

MODEL = ModelMetadata(
    "m",
    inputs=[TensorMetadata("x", "FP32", [2])],
    outputs=[TensorMetadata("y", "INT64", [-1, 3]), TensorMetadata("s", "BYTES", [2])],
)


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[http.client.HTTPConnection]:
    with null_server([MODEL], tmp_path_factory.mktemp("null")) as server:
        yield http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)


def asked(
    connection: http.client.HTTPConnection, method: str, path: str, **given: Any
) -> tuple[int, Any, bytes]:
    connection.request(method, path, **given)
    response = connection.getresponse()
    return response.status, response.headers, response.read()


@pytest.mark.parametrize("binary", [True, False])
def test_a_request_is_answered_with_zeros_as_it_came(
    connection: http.client.HTTPConnection, binary: bool
) -> None:
    message = write_request(InferRequest((Tensor("x", "FP32", (2,), bytes(8)),)), binary)
    code, headers, body = asked(
        connection, "POST", "/v2/models/m/infer", body=message.body, headers=message.headers
    )

    found = read_response(body, json_bytes(headers.get("Inference-Header-Content-Length")))
    assert code == 200
    assert [(one.name, one.shape, one.datatype) for one in found.outputs] == [
        ("y", (1, 3), "INT64"),
        ("s", (2,), "BYTES"),
    ]
    assert not np.frombuffer(found.outputs[0].data, "<i8").any()
    assert (headers["Content-Type"] == "application/octet-stream") is binary


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/m/ready"])
def test_what_clients_ask_first_is_answered(connection: http.client.HTTPConnection, path: str) -> None:
    assert asked(connection, "GET", path)[0] == 200


def test_the_model_is_told_as_it_was_given(connection: http.client.HTTPConnection) -> None:
    told = json.loads(asked(connection, "GET", "/v2/models/m/versions/1")[2])
    assert told["outputs"][0] == {"name": "y", "datatype": "INT64", "shape": [-1, 3]}


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v2/models/x"), ("GET", "/v2/models/m/infer"), ("POST", "/")]
)
def test_what_is_not_there_is_an_error_of_the_protocol(
    connection: http.client.HTTPConnection, method: str, path: str
) -> None:
    code, _, body = asked(connection, method, path)
    assert (code, json.loads(body)) == (404, {"error": "no such path or model"})


@pytest.mark.parametrize("text", ["", "{}", "[]", '[{"name": "m", "outputs": [{"name": "y"}]}]', "\xff"])
def test_a_file_of_no_models_is_one_error(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models.json").write_bytes(text.encode("latin-1"))
    assert main([str(tmp_path / "models.json")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_models_of_no_datatype_and_ports_that_are_none_are_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = '[{"name": "m", "outputs": [{"name": "y", "datatype": "FP31", "shape": [1]}]}]'
    (tmp_path / "odd.json").write_text(odd)
    (tmp_path / "good.json").write_text('[{"name": "m"}]')
    for arguments in (
        ["odd.json"],
        ["missing.json"],
        ["good.json", "--port", "99999"],
        ["good.json", "--host", "1.2.3.4"],
    ):
        assert main([str(tmp_path / arguments[0]), *arguments[1:]]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 4

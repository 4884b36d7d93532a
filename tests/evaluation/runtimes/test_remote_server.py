import json
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.support.evaluation.scripted_server import reply, scripted
from tests.support.tiny import tiny
from veltair.evaluation.remote.server_facts import RemoteError
from veltair.evaluation.runtimes.registry import Miss, ObservedBackend
from veltair.evaluation.runtimes.remote_server import RemoteServer
from veltair.wire.errors import error_body
from veltair.wire.infer import (
    LENGTH_HEADER,
    InferRequest,
    InferResponse,
    Message,
    Tensor,
    read_request,
    write_response,
)
from veltair.wire.messages import (
    Duration,
    InferStatistics,
    ModelStatistics,
    Statistics,
    encode,
)

WAIT_S = 10.0
VALUES = (np.arange(768, dtype=np.float32).reshape(1, 3, 16, 16),)
RIGHT = np.linspace(-1, 1, 10, dtype=np.float32).reshape(1, 10)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(tiny(), tmp_path / "tiny.onnx")
    return tmp_path / "tiny.onnx"


def answer(values: Any = RIGHT, name: str = "logits", binary: bool = True) -> bytes:
    tensor = Tensor(name, "FP32", values.shape, values.tobytes())
    return sent(write_response(InferResponse("tiny", (tensor,)), [name] if binary else ()))


def sent(message: Message) -> bytes:
    return reply(message.body, headers=message.headers)


@contextmanager
def backend(
    model: Path, answers: list[bytes], **options: Any
) -> Iterator[tuple[RemoteServer, Callable[[], str]]]:
    """Give a backend of a server that answers one after the other, and what asks it and returns the miss."""
    told: queue.Queue[Miss | None] = queue.Queue()

    def done(query: int, start_s: float, failure: Exception | None, miss: Miss | None = None) -> None:
        assert failure is None
        told.put(miss)

    with scripted(lambda number, path, body: answers.pop(0)) as server:
        remote = RemoteServer(
            {"tiny": model}, [("tiny", VALUES)], (0,), done, url=server.url, timeout_s=WAIT_S, **options
        )

        def ask() -> str:
            remote.submit(0, 0)
            miss = told.get(timeout=WAIT_S)
            assert miss is not None
            return miss()

        try:
            yield remote, ask
        finally:
            remote.stop()


def test_the_right_answer_is_no_miss(model: Path) -> None:
    with backend(model, [answer(), answer()]) as (remote, ask):
        ((found,),) = remote.answers(0)
        assert np.array_equal(found, RIGHT)
        assert ask() == ""


OTHER = RIGHT + np.float32(0.5)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (reply(error_body("too many requests"), 429), "429: too many requests"),
        (reply(b"<html>", 503), "503: <html>"),
        (answer(OTHER), "a wrong answer"),
        (answer(RIGHT * np.float32(np.nan)), "a wrong answer"),
        (answer(RIGHT.reshape(10, 1)), "an answer of another shape or datatype"),
        (answer(RIGHT.astype(np.float64)[:, :5].copy().view(np.float32)), "a wrong answer"),
        (answer(name="other"), "an answer without output logits"),
        (reply(b"{}"), "an answer that is not as the protocol has it"),
        (reply(b"{}", headers={LENGTH_HEADER: "9"}), "the body has 2 bytes"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "204"),
        (b"nonsense\r\n\r\n", "no HTTP"),
    ],
)
def test_anything_but_a_right_answer_is_a_miss(model: Path, wrong: bytes, reason: str) -> None:
    with backend(model, [answer(), wrong], tolerance=1e-4) as (remote, ask):
        remote.answers(0)
        assert reason in ask()
        assert sum(remote._misses.values()) == 1


def test_an_answer_may_differ_within_the_tolerance(model: Path) -> None:
    near = RIGHT * np.float32(1 + 1e-5)
    with backend(model, [answer(), answer(near), answer(near)], tolerance=1e-4) as (remote, ask):
        remote.answers(0)
        assert ask() == ""
        remote._tolerance = 1e-6
        assert ask() == "a wrong answer"


def test_a_request_is_as_the_protocol_has_it(model: Path) -> None:
    found: list[tuple[str, InferRequest]] = []

    def script(number: int, path: str, body: bytes) -> bytes:
        found.append((path, read_request(body, body.index(b"}]}") + 3)))
        return answer()

    done: Any = None
    with scripted(script) as server:
        remote = RemoteServer(
            {"tiny": model},
            [("tiny", VALUES)],
            (0,),
            done,
            url=f"{server.url}/base",
            timeout_s=WAIT_S,
            names={"tiny": "a b"},
            version="2",
        )
        remote.answers(0)
        remote.stop()

    ((path, asked),) = found
    assert path == "/base/v2/models/a%20b/versions/2/infer"
    assert (asked.outputs, asked.is_binary("logits")) == (("logits",), True)
    assert (asked.inputs[0].name, bytes(asked.inputs[0].data)) == ("input", VALUES[0].tobytes())


def test_tensors_go_in_json_to_servers_without_binary_data(model: Path) -> None:
    bodies: list[bytes] = []

    def script(number: int, path: str, body: bytes) -> bytes:
        bodies.append(body)
        return answer(binary=False)

    done: Any = None
    with scripted(script) as server:
        remote = RemoteServer(
            *({"tiny": model}, [("tiny", VALUES)], (0,), done),
            url=server.url,
            timeout_s=WAIT_S,
            encoding="json",
        )
        assert np.array_equal(remote.answers(0)[0][0], RIGHT)
        remote.stop()
    assert json.loads(bodies[0])["inputs"][0]["data"][:3] == [0.0, 1.0, 2.0]


def test_the_token_goes_with_each_request(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    with backend(model, [answer()], token_variable="TOKEN") as (remote, _):
        assert b"\r\nAuthorization: Bearer secret\r\n" in remote._samples[0].request
        remote.answers(0)


def test_a_host_that_nobody_knows_is_told(model: Path) -> None:
    done: Any = None
    with pytest.raises(RemoteError, match="correct the name of the host"):
        RemoteServer(
            {"tiny": model}, [("tiny", VALUES)], (0,), done, url="http://no.such.host.invalid", timeout_s=1.0
        )


def test_facts_of_a_run_are_its_own(model: Path) -> None:
    counts = iter([(5, 10_000_000), (8, 16_000_000)])

    def script(number: int, path: str, body: bytes) -> bytes:
        if path.endswith("/stats"):
            count, ns = next(counts)
            steps = InferStatistics(success=Duration(count, ns), compute_infer=Duration(count, ns))
            return reply(encode(Statistics([ModelStatistics("tiny", inference_stats=steps)])))
        return reply(error_body("full"), 429) if number == 2 else answer()

    told: queue.Queue[Miss | None] = queue.Queue()
    with scripted(script) as server:
        remote = RemoteServer(
            *(
                {"tiny": model},
                [("tiny", VALUES)],
                (0,),
                lambda query, start_s, failure, miss=None: told.put(miss),
            ),
            url=server.url,
            timeout_s=WAIT_S,
            connections=3,
        )
        assert isinstance(remote, ObservedBackend)
        remote.answers(0)
        remote.begin()
        remote.submit(0, 0)
        miss = told.get(timeout=WAIT_S)
        assert miss is not None and miss() == "429: full"
        facts = remote.facts()
        remote.stop()

    assert facts["misses"] == {"429: full": 1}
    assert facts["connections_opened"] == 0
    assert facts["server"] == {"tiny": {"success": 3, "fail": 0, "compute_infer_mean_ms": 2.0}}

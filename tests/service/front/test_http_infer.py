import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.service.http_house import BANK, SHOP, Answered, House, bearer, within
from tests.support.service.infer_bodies import VALUES, binary_body, json_body
from tests.support.service.tenant_builders import tenant_keys
from veltair.service.engine.link import Outcome, OutcomeKind
from veltair.service.front.http_body import Patience
from veltair.service.models.registry import State

INFER = "/v2/models/net/infer"


async def binary(house: House, **others: Any) -> Answered:
    body, headers = binary_body(**others)
    return await house.post(INFER, body, headers=headers)


def test_the_answer_to_json_is_json(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        answered = await house.post(INFER, json_body(id="7"))
        assert answered.code == 200
        assert answered.values["model_name"] == "net"
        assert answered.values["model_version"] == "1"
        assert answered.values["id"] == "7"
        (output,) = answered.values["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("y", "FP32", [1, 4])
        assert np.array(output["data"]).ravel().tolist() == VALUES.ravel().tolist()

    within(tmp_path, scene)


def test_the_answer_to_bytes_is_bytes(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        answered = await binary(house)
        assert answered.code == 200
        length = int(answered.headers["inference-header-content-length"])
        head = json.loads(answered.body[:length])
        assert head["outputs"][0]["parameters"]["binary_data_size"] == 16
        assert answered.body[length:] == VALUES.tobytes()

    within(tmp_path, scene)


def test_a_body_may_come_in_pieces(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        body, headers = binary_body()
        parts = [body[start : start + 7] for start in range(0, len(body), 7)]
        answered = await house.post(INFER, parts, headers=headers)
        assert answered.body.endswith(VALUES.tobytes())

    within(tmp_path, scene)


def test_what_the_slot_held_before_is_never_seen(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        assert b"\xaa" * 4 not in (await binary(house)).body
        short = VALUES[:, :3]
        body, headers = binary_body(short)
        assert (await house.post(INFER, body, headers=headers)).code == 400
        assert (await house.post(INFER, json_body(short))).code == 400
        assert len(house.link.asked) == 1

    within(tmp_path, scene)


WRONG = {
    "nothing": b"",
    "no JSON": b"{",
    "deep JSON": b"[" * 50_000,
    "no inputs": b"{}",
    "another input": json_body().replace(b'"x"', b'"z"'),
    "another type": json_body().replace(b"FP32", b"INT64"),
    "no type": json_body().replace(b"FP32", b"FP99"),
    "another shape": json_body().replace(b"[1, 4]", b"[2, 2]"),
    "a negative shape": json_body().replace(b"[1, 4]", b"[-1, 4]"),
    "too few values": json_body().replace(b", 3.0]", b"]"),
    "text as a value": json_body().replace(b"3.0", b'"3"'),
    "no finite number": json_body().replace(b"3.0", b"NaN"),
    "an unknown output": json_body(outputs=[{"name": "secret"}]),
    "the same input twice": json_body().replace(b'"inputs": [', b'"inputs": [' + json_body()[12:-2] + b","),
    "shared memory": json_body().replace(
        b'"datatype"', b'"parameters": {"shared_memory_region": "r"}, "datatype"'
    ),
    "a timeout that is none": json_body(parameters={"timeout": -5}),
    "a timeout as text": json_body(parameters={"timeout": "1"}),
    "a priority that is none": json_body(parameters={"priority": -1}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_body_is_refused_before_the_engine_hears_of_it(name: str, tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        answered = await house.post(INFER, WRONG[name])
        assert answered.code == 400, answered.body
        assert answered.values["error"]
        assert not house.link.asked
        assert (await house.post(INFER, json_body())).code == 200

    within(tmp_path, scene)


@pytest.mark.parametrize("length", ["-1", "abc", "999999999", "1e3", "", "0"])
def test_a_wrong_length_of_the_header_is_refused(length: str, tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        body, headers = binary_body()
        answered = await house.post(
            INFER, body, headers=headers | {"inference-header-content-length": length}
        )
        assert answered.code == 400, answered.body
        assert not house.link.asked

    within(tmp_path, scene)


def test_a_body_larger_than_the_models_inputs_can_be_is_not_read(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        answered = await house.post(INFER, b"", headers={"content-length": "1000000000"})
        assert answered.code == 413
        assert answered.headers["connection"] == "close"
        # Nor is one that is larger than it says.
        parts = [b" " * 100_000] * 40
        answered = await house.post(INFER, parts, headers={"content-length": "5"})
        assert answered.code == 413

    within(tmp_path, scene)


def test_a_compressed_body_is_refused_unread(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        for coding in ("gzip", "br", "identity, gzip", "GZIP"):
            bomb = await house.post(INFER, b"\x1f\x8b" * 100, headers={"content-encoding": coding})
            assert bomb.code == 415
        assert (await house.post(INFER, json_body(), headers={"content-encoding": "identity"})).code == 200

    within(tmp_path, scene)


def test_a_header_that_decides_is_refused_twice(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        scope = {
            "type": "http", "method": "GET", "path": "/v2", "raw_path": b"/v2",
            "headers": [(b"authorization", b"Bearer shop-token"), (b"authorization", b"Bearer bank-token")],
        }  # fmt: skip
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await house.front(scope, None, send)  # type: ignore[arg-type]
        assert sent[0]["status"] == 400

    within(tmp_path, scene)


def test_who_sends_too_slowly_is_not_waited_for(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        body, headers = binary_body()
        given = [(name.encode(), value.encode()) for name, value in (headers | bearer("shop-token")).items()]
        given.append((b"content-length", str(len(body)).encode()))
        scope = {
            "type": "http",
            "method": "POST",
            "path": INFER,
            "raw_path": INFER.encode(),
            "headers": given,
        }
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.sleep(0.03)
            return {"type": "http.request", "body": b" ", "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message)

        await house.front(scope, receive, send)
        assert sent[0]["status"] == 408
        assert house.desk.metrics()[1][0].values == {"shop": 0.0, "bank": 0.0}

    within(tmp_path, scene, patience=Patience(least_bytes_per_s=1000.0, seconds=0.1))


def test_more_requests_than_a_quota_are_told_when_to_come_again(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        assert (await house.post(INFER, json_body())).code == 200
        answered = await house.post(INFER, json_body())
        assert answered.code == 429
        assert answered.headers["retry-after"] == "10"
        assert answered.values["retry_after_ms"] > 9000
        assert "quota rate" in answered.values["error"]
        # Another tenant is not touched by it.
        assert (await house.get("/v2", "bank-token")).code == 200

    within(
        tmp_path,
        scene,
        tenants=[tenant_keys("shop", "shop-token", rate=0.1, burst=1), tenant_keys("bank", "bank-token")],
    )


def test_a_request_that_would_be_late_is_told_when_it_would_end(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve(alone_s=0.5, core_s=0.5)
        answered = await house.post(INFER, json_body(parameters={"timeout": 200_000}))
        assert answered.code == 503
        assert 450 < answered.values["predicted_ms"] < 700
        assert not house.link.asked
        assert (await house.post(INFER, json_body(parameters={"timeout": 2_000_000}))).code == 200

    within(tmp_path, scene)


def test_the_deadline_of_a_request_goes_to_the_engine_with_its_tenant(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        now_s = asyncio.get_running_loop().time()
        await house.post(INFER, json_body(parameters={"timeout": 3_000_000}))
        await house.post(INFER, json_body())
        (_, own_s, tenant), (_, default_s, _) = house.link.asked
        assert tenant == "shop"
        assert 2.9 < own_s - now_s < 3.5
        assert 0.0 < default_s - now_s < 0.6

    within(tmp_path, scene)


def test_a_request_whose_turn_does_not_come_in_time_is_late(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve(alone_s=1e-4, core_s=1e-4)
        house.link.gate = asyncio.Event()
        body = json_body(parameters={"timeout": 4_000_000})
        first = [asyncio.create_task(house.post(INFER, body)) for _ in range(3)]
        await asyncio.sleep(0.02)
        answered = await house.post(INFER, json_body(parameters={"timeout": 50_000}))
        assert answered.code == 504
        assert len(house.link.asked) == 3
        house.link.gate.set()
        assert [(await one).code for one in first] == [200, 200, 200]

    within(tmp_path, scene)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (OutcomeKind.FINISHED, 200),
        (OutcomeKind.LATE, 200),
        (OutcomeKind.REJECTED, 504),
        (OutcomeKind.FAILED, 500),
    ],
)
def test_what_becomes_of_a_request_in_the_engine_is_said_by_a_code(
    kind: OutcomeKind, code: int, tmp_path: Path
) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        house.link.outcome = Outcome(kind, reason="at /secret/path 0x7f00")
        answered = await house.post(INFER, json_body())
        assert answered.code == code
        assert b"secret" not in answered.body
        assert all(slot.released for slot in house.link.slots)

    within(tmp_path, scene)


def test_while_the_engine_is_down_requests_are_told_to_come_again(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        house.link.is_up = False
        answered = await house.post(INFER, json_body())
        assert (answered.code, answered.headers["retry-after"]) == (503, "1")

    within(tmp_path, scene)


def test_who_closes_the_connection_takes_its_request_back(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        house.link.gate, gone = asyncio.Event(), asyncio.Event()
        asking = asyncio.create_task(house.post(INFER, json_body(), gone=gone))
        while not house.link.asked:
            await asyncio.sleep(0)
        gone.set()
        assert (await asking).code == 0
        assert house.link.cancelled == 1
        assert all(slot.released for slot in house.link.slots)
        assert house.desk.metrics()[1][0].values["shop"] == 0.0
        # It pays for what the engine may have done meanwhile.
        assert house.desk.metrics()[0]["shop"].core_s == pytest.approx(0.004)

    within(tmp_path, scene)


def test_one_tenants_flood_leaves_anothers_request_its_turn(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve(alone_s=1e-4, core_s=1e-4)
        await house.serve("net", BANK, alone_s=1e-4, core_s=1e-4)
        house.link.gate = asyncio.Event()
        body = json_body(parameters={"timeout": 4_000_000})
        flood = [asyncio.create_task(house.post(INFER, body)) for _ in range(8)]
        await asyncio.sleep(0.01)
        quiet = asyncio.create_task(house.post(INFER, body, "bank-token"))
        await asyncio.sleep(0.01)
        house.link.gate.set()
        assert (await quiet).code == 200
        await asyncio.gather(*flood)
        # Three were in the engine; the next turn was the other tenant's.
        assert [tenant for _, _, tenant in house.link.asked].index("bank") == 3

    within(tmp_path, scene)


def test_statistics_count_what_was_served_and_what_failed(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        await house.serve()
        for body in (json_body(), json_body(), b"{"):
            await house.post(INFER, body)
        (line,) = (await house.get("/v2/models/net/stats")).values["model_stats"]
        assert (line["name"], line["version"], line["inference_count"]) == ("net", "1", 2)
        spent = line["inference_stats"]
        assert (spent["success"]["count"], spent["fail"]["count"]) == (2, 1)
        assert spent["compute_infer"]["ns"] == 4_000_000
        parts = sum(
            spent[name]["ns"] for name in ("queue", "compute_input", "compute_infer", "compute_output")
        )
        assert parts >= spent["success"]["ns"] * 0.99
        assert house.desk.metrics()[0]["shop"].endings == {"served": 2, "bad_request": 1}

    within(tmp_path, scene)


def test_a_model_that_is_not_ready_says_what_it_is(tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        house.builder.reason = "the model has a body"
        incoming = house.intake.incoming()
        incoming.write_bytes(b"x")
        house.intake.upload(SHOP, "net", 1, incoming, "a" * 64)
        await house.until("net", State.UNAVAILABLE)
        answered = await house.post(INFER, json_body())
        assert answered.code == 503
        assert "UNAVAILABLE: the model has a body" in answered.values["error"]

    within(tmp_path, scene)

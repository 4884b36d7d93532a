import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.support.service.http_house import BANK, House, housed
from tests.support.service.infer_bodies import VALUES
from tests.support.service.tenant_builders import tenant_keys
from veltair.service.engine.link import Outcome, OutcomeKind
from veltair.service.front.grpc_front import GrpcFront, grpc_server
from veltair.service.front.grpc_messages import SERVICE, message

Code = grpc.StatusCode


class Client:
    """Calls of the protocol, with a tenant's token."""

    def __init__(self, channel: Any, token: str | None) -> None:
        self._channel = channel
        self.metadata = () if token is None else (("authorization", f"Bearer {token}"),)

    async def call(self, method: str, asked: Any = None, **others: Any) -> Any:
        request = message(f"{method}Request")() if asked is None else asked
        content = request if isinstance(request, bytes) else request.SerializeToString()
        call = self._channel.unary_unary(f"/{SERVICE}/{method}")
        answer = await call(content, metadata=others.pop("metadata", self.metadata), **others)
        return message(f"{method}Response").FromString(answer)

    async def refused(self, method: str, asked: Any = None, **others: Any) -> tuple[Any, str, dict[str, str]]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(method, asked, **others)
        trailing = {str(name): str(value) for name, value in caught.value.trailing_metadata()}
        return caught.value.code(), str(caught.value.details()), trailing


def infer_request(name: str = "net", **parameters: int) -> Any:
    asked = message("ModelInferRequest")(model_name=name, id="7")
    asked.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    asked.raw_input_contents.append(VALUES.tobytes())
    for key, value in parameters.items():
        asked.parameters[key].int64_param = value
    return asked


@contextlib.asynccontextmanager
async def channel_to(house: House) -> AsyncIterator[Any]:
    server = grpc_server(GrpcFront(house.desk, house.intake, "0"))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


Scene = Callable[[House, Client, Any], Awaitable[None]]


def within(tmp_path: Path, scene: Scene, **options: Any) -> None:
    async def play() -> None:
        async with asyncio.timeout(8), housed(tmp_path, **options) as house, channel_to(house) as channel:
            await scene(house, Client(channel, "shop-token"), channel)

    asyncio.run(play())


def test_a_request_is_answered_in_bytes(tmp_path: Path) -> None:
    async def scene(house: House, client: Client, _: Any) -> None:
        await house.serve()
        answer = await client.call("ModelInfer", infer_request())
        assert (answer.model_name, answer.model_version, answer.id) == ("net", "1", "7")
        (output,) = answer.outputs
        assert (output.name, output.datatype, list(output.shape)) == ("y", "FP32", [1, 4])
        assert list(answer.raw_output_contents) == [VALUES.tobytes()]

    within(tmp_path, scene)


def test_numbers_may_come_in_a_list(tmp_path: Path) -> None:
    async def scene(house: House, client: Client, _: Any) -> None:
        await house.serve()
        asked = infer_request()
        del asked.raw_input_contents[:]
        asked.inputs[0].contents.fp32_contents.extend(VALUES.ravel().tolist())
        answer = await client.call("ModelInfer", asked)
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == VALUES.ravel().tolist()

    within(tmp_path, scene)


def changed(change: Callable[[Any], object]) -> Any:
    asked = infer_request()
    change(asked)
    return asked


WRONG = {
    "no message": b"\xff\xff\xff",
    "another input": changed(lambda one: setattr(one.inputs[0], "name", "z")),
    "another type": changed(lambda one: setattr(one.inputs[0], "datatype", "INT64")),
    "another shape": changed(lambda one: one.inputs[0].shape.append(1)),
    "too few bytes": changed(lambda one: one.raw_input_contents.__setitem__(0, b"123")),
    "too many contents": changed(lambda one: one.raw_input_contents.append(b"")),
    "no contents": changed(lambda one: one.raw_input_contents.pop()),
    "both contents": changed(lambda one: one.inputs[0].contents.fp32_contents.append(1.0)),
    "the same input twice": changed(lambda one: one.inputs.append(one.inputs[0])),
    "an unknown output": changed(lambda one: one.outputs.add(name="secret")),
    "shared memory": changed(
        lambda one: setattr(one.inputs[0].parameters["shared_memory_region"], "string_param", "r")
    ),
    "a negative timeout": infer_request(timeout=-1),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_an_invalid_argument(name: str, tmp_path: Path) -> None:
    async def scene(house: House, client: Client, _: Any) -> None:
        await house.serve()
        code, said, _trailing = await client.refused("ModelInfer", WRONG[name])
        assert code is Code.INVALID_ARGUMENT
        assert said
        assert not house.link.asked

    within(tmp_path, scene)


def named(method: str, name: str) -> Any:
    if method == "ModelInfer":
        return infer_request(name)
    field = "model_name" if method.startswith("Repository") else "name"
    return message(f"{method}Request")(**{field: name})


METHODS = (
    "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "ModelInfer", "RepositoryModelLoad",
    "RepositoryModelUnload",
)  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_a_tenants_model_is_there_for_its_own_token_alone(method: str, tmp_path: Path) -> None:
    async def scene(house: House, client: Client, channel: Any) -> None:
        await house.serve()
        for token in (None, "wrong", ""):
            assert (await Client(channel, token).refused(method, named(method, "net")))[
                0
            ] is Code.UNAUTHENTICATED
        bank = Client(channel, "bank-token")
        foreign = await bank.refused(method, named(method, "net"))
        absent = await bank.refused(method, named(method, "none"))
        assert foreign[0] is Code.NOT_FOUND
        assert foreign == absent
        twice = client.metadata + bank.metadata
        assert (await client.refused(method, named(method, "net"), metadata=twice))[
            0
        ] is Code.INVALID_ARGUMENT
        await client.call(method, named(method, "net"))

    within(tmp_path, scene)


def test_the_server_and_its_health_and_what_a_tenant_has(tmp_path: Path) -> None:
    async def scene(house: House, client: Client, channel: Any) -> None:
        await house.serve()
        nobody = Client(channel, None)
        assert (await nobody.call("ServerLive")).live
        assert (await nobody.call("ServerReady")).ready
        assert (await nobody.refused("ServerMetadata"))[0] is Code.UNAUTHENTICATED
        assert "binary_tensor_data" in (await client.call("ServerMetadata")).extensions
        (line,) = (await client.call("RepositoryIndex")).models
        assert (line.name, line.version, line.state) == ("net", "1", "READY")
        assert not (await Client(channel, "bank-token").call("RepositoryIndex")).models
        config = (await client.call("ModelConfig", named("ModelConfig", "net"))).config
        assert (config.input[0].data_type, list(config.output[0].dims)) == (11, [1, 4])
        await client.call("ModelInfer", infer_request())
        (found,) = (await client.call("ModelStatistics")).model_stats
        assert found.inference_stats.success.count == found.inference_count == 1

    within(tmp_path, scene)


def test_what_is_not_of_the_protocol_is_unimplemented(tmp_path: Path) -> None:
    async def scene(house: House, _: Client, channel: Any) -> None:
        for path in (
            f"/{SERVICE}/SystemSharedMemoryRegister",
            "/other/ModelInfer",
            f"/{SERVICE}/tenant",
            f"/{SERVICE}/",
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(path)(b"")
            assert caught.value.code() is Code.UNIMPLEMENTED

    within(tmp_path, scene)


def test_quotas_deadlines_and_endings_have_their_codes(tmp_path: Path) -> None:
    async def scene(house: House, client: Client, channel: Any) -> None:
        await house.serve("net", BANK, alone_s=0.5, core_s=0.5)
        bank = Client(channel, "bank-token")
        code, _, trailing = await bank.refused("ModelInfer", infer_request(timeout=100_000))
        assert code is Code.UNAVAILABLE
        assert 450 < float(trailing["predicted-ms"]) < 700
        # The deadline of the call is the request's, where that states none.
        assert (await bank.refused("ModelInfer", infer_request(), timeout=0.3))[0] is Code.UNAVAILABLE
        house.link.outcome = Outcome(OutcomeKind.REJECTED)
        code, _, _ = await bank.refused("ModelInfer", infer_request(timeout=5_000_000))
        assert code is Code.DEADLINE_EXCEEDED
        await house.serve()
        house.link.outcome = Outcome(OutcomeKind.FINISHED)
        await client.call("ModelInfer", infer_request())
        code, said, trailing = await client.refused("ModelInfer", infer_request())
        assert (code, int(trailing["retry-after-ms"]) > 9000) == (Code.RESOURCE_EXHAUSTED, True)
        assert "quota rate" in said

    within(tmp_path, scene, tenants=[tenant_keys("shop", "shop-token", rate=0.1, burst=1), BANK])


def test_a_compressed_message_is_refused(tmp_path: Path) -> None:
    async def scene(house: House, client: Client, _: Any) -> None:
        await house.serve()
        asked = infer_request()
        asked.raw_input_contents[0] = bytes(1_000_000)
        code, _, _ = await client.refused("ModelInfer", asked, compression=grpc.Compression.Gzip)
        assert code is Code.UNIMPLEMENTED

    within(tmp_path, scene)


def test_a_stream_answers_one_request_after_the_other_and_survives_a_wrong_one(tmp_path: Path) -> None:
    async def scene(house: House, client: Client, channel: Any) -> None:
        await house.serve()
        requests = [infer_request().SerializeToString(), infer_request("none").SerializeToString(), b"\xff"]
        call = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(iter(requests), metadata=client.metadata)
        kind = message("ModelStreamInferResponse")
        found = [kind.FromString(one) async for one in call]
        assert [bool(one.error_message) for one in found] == [False, True, True]
        assert found[0].infer_response.raw_output_contents[0] == VALUES.tobytes()

    within(tmp_path, scene)


def test_a_model_can_be_uploaded_and_a_file_of_another_name_cannot(tmp_path: Path) -> None:
    async def scene(house: House, client: Client, _: Any) -> None:
        asked = message("RepositoryModelLoadRequest")(model_name="net")
        asked.parameters["file:../../x"].bytes_param = b"model"
        assert (await client.refused("RepositoryModelLoad", asked))[0] is Code.INVALID_ARGUMENT
        del asked.parameters["file:../../x"]
        asked.parameters["file:3/model.onnx"].bytes_param = b"model"
        await client.call("RepositoryModelLoad", asked)
        (entry,) = house.registry.of("shop")
        assert (entry.version, entry.digest) == (3, sha256(b"model").hexdigest())

    within(tmp_path, scene)


def test_a_cancelled_call_takes_its_request_back(tmp_path: Path) -> None:
    async def scene(house: House, client: Client, _: Any) -> None:
        await house.serve()
        house.link.gate = asyncio.Event()
        asking = asyncio.create_task(client.call("ModelInfer", infer_request(timeout=5_000_000)))
        while not house.link.asked:
            await asyncio.sleep(0.001)
        asking.cancel()
        while not house.link.cancelled:
            await asyncio.sleep(0.001)
        assert all(slot.released for slot in house.link.slots)

    within(tmp_path, scene)

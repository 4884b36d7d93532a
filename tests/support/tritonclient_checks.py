"""What a server must do for `tritonclient`: `tritonclient_checks.py URL FORM CLIENT ...`.

Run by the Python of that client's environment. It prints a line for each client; whatever is not as it must
be ends it with an error. The model is the tiny network, whose logits are to be zeros.
"""

import asyncio
import sys
from typing import Any

import numpy as np
import tritonclient.http
import tritonclient.http.aio

MODEL, INPUT, OUTPUT = "tiny", "input", "logits"


async def check(module: Any, client: Any, binary: bool) -> None:
    """Ask what clients ask, whether the answers have to be awaited or not."""

    async def answer(given: Any) -> Any:
        return await given if asyncio.iscoroutine(given) else given

    assert await answer(client.is_server_live())
    assert await answer(client.is_server_ready())
    assert await answer(client.is_model_ready(MODEL))
    assert (await answer(client.get_server_metadata()))["name"]
    assert (await answer(client.get_model_metadata(MODEL)))["name"] == MODEL
    value = module.InferInput(INPUT, [1, 3, 16, 16], "FP32")
    value.set_data_from_numpy(np.ones((1, 3, 16, 16), np.float32), binary_data=binary)
    wanted = [module.InferRequestedOutput(OUTPUT, binary_data=binary)]
    for outputs in (wanted, None) if binary else (wanted,):
        found = (await answer(client.infer(MODEL, [value], outputs=outputs))).as_numpy(OUTPUT)
        assert (found.shape, found.dtype) == ((1, 10), np.float32), found
        assert not found.any(), found
    try:
        await answer(client.infer("no_such_model", [value], outputs=wanted))
    except tritonclient.utils.InferenceServerException as error:
        assert "404" in str(error.status()), error
        assert error.message(), error
    else:
        raise AssertionError("a model that is not there was answered")


async def main(url: str, form: str, *clients: str) -> None:
    """Check clients that block, or are asynchronous."""
    if "blocking" in clients:
        client = tritonclient.http.InferenceServerClient(url)
        await check(tritonclient.http, client, form == "binary")
        print("blocking", flush=True)
    if "asynchronous" in clients:
        async with tritonclient.http.aio.InferenceServerClient(url) as waiting:
            await check(tritonclient.http.aio, waiting, form == "binary")
        print("asynchronous", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

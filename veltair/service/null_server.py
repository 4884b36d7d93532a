"""A server that speaks the protocol and computes nothing: what a client and the network take by themselves.

    python -m veltair.service.null_server models.json --port 8000

`models.json` is a list of models as servers tell of them (`GET v2/models/NAME`). Each is answered with zeros
as soon as the last byte of a request is in; an extent that a request may choose is 1. Nothing is read of a
request but its length, so that its time is that of the protocol.
"""

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import cast

import httptools
import uvloop

from veltair.wire.datatypes import element_bytes
from veltair.wire.errors import WireError, error_body
from veltair.wire.infer import (
    LENGTH_HEADER,
    InferResponse,
    Message,
    Tensor,
    write_response,
)
from veltair.wire.messages import ModelMetadata, Readiness, ServerMetadata, TensorMetadata, decode, encode

MOST_PORT = (1 << 16) - 1
NAME, VERSION = "null", "1"
EXTENSIONS = ["binary_tensor_data"]
_LENGTH = LENGTH_HEADER.lower().encode()
_TEXTS = {200: b"OK", 400: b"Bad Request", 404: b"Not Found"}


@dataclass(frozen=True, slots=True)
class Answers:
    """What the server says of a model, ready to be sent: about it, and in answer to a request."""

    told: bytes
    ready: bytes
    binary: bytes
    text: bytes

    @classmethod
    def of(cls, model: ModelMetadata) -> "Answers":
        """Return the answers of a model. Raises WireError for datatypes that are none."""
        zeros = InferResponse(model.name, tuple(map(_zeros, model.outputs)), VERSION)
        return cls(
            response(200, Message((encode(model),), None)),
            response(200, Message((encode(Readiness(model.name, True)),), None)),
            response(200, write_response(zeros, [one.name for one in zeros.outputs])),
            response(200, write_response(zeros)),
        )


def response(code: int, message: Message) -> bytes:
    """Return a whole response with a body."""
    headers = message.headers | {"Content-Length": str(message.nbytes)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (code, _TEXTS[code], lines.encode("latin-1"), message.body)


def failure(code: int, text: str) -> bytes:
    """Return a whole response that is an error."""
    return response(code, Message((error_body(text),), None))


def pages(models: Sequence[ModelMetadata]) -> dict[tuple[str, bytes], tuple[bytes, bytes]]:
    """Return by method and path what is answered: to a request without binary data, and to one with."""
    told = encode(ServerMetadata(NAME, VERSION, EXTENSIONS))
    empty = response(200, Message((b"{}",), None))
    found = {("GET", b"/v2"): response(200, Message((told,), None))}
    found |= {("GET", f"/v2/health/{what}".encode()): empty for what in ("live", "ready")}
    both = {key: (page, page) for key, page in found.items()}
    for model in models:
        answers = Answers.of(model)
        for path in (f"/v2/models/{model.name}", f"/v2/models/{model.name}/versions/{VERSION}"):
            both["GET", path.encode()] = (answers.told, answers.told)
            both["GET", f"{path}/ready".encode()] = (answers.ready, answers.ready)
            both["POST", f"{path}/infer".encode()] = (answers.text, answers.binary)
    return both


class _Exchange(asyncio.Protocol):
    """One connection: each request is answered once its last byte is there."""

    def __init__(self, known: Mapping[tuple[str, bytes], tuple[bytes, bytes]]) -> None:
        self._known = known
        self._parser = httptools.HttpRequestParser(self)
        self._url, self._binary = b"", False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._transport.write(failure(400, f"no HTTP: {error}"))
            self._transport.close()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._url, self._binary = b"", False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == _LENGTH:
            self._binary = True

    def on_message_complete(self) -> None:
        assert self._transport is not None
        key = self._parser.get_method().decode("latin-1"), self._url
        page = self._known.get(key)
        self._transport.write(failure(404, "no such path or model") if page is None else page[self._binary])
        if not self._parser.should_keep_alive():
            self._transport.close()


def _zeros(output: TensorMetadata) -> Tensor:
    shape = tuple(1 if extent < 0 else extent for extent in output.shape)
    size = element_bytes(output.datatype)
    # An element of BYTES without a byte is its length.
    return Tensor(output.name, output.datatype, shape, bytes(prod(shape) * (4 if size is None else size)))


async def serve(models: Sequence[ModelMetadata], host: str, port: int) -> None:
    """Answer until cancelled; a line says at which URL, port 0 being any that is free."""
    known = pages(models)
    server = await asyncio.get_running_loop().create_server(lambda: _Exchange(known), host, port)
    print(f"null server at http://{host}:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


def read_models(path: Path) -> list[ModelMetadata]:
    """Return the models of a file. Raises OSError or WireError."""
    models = decode(list[ModelMetadata], path.read_bytes())
    if not models:
        raise WireError("the list of models is empty")
    return models


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; return 2, after a line, if that cannot be begun."""
    parser = argparse.ArgumentParser(
        prog="python -m veltair.service.null_server", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("models", type=Path, help="JSON file: a list of models as GET v2/models/NAME tells")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free, which a line tells")
    given = parser.parse_args(arguments)
    try:
        if not 0 <= given.port <= MOST_PORT:
            raise OSError(f"ports are 0 to {MOST_PORT}")
        uvloop.run(serve(read_models(given.models), given.host, given.port))
    except (OSError, WireError) as error:
        print(f"error: {given.models}, {given.host}:{given.port}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The repository of models over HTTP: what a tenant has, uploads, loads and unloads."""

import asyncio
import base64
import binascii
import hashlib
import re
from pathlib import Path
from typing import Any

import msgspec

from veltair.service.front.http_answers import Call, Reply, json_reply, no_path
from veltair.service.front.intake import Intake, too_large
from veltair.service.front.model_pages import ModelPages, index_entry
from veltair.service.front.repository import finish_load, upload_version
from veltair.service.models.registry import BEING_BUILT, Entry, ModelNameError, checked_version
from veltair.service.tenancy.errors import bad_request
from veltair.wire.errors import WireError
from veltair.wire.messages import IndexRequest, decode

# Bodies that are no upload.
SMALL_BYTES = 1 << 16
_DIGEST = re.compile(r"(?i)sha-256=:?([A-Za-z0-9+/]{43}=):?")
# Text that is decoded at once; between two such pieces others have their turn.
_PIECE = 1 << 20


class _Parameters(msgspec.Struct):
    parameters: dict[str, msgspec.Raw] = {}


class RepositoryPages:
    """All that is under `v2/repository`."""

    def __init__(self, pages: ModelPages, intake: Intake) -> None:
        self._pages, self._intake = pages, intake

    async def answer(self, call: Call, parts: tuple[str, ...]) -> Reply:
        """Answer a request. Raises ServiceError."""
        match call.method, parts:
            case "POST", ("index",):
                return await self._index(call)
            case "POST", ("models", name, "load"):
                return await self._load(call, name)
            case "POST", ("models", name, "unload"):
                await call.body.read(SMALL_BYTES)
                await self._intake.unload(call.tenant, name)
                return json_reply({})
            case "PUT", ("models", name, "versions", version):
                return await self._put(call, name, version)
            case "DELETE", ("models", name, "versions", version):
                await self._intake.remove(call.tenant, name, _version(version))
                return json_reply({})
        raise no_path()

    async def _index(self, call: Call) -> Reply:
        content = await call.body.read(SMALL_BYTES)
        asked: IndexRequest = _decoded(content, IndexRequest)
        return json_reply(self._pages.index(call.tenant, asked.ready))

    async def _put(self, call: Call, name: str, version: str) -> Reply:
        """Take a model as the bytes that it is."""
        checked = self._intake.check(call.tenant, name, version, call.body.nbytes)
        stated = _stated_digest(call.headers.get(b"digest", b""))
        incoming = self._intake.incoming()
        try:
            found = await call.body.save(incoming, self._intake.most_bytes(call.tenant))
            if stated not in ("", found):
                raise bad_request("the bytes that came are not those of the header Digest; send them again")
            entry = self._intake.upload(call.tenant, *checked, incoming, found)
        finally:
            incoming.unlink(missing_ok=True)
        return json_reply(index_entry(entry), code=202 if entry.state in BEING_BUILT else 200)

    async def _load(self, call: Call, name: str) -> Reply:
        # Base64 makes four letters of three bytes.
        most = self._intake.most_bytes(call.tenant) * 4 // 3 + SMALL_BYTES
        content = await call.body.read(most)
        given = _decoded(content, _Parameters).parameters
        files = [key for key in given if key.startswith("file:")]
        if not files:
            entry = await self._intake.load(call.tenant, name)
        else:
            entry = await self._upload(call, name, files, given)
        await finish_load(self._intake, entry)
        return json_reply({})

    async def _upload(self, call: Call, name: str, files: list[str], given: dict[str, msgspec.Raw]) -> Entry:
        checked = self._intake.check(call.tenant, name, upload_version(files), None)
        incoming = self._intake.incoming()
        try:
            digest = await _save_base64(memoryview(given[files[0]]), incoming)
            if incoming.stat().st_size > self._intake.most_bytes(call.tenant):
                raise too_large(call.tenant)
            return self._intake.upload(call.tenant, *checked, incoming, digest)
        finally:
            incoming.unlink(missing_ok=True)


async def _save_base64(text: memoryview, path: Path) -> str:
    """Write the bytes of a JSON text in base64 to a file and return their SHA-256."""
    wrong = bad_request("the file is not in base64")
    if len(text) < 2 or bytes(text[:1]) != b'"':
        raise wrong
    letters = bytes(text[1:-1])
    if b"\\" in letters:
        letters = letters.replace(b"\\/", b"/")  # as JSON may write it
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for start in range(0, len(letters), _PIECE):
            try:
                part = base64.b64decode(letters[start : start + _PIECE], validate=True)
            except (binascii.Error, ValueError):
                raise wrong from None
            digest.update(part)
            stream.write(part)
            await asyncio.sleep(0)
    return digest.hexdigest()


def _stated_digest(header: bytes) -> str:
    """Return the SHA-256 of a Digest header in hexadecimal, "" without one.

    Raises ServiceError for one of another kind.
    """
    if not header:
        return ""
    if (found := _DIGEST.fullmatch(header.decode("latin-1").strip())) is None:
        raise bad_request("the header Digest is not `SHA-256=` and 44 letters of base64")
    return base64.b64decode(found[1]).hex()


def _version(text: str) -> int:
    try:
        return checked_version(text)
    except ModelNameError as error:
        raise bad_request(str(error)) from None


def _decoded(content: bytes, kind: type[Any]) -> Any:
    try:
        return decode(kind, content)
    except (WireError, RecursionError) as error:
        raise bad_request(f"the body is not as the protocol has it: {error}") from None

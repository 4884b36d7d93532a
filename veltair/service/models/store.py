"""The bytes of models and what was built of them, in folders named by the digest of tenant and bytes.

No name that a client gives becomes part of a path. What two tenants upload is built for each of them, though
the bytes be the same: who finds them built already would learn what others have.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection
from math import prod
from pathlib import Path

import numpy as np

from veltair.provenance import write_atomically

MODEL = "model.onnx"
BUILD, TABLES = "build", "tables"
KERNELS = f"{BUILD}/kernels.so"
SEAL = "seal.json"
OUTPUTS = f"{BUILD}/outputs.json"
DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20


class StoreError(RuntimeError):
    """What was built is not there, or is not what was built."""


class Store:
    """One folder for all models; only this user may read it."""

    def __init__(self, folder: Path) -> None:
        """Open the folder, or make it."""
        self._models, self._incoming = folder / "models", folder / "incoming"
        for one in (self._models, self._incoming):
            one.mkdir(parents=True, exist_ok=True, mode=0o700)

    def incoming(self) -> Path:
        """Return a new empty file for bytes that come in, of which only this user can read."""
        handle, path = tempfile.mkstemp(dir=self._incoming)
        os.close(handle)
        return Path(path)

    def workplace(self) -> Path:
        """Return a new empty folder in which to build."""
        return Path(tempfile.mkdtemp(dir=self._incoming))

    def folder(self, place: str) -> Path:
        """Return the folder of a place (`place_of`). Raises StoreError for what is none."""
        if not DIGEST.fullmatch(place):
            raise StoreError("a place in the store is a SHA-256 in hexadecimal")
        return self._models / place

    def keep(self, incoming: Path, place: str) -> Path:
        """Keep a file that came in as the model of a place."""
        model = self.folder(place) / MODEL
        model.parent.mkdir(mode=0o700, exist_ok=True)
        incoming.replace(model)
        return model

    def publish(self, place: str, built: Path) -> None:
        """Take over what was built in another folder (`build/`, `tables/`), and seal it by the digests."""
        folder = self.folder(place)
        for name in (BUILD, TABLES):
            shutil.rmtree(folder / name, ignore_errors=True)
            try:
                shutil.copytree(built / name, folder / name, symlinks=True)
            except (OSError, shutil.Error):
                raise StoreError("what was built is not whole") from None
        files = sorted(path for name in (BUILD, TABLES) for path in (folder / name).rglob("*"))
        if odd := [path.name for path in files if path.is_symlink() or not (path.is_file() or path.is_dir())]:
            raise StoreError(f"what was built holds something that is no plain file: {odd[0]}")
        plain = [path for path in files if path.is_file()]
        for path in plain:
            path.chmod(0o600)
        seal = {str(path.relative_to(folder)): digest_of(path) for path in plain}
        if KERNELS not in seal:
            raise StoreError("what was built has no kernels")
        write_atomically({folder / SEAL: json.dumps(seal, indent=1).encode()})

    def is_built(self, place: str) -> bool:
        """Whether its model was built and sealed."""
        return (self.folder(place) / SEAL).is_file()

    def sweep(self, needed: Collection[str]) -> None:
        """Remove all that came in and was not kept, and all models but those of the needed places."""
        for path in (*self._incoming.iterdir(), *self._models.iterdir()):
            if path.parent == self._incoming or path.name not in needed:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def place_of(tenant: str, digest: str) -> str:
    """Return where a tenant's model of a digest is kept."""
    return hashlib.sha256(f"{tenant}\0{digest}".encode()).hexdigest()


def output_names(folder: Path) -> tuple[str, ...]:
    """Return what the outputs of a built model are called, as it was uploaded; nothing if nobody noted it."""
    try:
        return tuple(map(str, json.loads((folder / OUTPUTS).read_bytes())))
    except (OSError, ValueError):
        return ()


def request_bytes(folder: Path) -> int:
    """Return the bytes of inputs and outputs of one request for a built model.

    Raises StoreError if its plan cannot be read.
    """
    try:
        plan = json.loads((folder / BUILD / "plan.json").read_bytes())
        inputs = [_nbytes(one["shape"], one["dtype"]) for one in plan["inputs"]]
        outputs = [
            inputs[number]
            if kind == "input"
            else _nbytes(plan["layers"][number]["outputs"][output], plan["layers"][number]["dtypes"][output])
            for kind, number, output in plan["outputs"]
        ]
    except (OSError, ValueError, LookupError, TypeError):
        raise StoreError("the plan of the model cannot be read; upload it again") from None
    return sum(inputs) + sum(outputs)


def _nbytes(shape: list[int], dtype: str) -> int:
    return prod(shape) * np.dtype(dtype).itemsize


def check_seal(folder: Path, names: Collection[str] | None = None) -> None:
    """Raise StoreError unless the files of a folder are those that were sealed: all of them, or some."""
    try:
        seal: dict[str, str] = json.loads((folder / SEAL).read_bytes())
    except (OSError, ValueError):
        raise StoreError("the model was not built, or its seal is damaged; upload it again") from None
    for name in seal if names is None else names:
        path = folder / name
        if not path.is_file() or path.is_symlink() or seal.get(name) != digest_of(path):
            raise StoreError(f"{name} is not what was built; upload the model again")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

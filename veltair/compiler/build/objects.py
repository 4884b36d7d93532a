"""Compiled versions by content: what was built once is linked again, not built again."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm.ir import IRModule
from tvm.tirx import build as tvm_build

from veltair.compiler.footprint.version import Candidate
from veltair.compiler.recipes.recipe import is_recipe
from veltair.compiler.search.intrinsics import vectorise_math
from veltair.provenance import write_atomically

# Of what is kept and of how it is made; raise it when either changes.
FORMAT = 4


@dataclass(frozen=True, slots=True)
class CompiledVersion:
    """An object file with the kernels of a version, and how these are called, as plain values."""

    path: Path
    plan: Mapping[str, Any]


def version_key(candidate: Candidate, target: Any, generated: Any = None) -> str:
    """Return the hash of all that the machine code of a candidate depends on.

    The name of a structure holds the hash of its function. `generated` is the module of a recipe: what it is
    depends on the program, not on the recipe alone. Raises ValueError for a recipe without it.
    """
    depends = [FORMAT, candidate.structure, candidate.trace, str(target), tvm.__version__]
    if is_recipe(candidate.trace):
        if generated is None:
            raise ValueError(
                f"candidate {candidate.index} of {candidate.structure} is a recipe: give its module"
            )
        depends.append(int(tvm_ffi.structural_hash(generated, map_free_vars=True)))
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


def compile_version(
    functions: Mapping[Any, Any], plan: Mapping[str, Any], target: Any, key: str, folder: Path
) -> CompiledVersion:
    """Compile the kernels of a version into an object file and remember both under its key."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key}.o"
    # A name of its own until it is whole, for another process may compile the same; TVM wants the suffix.
    partial = folder / f".{key}.{os.getpid()}.o"
    vectorise_math()
    tvm_build(IRModule(dict(functions)), target=target).write_to_file(str(partial), "o")
    partial.replace(path)
    record = {"plan": dict(plan), "sha256": _digest(path)}
    write_atomically({folder / f"{key}.json": json.dumps(record, indent=1).encode()})
    return CompiledVersion(path, plan)


def find_version(key: str, folder: Path) -> CompiledVersion | None:
    """Return a version compiled before; None if there is none, or it is not what was written."""
    path = folder / f"{key}.o"
    try:
        record = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
        intact = record["sha256"] == _digest(path)
        return CompiledVersion(path, dict(record["plan"])) if intact else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""Versions -> one shared library per model, and the plan of how its layers are called."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tvm.support import cc

from veltair.compiler.build.constants import ConstantPlan, write_constants
from veltair.compiler.build.objects import CompiledVersion, compile_version, find_version, version_key
from veltair.compiler.footprint.nest import read_nest
from veltair.compiler.footprint.tiling import (
    looks_up,
    nest_traffic_bytes,
    of_lookup,
    work_space_bytes,
)
from veltair.compiler.footprint.traffic import CURVE_BYTES, Tiling, curve
from veltair.compiler.footprint.version import Candidate
from veltair.compiler.frontend.importer import ImportedModel, Source
from veltair.compiler.frontend.samples import Input
from veltair.compiler.recipes.recipe import is_recipe
from veltair.compiler.search.prepacked import split_prepacked
from veltair.compiler.search.search import replay
from veltair.provenance import write_atomically

LIBRARY = "kernels.so"
PLAN = "plan.json"
CONSTANTS = "constants.bin"
# Of the three files together; raise it when one of them changes.
FORMAT = 2


@dataclass(frozen=True, slots=True)
class VersionPlan:
    """How one version of a structure is called.

    `symbol` is its kernel. `packer`, if any, is a kernel that packs the constants at `packed` (argument
    places) into arrays of `packed_shapes`, in this order. `fetched_bytes` is that of its `Tiling`.
    `work_space_bytes` are the temporaries of a call that outlive an iteration of its parallel loops; None in
    a plan of an earlier program.
    """

    symbol: str
    parallelism: int
    blocking_bytes: int
    compulsory_bytes: int
    packer: str = ""
    packed: tuple[int, ...] = ()
    packed_shapes: tuple[tuple[int, ...], ...] = ()
    fetched_bytes: tuple[int, ...] = ()
    work_space_bytes: int | None = None

    @property
    def tiling(self) -> Tiling:
        """What its loops do to caches and cores."""
        sizes = (self.parallelism, self.blocking_bytes, self.compulsory_bytes)
        return Tiling(*sizes, fetched_bytes=self.fetched_bytes)


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """How a layer is called: its inputs in order, and the shapes and dtypes of its outputs.

    An input is ("layer", number, output), ("input", number, 0) or ("constant", number, 0).
    """

    name: str
    structure: str
    macs: int
    inputs: tuple[tuple[str, int, int], ...]
    outputs: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """All that is needed to run a built model: its layers, their versions, and where its outputs are.

    The constant of number n, as inputs of layers name it, is `constants[n]`.
    """

    model: str
    inputs: tuple[Input, ...]
    layers: tuple[LayerPlan, ...]
    versions: Mapping[str, tuple[VersionPlan, ...]]
    outputs: tuple[tuple[str, int, int], ...]
    constants: tuple[ConstantPlan, ...] = ()

    def of(self, layer: int) -> tuple[VersionPlan, ...]:
        """Return the versions of a layer."""
        return self.versions[self.layers[layer].structure]


def build(
    imported: ImportedModel,
    chosen: Mapping[str, Sequence[Candidate]],
    target: Any,
    folder: Path,
    cache: Path | None = None,
) -> ModelPlan:
    """Write the library, plan and constants of a model into `folder` and return the plan.

    Versions compiled before are taken from the folder `cache`, by content, and new ones put there; without it
    all are compiled. Raises LookupError if a structure of the model has no versions.
    """
    functions = imported.functions()
    for structure in functions:
        if not chosen.get(structure):
            raise LookupError(
                f"{imported.model.name}: layer structure {structure} has no versions; "
                "search it (`search.reuse: false`)"
            )
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{LIBRARY}"  # linkers want a file of their own; renamed once it is whole
    with TemporaryDirectory() as temporary:
        compiled = {
            structure: [
                _compile(function, candidate, target, cache or Path(temporary))
                for candidate in chosen[structure]
            ]
            for structure, function in functions.items()
        }
        objects = dict.fromkeys(str(one.path) for group in compiled.values() for one in group)
        cc.create_shared(str(partial), list(objects))
    versions = {
        structure: tuple(
            replace(_read_version(one.plan), **_metrics(candidate, functions[structure]))
            for one, candidate in zip(group, chosen[structure], strict=True)
        )
        for structure, group in compiled.items()
    }
    layers, constants = _plan_layers(imported)
    outputs = tuple(_place(source) for source in imported.outputs)
    indices = write_constants(folder / CONSTANTS, constants)
    plan = ModelPlan(imported.model.name, imported.inputs, layers, versions, outputs, indices)
    write_atomically({folder / PLAN: _format_plan(plan)})
    partial.replace(folder / LIBRARY)
    return plan


def _format_plan(plan: ModelPlan) -> bytes:
    return json.dumps({"format": FORMAT, **asdict(plan)}, indent=1).encode()


def read_plan(folder: Path) -> ModelPlan:
    """Return the plan of a built model. Raises LookupError if it was built in another format."""
    document = _read_document(folder)
    return ModelPlan(
        model=document["model"],
        inputs=tuple(Input(**{**entry, "shape": tuple(entry["shape"])}) for entry in document["inputs"]),
        layers=tuple(
            LayerPlan(
                entry["name"],
                entry["structure"],
                entry["macs"],
                tuple((kind, number, output) for kind, number, output in entry["inputs"]),
                tuple(map(tuple, entry["outputs"])),
                tuple(entry["dtypes"]),
            )
            for entry in document["layers"]
        ),
        versions={
            structure: tuple(map(_read_version, entries))
            for structure, entries in document["versions"].items()
        },
        outputs=tuple((kind, number, output) for kind, number, output in document["outputs"]),
        constants=tuple(
            ConstantPlan(**{**entry, "shape": tuple(entry["shape"])}) for entry in document["constants"]
        ),
    )


def _read_document(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    if document.get("format") != FORMAT:
        raise LookupError(
            f"{folder} was built in format {document.get('format', 1)}, this program reads {FORMAT}; "
            "delete it and run rule `build`"
        )
    return document


def _read_version(entry: Mapping[str, Any]) -> VersionPlan:
    shapes = tuple(map(tuple, entry["packed_shapes"]))
    # A plan of an earlier program has none, or for fewer caches.
    fetched = curve(entry.get("fetched_bytes", ()))
    known = {"packed": tuple(entry["packed"]), "packed_shapes": shapes, "fetched_bytes": fetched}
    return VersionPlan(**{**entry, **known})


def _compile(function: Any, candidate: Candidate, target: Any, cache: Path) -> CompiledVersion:
    """Return a candidate as machine code: as it was compiled before, or compiled now."""
    generated = replay(function, candidate.trace) if is_recipe(candidate.trace) else None
    key = version_key(candidate, target, generated)
    if found := find_version(key, cache):
        return found
    # The name tells the content, so that libraries of any selection and model can be linked of it.
    functions, plan = _split(function, candidate, f"{candidate.structure.replace('-', '_')}_{key[:16]}")
    return compile_version(functions, asdict(plan), target, key, cache)


def _metrics(candidate: Candidate, function: Any) -> dict[str, Any]:
    """Return what a plan says of a version's loops beside what is read off its kernel."""
    is_lookup = looks_up(function)
    tiling = of_lookup(function, candidate.tiling) if is_lookup else candidate.tiling
    names = ("parallelism", "blocking_bytes", "compulsory_bytes")
    known = {name: getattr(tiling, name) for name in names}
    return {**known, "fetched_bytes": ()} if is_lookup else known


def _read_kernel(kernel: Any) -> dict[str, Any]:
    """Return what a plan says of a kernel's caches and memory."""
    nest = read_nest(kernel)
    fetched = nest_traffic_bytes(nest, CURVE_BYTES)
    return {"fetched_bytes": fetched, "work_space_bytes": work_space_bytes(nest)}


def _split(function: Any, candidate: Candidate, symbol: str) -> tuple[dict[Any, Any], VersionPlan]:
    """Return the kernel of a candidate and the one that packs its constants, if any, and how to call them."""
    split = split_prepacked(replay(function, candidate.trace)["main"], symbol)
    plan = VersionPlan(split.kernel, 1, 0, 0, split.packer, split.packed, split.packed_shapes)
    return dict(split.functions), replace(plan, **_read_kernel(split.functions[split.kernel]))


def _plan_layers(imported: ImportedModel) -> tuple[tuple[LayerPlan, ...], list[Any]]:
    constants: list[Any] = []
    # Equal ones are one in the file: the steps of an unrolled network read the same weights.
    numbers: dict[tuple[tuple[int, ...], str, bytes], int] = {}
    plans = []
    for layer, call in zip(imported.model.layers, imported.calls, strict=True):
        inputs = []
        for source in call.inputs:
            if isinstance(source, Source):
                inputs.append(_place(source))
            else:
                digest = hashlib.sha256(np.ascontiguousarray(source).data).digest()
                number = numbers.setdefault((source.shape, str(source.dtype), digest), len(constants))
                inputs.append(("constant", number, 0))
                if number == len(constants):
                    constants.append(source)
        plans.append(
            LayerPlan(layer.name, layer.structure, layer.macs, tuple(inputs), call.outputs, call.dtypes)
        )
    return tuple(plans), constants


def _place(source: Source) -> tuple[str, int, int]:
    return ("input", source.output, 0) if source.layer < 0 else ("layer", source.layer, source.output)

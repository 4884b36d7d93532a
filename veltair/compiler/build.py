"""Versions -> one shared library per model, and the plan of how its layers are called."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import IRModule
from tvm.tirx import build as tvm_build

from veltair.compiler.importer import ImportedModel, Source
from veltair.compiler.search import replay
from veltair.compiler.tiling import count_outputs
from veltair.compiler.version import Candidate
from veltair.provenance import write_atomically

LIBRARY = "kernels.so"
PLAN = "plan.json"
CONSTANTS = "constants.npz"


@dataclass(frozen=True, slots=True)
class VersionPlan:
    """How one version of a structure is called.

    `symbol` is its kernel. `packer`, if any, is a kernel that packs the constants at `packed` (argument
    places) into arrays of `packed_shapes`, in this order.
    """

    symbol: str
    parallelism: int
    blocking_bytes: int
    compulsory_bytes: int
    packer: str = ""
    packed: tuple[int, ...] = ()
    packed_shapes: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """How a layer is called: its inputs in order and its output shapes.

    An input is ("layer", number, output), ("input", 0, 0) or ("constant", number, 0).
    """

    name: str
    structure: str
    macs: int
    inputs: tuple[tuple[str, int, int], ...]
    outputs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """All that is needed to run a built model: its layers, their versions, and where its outputs are."""

    model: str
    input_shape: tuple[int, ...]
    layers: tuple[LayerPlan, ...]
    versions: Mapping[str, tuple[VersionPlan, ...]]
    outputs: tuple[tuple[str, int, int], ...]

    def of(self, layer: int) -> tuple[VersionPlan, ...]:
        """Return the versions of a layer."""
        return self.versions[self.layers[layer].structure]


def build(
    imported: ImportedModel,
    chosen: Mapping[str, Sequence[Candidate]],
    target: Any,
    folder: Path,
) -> ModelPlan:
    """Write the library, plan and constants of a model into `folder` and return the plan.

    Raises LookupError if a structure of the model has no versions.
    """
    functions: dict[Any, Any] = {}
    versions: dict[str, tuple[VersionPlan, ...]] = {}
    for structure, function in imported.functions().items():
        if not chosen.get(structure):
            raise LookupError(
                f"{imported.model.name}: layer structure {structure} has no versions; "
                "search it (`search.reuse: false`)"
            )
        versions[structure] = tuple(
            _split(function, candidate, f"{_symbol(structure)}_v{place}", functions)
            for place, candidate in enumerate(chosen[structure])
        )
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{LIBRARY}"  # linkers want a file of their own; renamed once it is whole
    tvm_build(IRModule(functions), target=target).export_library(str(partial))
    layers, constants = _plan_layers(imported)
    outputs = tuple(_place(source) for source in imported.outputs)
    plan = ModelPlan(imported.model.name, imported.input_shape, layers, versions, outputs)
    packed = io.BytesIO()
    np.savez(packed, **{str(number): array for number, array in enumerate(constants)})
    write_atomically(
        {
            folder / CONSTANTS: packed.getvalue(),
            folder / PLAN: json.dumps(asdict(plan), indent=1).encode(),
        }
    )
    partial.replace(folder / LIBRARY)
    return plan


def read_plan(folder: Path) -> ModelPlan:
    """Return the plan of a built model."""
    document = json.loads((folder / PLAN).read_text())
    return ModelPlan(
        model=document["model"],
        input_shape=tuple(document["input_shape"]),
        layers=tuple(
            LayerPlan(
                entry["name"],
                entry["structure"],
                entry["macs"],
                tuple((kind, number, output) for kind, number, output in entry["inputs"]),
                tuple(map(tuple, entry["outputs"])),
            )
            for entry in document["layers"]
        ),
        versions={
            structure: tuple(
                VersionPlan(
                    **{
                        **entry,
                        "packed": tuple(entry["packed"]),
                        "packed_shapes": tuple(map(tuple, entry["packed_shapes"])),
                    }
                )
                for entry in entries
            )
            for structure, entries in document["versions"].items()
        },
        outputs=tuple((kind, number, output) for kind, number, output in document["outputs"]),
    )


def _symbol(structure: str) -> str:
    return structure.replace("-", "_")


def _split(function: Any, candidate: Candidate, symbol: str, functions: dict[Any, Any]) -> VersionPlan:
    """Add the kernel of a candidate, and the one that packs its constants, to `functions`."""
    scheduled = replay(function, candidate.trace)["main"].with_attr("global_symbol", symbol)
    module = relax.transform.SplitLayoutRewritePreproc()(_one_call(scheduled, symbol))
    calls = [
        binding.value
        for block in module["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
    ]
    tiling = asdict(candidate.tiling)
    for call in calls:
        name = call.args[0].name_hint
        functions[name] = module[call.args[0]].with_attr("global_symbol", name)
    kernel = calls[-1].args[0].name_hint
    if len(calls) == 1:
        return VersionPlan(kernel, **tiling)
    arguments = [variable.name for variable in module["main"].params]
    packed = tuple(arguments.index(variable.name) for variable in calls[0].args[1].fields)
    (output,) = calls[0].ty_args
    fields = output.fields if hasattr(output, "fields") else [output]
    shapes = tuple(tuple(int(extent) for extent in field.shape) for field in fields)
    return VersionPlan(
        kernel, **tiling, packer=calls[0].args[0].name_hint, packed=packed, packed_shapes=shapes
    )


def _one_call(function: Any, symbol: str) -> Any:
    """Return a Relax module that only calls the function, for Relax's pass works on calls."""
    builder = relax.BlockBuilder()
    kernel = builder.add_func(function, symbol)
    tensors = [
        relax.TensorType([int(extent) for extent in parameter.ty.shape], str(parameter.ty.dtype))
        for parameter in function.params
    ]
    first_output = len(tensors) - count_outputs(function)
    variables = [relax.Var(f"a{place}", tensor) for place, tensor in enumerate(tensors[:first_output])]
    made = tensors[first_output:]
    with builder.function("main", variables):
        with builder.dataflow():
            result = builder.emit_output(
                relax.call_tir(kernel, variables, out_ty=made if len(made) > 1 else made[0])
            )
        builder.emit_func_output(result)
    return builder.get()


def _plan_layers(imported: ImportedModel) -> tuple[tuple[LayerPlan, ...], list[Any]]:
    constants: list[Any] = []
    plans = []
    for layer, call in zip(imported.model.layers, imported.calls, strict=True):
        inputs = []
        for source in call.inputs:
            if isinstance(source, Source):
                inputs.append(_place(source))
            else:
                inputs.append(("constant", len(constants), 0))
                constants.append(source)
        plans.append(LayerPlan(layer.name, layer.structure, layer.macs, tuple(inputs), call.outputs))
    return tuple(plans), constants


def _place(source: Source) -> tuple[str, int, int]:
    return ("input", 0, 0) if source.layer < 0 else ("layer", source.layer, source.output)

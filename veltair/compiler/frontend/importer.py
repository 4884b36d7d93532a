"""ONNX -> fused layers in execution order, through TVM Relax; equal layers share one structure."""

import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx
from tvm_ffi import structural_hash

from veltair.compiler.footprint.tiling import count_macs
from veltair.compiler.frontend.model import Layer, Model
from veltair.compiler.frontend.onnx_passes import ModelError, check_static, one_line, rewrite
from veltair.compiler.frontend.operators import check_operators
from veltair.compiler.frontend.relax_passes import fuse, number_inputs
from veltair.compiler.frontend.samples import Input, read_inputs

RELAX_VARIABLE = re.compile(r'"([lg]v\d*)(?=["_])')


@dataclass(frozen=True, slots=True)
class Source:
    """Where a layer's input comes from: output `output` of layer `layer`; layer -1: of the model's inputs."""

    layer: int
    output: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class LayerCall:
    """How a layer is called: its unscheduled function, its inputs in order, its outputs' shapes and dtypes.

    A constant input is an array; it is packed anew for each version that wants another layout.
    """

    function: Any
    inputs: tuple[Source | NDArray[Any], ...]
    outputs: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ImportedModel:
    """A model, how each of its layers is called, what it is given, and where its outputs come from."""

    model: Model
    calls: tuple[LayerCall, ...]
    outputs: tuple[Source, ...]
    inputs: tuple[Input, ...]

    def functions(self) -> dict[str, Any]:
        """Return the unscheduled function of each structure."""
        return {
            layer.structure: call.function for layer, call in zip(self.model.layers, self.calls, strict=True)
        }


def import_model(name: str, source: onnx.ModelProto, qos_s: float) -> ImportedModel:
    """Return the fused layers of a model.

    Raises ModelError for dynamic shapes and for operators that TVM cannot import, named with their nodes.
    """
    check_static(source, name)
    check_operators(source, name)
    inputs = read_inputs(source, name)
    try:
        rewritten = rewrite(source)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"{name} is not a valid ONNX model: {one_line(error)}") from error
    try:
        module = fuse(number_inputs(from_onnx(rewritten, keep_params_in_input=False)))
    except Exception as error:  # TVM's converters raise whatever Python does, as KeyError or AssertionError
        detail = "; ".join(str(error).strip().splitlines()[-1:]) or type(error).__name__
        raise ModelError(f"{name}: TVM cannot import this model{_node_of(error)}: {detail}") from error
    return _read_calls(name, module, qos_s, inputs)


def _node_of(error: BaseException) -> str:
    """Return at which node TVM's importer raised, if it was converting one."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("node")
        if isinstance(node, onnx.NodeProto):
            return f" at node {node.name or node.output[0]} ({node.op_type})"
    return ""


def _read_calls(name: str, module: Any, qos_s: float, given: tuple[Input, ...]) -> ImportedModel:
    main = module["main"]
    indices: dict[Any, Source] = {main.params[number]: Source(-1, number) for number in range(len(given))}
    tuples: dict[Any, int] = {}
    functions: dict[str, Any] = {}
    results: Sequence[Any] = [main.body.body]
    layers: list[Layer] = []
    calls: list[LayerCall] = []
    for binding in (binding for block in main.body.blocks for binding in block.bindings):
        value = binding.value
        if isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.call_tir":
            function = module[value.args[0]]
            inputs = tuple(_source(field, indices, name) for field in value.args[1].fields)
            made = _fields(value.ty_args[0])
            structure = _structure(value.args[0].name_hint, function)
            if structure not in functions:
                functions[structure] = rename_variables(function)
            function = functions[structure]
            label = f"{len(layers):03d}-{structure.rsplit('-', 1)[0]}"
            layers.append(Layer(label, structure, count_macs(function)))
            shapes = tuple(tuple(int(extent) for extent in tensor.shape) for tensor in made)
            calls.append(LayerCall(function, inputs, shapes, tuple(str(tensor.dtype) for tensor in made)))
            indices[binding.var] = Source(len(calls) - 1)
            tuples[binding.var] = len(calls) - 1
        elif isinstance(value, relax.TupleGetItem):
            indices[binding.var] = Source(tuples[value.tuple_value], int(value.index))
        elif isinstance(value, relax.Var):
            indices[binding.var] = indices[value]
        elif isinstance(value, relax.Tuple) and binding.var.same_as(main.body.body):
            results = value.fields
        else:
            text = " ".join(str(value).split())[:80]
            raise ModelError(
                f"{name}: {binding.var} = {text} was not fused into a layer; simplify the export"
            )
    if not layers:
        raise ModelError(f"{name} has no layers: its outputs are its inputs")
    outputs = _outputs(results, indices, name)
    return ImportedModel(Model(name, tuple(layers), qos_s), tuple(calls), outputs, given)


def _outputs(results: Sequence[Any], indices: dict[Any, Source], name: str) -> tuple[Source, ...]:
    found = []
    for result in results:
        source = _source(result, indices, name)
        if not isinstance(source, Source):
            raise ModelError(f"{name}: an output is a constant; remove it from the export")
        found.append(source)
    return tuple(found)


def _source(field: Any, indices: dict[Any, Source], name: str) -> Source | NDArray[Any]:
    if isinstance(field, tvm.ir.GenericConst):
        array: NDArray[Any] = field.value.numpy()
        return array
    try:
        return indices[field]
    except KeyError:
        raise ModelError(f"{name}: a layer reads {field}, which no layer makes") from None


def _fields(output: Any) -> Sequence[Any]:
    fields: Sequence[Any] = output.fields if hasattr(output, "fields") else [output]
    return fields


def rename_variables(function: Any) -> Any:
    """Return a function whose names count the variables of Relax from 0 instead of over the whole model.

    Blocks are named after them ("lv375_red"), and traces name blocks: without this a trace could be replayed
    in that model only whose layer was searched.
    """
    text = tvm.ir.save_json(function)
    indices = {name: index for index, name in enumerate(dict.fromkeys(RELAX_VARIABLE.findall(text)))}
    return tvm.ir.load_json(RELAX_VARIABLE.sub(lambda found: f'"lv{indices[found[1]]}', text))


def _structure(name_hint: str, function: Any) -> str:
    """Return a readable name of a computation that ends in TVM's structural hash of it."""
    words = name_hint.removeprefix("fused_").split("_")
    # The importer numbers equal operators ("conv2d7"); the number follows a letter.
    kinds = "_".join(re.sub(r"(?<=\D)\d+$", "", word) for word in words)
    bare = function.without_attr("global_symbol") if "global_symbol" in function.attrs else function
    return f"{kinds}-{structural_hash(bare) & (2**64 - 1):016x}"

"""ONNX -> fused layers in execution order, through TVM Relax; equal layers share one structure."""

import gc
import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm_ffi import structural_hash

from veltair.compiler.footprint.tiling import count_macs
from veltair.compiler.frontend.fix import fix
from veltair.compiler.frontend.graph import node_name, types
from veltair.compiler.frontend.model import Layer, Model
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.frontend.onnx_to_relax import to_relax
from veltair.compiler.frontend.operators import check_operators
from veltair.compiler.frontend.quiet import quietly
from veltair.compiler.frontend.relax_passes import fuse, number_inputs
from veltair.compiler.frontend.rewriting import rewrite
from veltair.compiler.frontend.samples import Input, read_inputs
from veltair.compiler.frontend.single_nodes import describe, single_nodes

RELAX_VARIABLE = re.compile(r'"([lg]v\d*)(?=["_])')
# What TVM says that it expected, before it says what is wrong.
CHECKED = re.compile(r"^.*?Check failed: .*?(?: is false|\)) ?: ")


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

    Raises ModelError for open dimensions and for what cannot be served, with its node, reason and remedy.
    """
    model = fix(source, name).model
    constant = {one.name for one in model.graph.initializer}
    if found := [value.name for value in model.graph.output if value.name in constant]:
        raise ModelError(f"{name}: an output is a constant: {', '.join(found)}; remove it from the export")
    inputs = read_inputs(model, name)
    rewritten = rewrite(model, name)
    # Of what the passes made of it.
    check_operators(rewritten, name)
    # TVM's importer warns that it was interrupted when it is freed, which is with the error.
    with quietly():
        try:
            outputs = [value.name for value in rewritten.graph.output]
            return _read_calls(name, _module_of(rewritten), qos_s, inputs, outputs)
        except ModelError as error:
            raise ModelError(str(error) if str(error).startswith(name) else f"{name}: {error}") from None
        except Exception as error:  # TVM's converters raise whatever Python does, as KeyError
            message = _why_not(rewritten, error)
            error.__traceback__ = None  # its frames hold the importer
        gc.collect()
    raise ModelError(f"{name}: {message}. Replace it in the export, or end the model before it")


class _NoLayerError(Exception):
    """What a node became is not computed by any kernel."""


def _module_of(model: onnx.ModelProto) -> Any:
    return fuse(number_inputs(to_relax(model)))


def _why_not(model: onnx.ModelProto, error: Exception) -> str:
    """Return which node TVM cannot import and why, in words that are not a dump of its own."""
    node = _node_of(error)
    if node is None:
        # A pass over the whole network failed: on which node, trying each alone tells.
        for one, alone in single_nodes(model):
            inputs = tuple(Input(value.name, ()) for value in alone.graph.input)  # how many they are counts
            try:
                with quietly():
                    _read_calls("", _module_of(alone), 1.0, inputs, [])
            except ModelError:
                continue  # such as one that only passes on what it is given
            except Exception as found:
                node, error = one, found
                break
    if node is None:
        return f"TVM cannot fuse this network{_reason(error)}"
    where = f"node {node_name(node)} ({node.op_type}; {describe(node, model)})"
    doubles = any(types(model).get(given) == onnx.TensorProto.DOUBLE for given in node.input)
    advice = ": TVM has no kernel for it in float64, export it in float32" if doubles else ""
    return f"{where} cannot be compiled{_reason(error) or advice}"


def _reason(error: Exception) -> str:
    """Return an error's last line behind a colon; nothing where it is empty or a dump of objects."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    text = CHECKED.sub("", lines[-1]) if lines else ""
    dumped = any(
        part in text for part in ("ir.Op(", "span=", "0x", "Metadata", "T.int", "R.", "NoneType", "relax.")
    )
    return "" if dumped or len(text) < 3 else f": {text[:200].rstrip('.')}"


def _node_of(error: BaseException) -> onnx.NodeProto | None:
    """Return the node that TVM's importer was converting when it raised, if it was."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("node")
        if isinstance(node, onnx.NodeProto):
            return node
    return None


def _read_calls(
    name: str, module: Any, qos_s: float, given: tuple[Input, ...], made_as: Sequence[str]
) -> ImportedModel:
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
            raise _NoLayerError("it becomes no layer, and no part of one")
    if not layers:
        raise ModelError(f"{name} has no layers: its outputs are its inputs")
    outputs = _outputs(results, indices, name, made_as)
    return ImportedModel(Model(name, tuple(layers), qos_s), tuple(calls), outputs, given)


def _outputs(
    results: Sequence[Any], indices: dict[Any, Source], name: str, named: Sequence[str]
) -> tuple[Source, ...]:
    found = []
    for result, output in zip(results, named or [""] * len(results), strict=True):
        source = _source(result, indices, name)
        if not isinstance(source, Source):
            raise ModelError(f"{name}: an output is a constant: {output}; remove it from the export")
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

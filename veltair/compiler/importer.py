"""ONNX -> fused layers in execution order, through TVM Relax; equal layers share one structure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.relax.frontend.onnx import from_onnx, onnx_frontend
from tvm_ffi import structural_hash

from veltair.compiler.model import Layer, Model
from veltair.compiler.onnx_passes import ModelError, check_static, one_line, rewrite
from veltair.compiler.tiling import count_macs


@dataclass(frozen=True, slots=True)
class Source:
    """Where a layer's input comes from: output `output` of layer `layer`, or the model's input (layer -1)."""

    layer: int
    output: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class LayerCall:
    """How a layer is called: its unscheduled function, its inputs in order and its output shapes.

    A constant input is an array; it is packed anew for each version that wants another layout.
    """

    function: Any
    inputs: tuple[Source | NDArray[Any], ...]
    outputs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class ImportedModel:
    """A model, how each of its layers is called, and where its outputs come from."""

    model: Model
    calls: tuple[LayerCall, ...]
    outputs: tuple[Source, ...]
    input_shape: tuple[int, ...]

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
    try:
        rewritten = rewrite(source)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"{name} is not a valid ONNX model: {one_line(error)}") from error
    _check_operators(rewritten, name)
    try:
        module = from_onnx(rewritten, keep_params_in_input=False)
        module = _fusion()(_clip_to_min_max(relax.transform.FoldConstant()(module)))
    except (tvm.error.InternalError, tvm.error.OpError, ValueError, TypeError) as error:
        detail = str(error).strip().splitlines()[-1:]
        raise ModelError(f"{name}: TVM cannot import this model: {' '.join(detail)}") from error
    return _read_calls(name, module, qos_s)


def _check_operators(model: onnx.ModelProto, name: str) -> None:
    known = onnx_frontend._get_convert_map()  # the importer's own list; it has no public form
    for node in model.graph.node:
        if node.op_type not in known and node.op_type not in ("If", "Constant"):
            domain = f"{node.domain}." if node.domain else ""
            raise ModelError(
                f"{name}: operator {domain}{node.op_type} of node {node.name or node.output[0]} is not "
                "supported by TVM's ONNX importer; replace it in the export"
            )


@mutator
class _ClipMutator(PyExprMutator):  # type: ignore[misc]  # TVM has no types
    """Turns the importer's opaque maximum/minimum kernels into Relax operators that fuse.

    The bounds get the rank of the data, for ConvertLayout transposes around scalars of rank 0.
    """

    OPERATORS: ClassVar = {"maximum": relax.op.maximum, "minimum": relax.op.minimum}

    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        if not isinstance(call.op, tvm.ir.Op) or call.op.name != "relax.call_tir":
            return call
        operator = self.OPERATORS.get(call.args[0].name_hint.rstrip("0123456789"))
        fields = call.args[1].fields
        if operator is None or len(fields) != 2 or not isinstance(fields[1], tvm.ir.GenericConst):
            return call
        bound = fields[1].value.numpy()
        rank = len(fields[0].ty.shape)
        return operator(fields[0], relax.const(bound.reshape([1] * (rank - bound.ndim) + list(bound.shape))))


def _clip_to_min_max(module: Any) -> Any:
    change = _ClipMutator(module)
    for variable, function in module.functions_items():
        if isinstance(function, relax.Function):
            change.builder_.update_func(variable, change.visit_expr(function))
    return relax.transform.DeadCodeElimination()(change.builder_.get())


def _fusion() -> Any:
    return tvm.ir.transform.Sequential(
        [
            relax.transform.DecomposeOpsForInference(),
            relax.transform.CanonicalizeBindings(),
            # NHWC vectorises over channels; it was about twice as fast as NCHW.
            relax.transform.ConvertLayout({"relax.nn.conv2d": ["NHWC", "HWIO"]}),
            relax.transform.Normalize(),
            relax.transform.FoldConstant(),
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FoldConstant(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.AttachAttrLayoutFreeBuffers(),
            relax.transform.DeadCodeElimination(),
        ]
    )


def _read_calls(name: str, module: Any, qos_s: float) -> ImportedModel:
    main = module["main"]
    places: dict[Any, Source] = {main.params[0]: Source(-1)}
    tuples: dict[Any, int] = {}
    results: Sequence[Any] = [main.body.body]
    layers: list[Layer] = []
    calls: list[LayerCall] = []
    for binding in (binding for block in main.body.blocks for binding in block.bindings):
        value = binding.value
        if isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.call_tir":
            function = module[value.args[0]]
            inputs = tuple(_source(field, places, name) for field in value.args[1].fields)
            shapes = _shapes(value.ty_args[0], f"{name}: {value.args[0].name_hint}")
            structure = _structure(value.args[0].name_hint, function)
            label = f"{len(layers):03d}-{structure.rsplit('-', 1)[0]}"
            layers.append(Layer(label, structure, count_macs(function)))
            calls.append(LayerCall(function, inputs, shapes))
            places[binding.var] = Source(len(calls) - 1)
            tuples[binding.var] = len(calls) - 1
        elif isinstance(value, relax.TupleGetItem):
            places[binding.var] = Source(tuples[value.tuple_value], int(value.index))
        elif isinstance(value, relax.Var):
            places[binding.var] = places[value]
        elif isinstance(value, relax.Tuple) and binding.var.same_as(main.body.body):
            results = value.fields
        else:
            text = " ".join(str(value).split())[:80]
            raise ModelError(
                f"{name}: {binding.var} = {text} was not fused into a layer; simplify the export"
            )
    outputs = _outputs(results, places, name)
    shape = tuple(int(extent) for extent in main.params[0].ty.shape)
    return ImportedModel(Model(name, tuple(layers), qos_s), tuple(calls), outputs, shape)


def _outputs(results: Sequence[Any], places: dict[Any, Source], name: str) -> tuple[Source, ...]:
    found = []
    for result in results:
        source = _source(result, places, name)
        if not isinstance(source, Source):
            raise ModelError(f"{name}: an output is a constant; remove it from the export")
        found.append(source)
    return tuple(found)


def _source(field: Any, places: dict[Any, Source], name: str) -> Source | NDArray[Any]:
    if isinstance(field, tvm.ir.GenericConst):
        array: NDArray[Any] = field.value.numpy()
        return array
    try:
        return places[field]
    except KeyError:
        raise ModelError(f"{name}: a layer reads {field}, which no layer makes") from None


def _shapes(output: Any, label: str) -> tuple[tuple[int, ...], ...]:
    fields: Sequence[Any] = output.fields if hasattr(output, "fields") else [output]
    kinds = {str(field.dtype) for field in fields}
    if kinds != {"float32"}:
        raise ModelError(f"{label} makes {', '.join(sorted(kinds))}; layers that make float32 are supported")
    return tuple(tuple(int(extent) for extent in field.shape) for field in fields)


def _structure(name_hint: str, function: Any) -> str:
    """Return a readable name of a computation that ends in TVM's structural hash of it."""
    words = name_hint.removeprefix("fused_").split("_")
    # The importer numbers equal operators ("conv2d7"); the number follows a letter.
    kinds = "_".join(re.sub(r"(?<=\D)\d+$", "", word) for word in words)
    bare = function.without_attr("global_symbol") if "global_symbol" in function.attrs else function
    return f"{kinds}-{structural_hash(bare) & (2**64 - 1):016x}"

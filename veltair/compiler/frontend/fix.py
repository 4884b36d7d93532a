"""The second thing that happens to a model: it is brought into the one form that everything after it knows.

Open dimensions get sizes, old operators are written anew, float16 becomes float32, and what does not depend
on the inputs is computed once.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import onnx
from onnx import TensorProto, inliner, numpy_helper, version_converter

from veltair.compiler.frontend.fixed_inputs import Shapes, Values, fix_inputs
from veltair.compiler.frontend.folding import fold_constants
from veltair.compiler.frontend.graph import (
    NEWEST_OPSET,
    Names,
    attributes,
    constants,
    copied,
    dimensions,
    drop_attributes,
    inferred,
    light,
    node_name,
    opset,
    runtime_inputs,
    set_attribute,
    shapes,
)
from veltair.compiler.frontend.model_error import ModelError, one_line
from veltair.compiler.frontend.normal_forms import whole_attributes
from veltair.compiler.frontend.operators import check_known, check_operators
from veltair.compiler.frontend.precision import to_float32, uses_float16

INPUT_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
}
# Versions of the format that ONNX Runtime reads and in which initialisers need not be inputs.
OLDEST_IR, NEWEST_IR = 8, 10
# Operators as our own passes and TVM's importer know them; models of an older set are converted to it, for
# what operators mean changed until then (broadcasting, Upsample, Softmax, BatchNormalization).
CONVERTED_OPSET = 13
OLD_RESIZE_OPSET = 10
# ONNX Runtime runs no older one, so that a conversion from there cannot be compared.
OLDEST_OPSET = 7


@dataclass(frozen=True, slots=True)
class Choices:
    """What a user says of a model: shapes of its inputs, and values of those that are constants.

    `queries` are served at once by the network: the first dimension of its inputs and outputs.
    """

    shapes: Shapes = field(default_factory=dict)
    constants: Values = field(default_factory=dict)
    queries: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class FixedModel:
    """A model in its final form, the same before what changes how it computes, and what was decided.

    `reference` is what ONNX Runtime is asked of. Of float16 models it is in float32 as the model is, and
    `half` the one in float16 to say how far that is.
    """

    model: onnx.ModelProto
    reference: onnx.ModelProto
    notes: tuple[str, ...] = ()
    half: onnx.ModelProto | None = None


def fix(model: onnx.ModelProto, name: str, choices: Choices | None = None) -> FixedModel:
    """Return a model with fixed shapes, in float32, whose constants are initialisers.

    What has that form already comes back as it is, not a copy. Raises ModelError if it is not valid, cannot
    be brought into it, or has inputs or outputs that cannot be served.
    """
    choices = choices or Choices()
    if not runtime_inputs(model):
        raise ModelError(f"{name} has no input; models with at least one are supported")
    _check_versions(model, name)
    check_known(model, name)
    model = whole_attributes(model)
    model = _uniform(model)
    model, notes = fix_inputs(model, name, choices.shapes, choices.constants, choices.queries)
    if not runtime_inputs(model):
        raise ModelError(f"{name} has no input left; give at least one no constant")
    model = _with_output_shapes(model)
    _check(model, name, full=False)
    half = None
    if uses_float16(model):
        half, model = model, to_float32(model)
        notes.append("float16 is computed in float32, its inputs and outputs included")
    reference = model
    model, converted = _in_known_opset(model, name)
    if converted:
        notes.append(converted)
        if not OLDEST_OPSET <= opset(reference) <= NEWEST_OPSET:  # ONNX Runtime may run none other
            reference = model
    model = fold_constants(model, name)
    model = _uniform(_with_output_shapes(model))
    check_operators(model, name)
    check_static(model, name)
    if choices.queries > 1:
        _check_batch(model, name, choices.queries)
    _check(model, name, full=True)
    return FixedModel(model, reference, tuple(notes), half)


def _check_batch(model: onnx.ModelProto, name: str, queries: int) -> None:
    """Raise ModelError unless each output has the queries as its first dimension."""
    for value in model.graph.output:
        shape = dimensions(value)
        if not shape or shape[0] != queries:
            raise ModelError(
                f"{name}: output {value.name} is {shape} for {queries} queries at once; export the model so "
                f"that the batch stays the first dimension, or take {queries} out of `built_batches`"
            )


def check_static(model: onnx.ModelProto, name: str) -> None:
    """Raise ModelError unless each input is float32, int32 or int64 and every shape is a positive number."""
    for value in runtime_inputs(model):
        kind = value.type.tensor_type.elem_type
        if kind not in INPUT_TYPES:
            raise ModelError(
                f"{name}: input {value.name} is {_type_name(kind)}; export the model "
                "with inputs of float32, int32 or int64"
            )
    for value in (*runtime_inputs(model), *model.graph.output):
        kind_of = value.type.WhichOneof("value")
        if kind_of not in (None, "tensor_type"):
            raise ModelError(
                f"{name}: output {value.name} is a {kind_of.removesuffix('_type')}, not a tensor; end "
                "the model before it"
            )
        shape = dimensions(value)
        if shape is None:
            raise ModelError(
                f"{name}: the shape of {value.name} is not known from those of the inputs"
                f"{_first_unknown(model)}; end the model before it, or export it with fixed shapes (batch 1)"
            )
        if 0 in shape:
            raise ModelError(
                f"{name}: dimension {shape.index(0)} of {value.name} is 0; a query has at least one "
                "value of each input and output"
            )


def _first_unknown(model: onnx.ModelProto) -> str:
    """Return the first node whose output has no shape, in words."""
    graph = inferred(model)
    known = {value.name for value in (*graph.value_info, *graph.output) if dimensions(value) is not None}
    for node in graph.node:
        if node.output and node.output[0] not in known:
            return f": node {node_name(node)} ({node.op_type}) makes what its values say"
    return ""


def _type_name(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind)) if kind else "of no type"


def _check_versions(model: onnx.ModelProto, name: str) -> None:
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{name} is written in version {model.ir_version} of the format; up to {onnx.IR_VERSION} is "
            "known here: export it with an older onnx"
        )
    if not model.opset_import:
        raise ModelError(f"{name} names no operator set; export it with opset {CONVERTED_OPSET} or newer")
    newest = onnx.defs.onnx_opset_version()
    if opset(model) > newest:
        raise ModelError(
            f"{name} is of opset {opset(model)}; up to {newest} is known here: export it with opset 23 "
            "or older"
        )


def _check(model: onnx.ModelProto, name: str, *, full: bool) -> None:
    try:
        onnx.checker.check_model(light(model) if full else model, full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"{name} is not a valid ONNX model: {one_line(error)}") from error


def _uniform(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with dense initialisers that are no inputs, nodes of different names, no functions."""
    known = {one.name for one in model.graph.initializer}
    names = Counter(node.name for node in model.graph.node if node.name)
    if (
        OLDEST_IR <= model.ir_version <= NEWEST_IR
        and not model.graph.sparse_initializer
        and not model.functions
        and all(value.name not in known for value in model.graph.input)
        and all(times == 1 for times in names.values())
        and not (opset(model) < CONVERTED_OPSET and any(map(_lacks_region, model.graph.node)))
    ):
        return model
    model = inliner.inline_local_functions(model) if model.functions else copied(model)
    graph = model.graph
    model.ir_version = min(max(model.ir_version, OLDEST_IR), NEWEST_IR)
    for sparse in graph.sparse_initializer:
        graph.initializer.append(_dense(sparse))
    del graph.sparse_initializer[:]
    known = {one.name for one in graph.initializer}
    kept = [value for value in graph.input if value.name not in known]
    del graph.input[:]
    graph.input.extend(kept)
    if opset(model) < CONVERTED_OPSET and any(map(_lacks_region, graph.node)):
        name = Names(model).fresh("no_region")
        graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), name))
        for node in filter(_lacks_region, graph.node):
            node.input[1] = name
    seen: set[str] = set()
    for node in graph.node:
        if node.name in seen:
            taken = seen.union(names)
            node.name = next(name for number in count(1) if (name := f"{node.name}.{number}") not in taken)
        if node.name:
            seen.add(node.name)
    return model


def _lacks_region(node: onnx.NodeProto) -> bool:
    """Tell whether a Resize names no region, which opsets 11 and 12 want though nobody reads it."""
    return node.op_type == "Resize" and len(node.input) > 2 and not node.input[1]


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return numpy_helper.from_array(dense, sparse.values.name)


def _with_output_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the shapes of its outputs, where it does not say them itself."""
    if all(
        dimensions(value) is not None and value.type.tensor_type.elem_type for value in model.graph.output
    ):
        return model
    try:
        graph = inferred(model)
    except Exception:  # its own error says less than the checker's, which comes next
        return model
    found = {value.name: value for value in (*graph.value_info, *graph.output)}
    model = copied(model)
    for value in model.graph.output:
        if value.name in found and dimensions(value) is None:
            value.type.CopyFrom(found[value.name].type)
        if value.type.WhichOneof("value") == "tensor_type" and not value.type.tensor_type.HasField("shape"):
            # The checker wants one, be it empty of sizes; check_static names what stays unknown.
            value.type.tensor_type.shape.dim.add().dim_param = "unknown"
    return model


def _in_known_opset(model: onnx.ModelProto, name: str) -> tuple[onnx.ModelProto, str]:
    """Return the model with operators as of `CONVERTED_OPSET` where they are older, and a note if so."""
    version = opset(model)
    if CONVERTED_OPSET <= version <= NEWEST_OPSET:
        return model, ""
    target = CONVERTED_OPSET if version < CONVERTED_OPSET else NEWEST_OPSET
    try:
        converted = version_converter.convert_version(_without_shapes(_with_trailing_ones(model)), target)
        _sample_as_before(converted, model)
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:  # C++ exceptions of many kinds
        if version >= OLDEST_OPSET:
            return model, ""  # as it is, if ONNX Runtime takes it
        raise ModelError(
            f"{name} is of opset {version}, which cannot be converted ({one_line(error)}); export it "
            f"with opset {CONVERTED_OPSET} or newer"
        ) from error
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return converted, f"operators of opset {version} were converted to opset {target}"


def _without_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without the shapes of what is inside it: conversions change them."""
    model = copied(model)
    del model.graph.value_info[:]
    return model


def _sample_as_before(converted: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Let what was Upsample, or Resize of opset 10, find its places as it did before the conversion."""
    old = {one.output[0] for one in model.graph.node if one.op_type == "Upsample"}
    if opset(model) == OLD_RESIZE_OPSET:
        old |= {one.output[0] for one in model.graph.node if one.op_type == "Resize"}
    for node in converted.graph.node:
        if node.op_type == "Resize" and node.output[0] in old:
            set_attribute(node, "coordinate_transformation_mode", "asymmetric")
            set_attribute(node, "nearest_mode", "floor")


def _with_trailing_ones(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of an opset below 7 whose constants broadcast from the last axis, not a named one."""
    if not any(
        one.name == "axis" for node in model.graph.node if _broadcasts(node) for one in node.attribute
    ):
        return model
    ranks = {name: len(shape) for name, shape in shapes(model).items()}
    model = copied(model)
    known = constants(model)
    for node in model.graph.node:
        axis = attributes(node).get("axis") if _broadcasts(node) else None
        if axis is None or node.input[1] not in known or node.input[0] not in ranks:
            continue
        array = numpy_helper.to_array(known[node.input[1]])
        missing = ranks[node.input[0]] - axis % ranks[node.input[0]] - array.ndim
        name = Names(model).fresh(f"{node.input[1]}.wide")
        wide = array.reshape(*array.shape, *[1] * max(0, missing))
        model.graph.initializer.append(numpy_helper.from_array(wide, name))
        node.input[1] = name
        drop_attributes(node, "axis")
    return model


def _broadcasts(node: onnx.NodeProto) -> bool:
    return bool(attributes(node).get("broadcast", 0)) and len(node.input) == 2

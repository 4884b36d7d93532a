"""Which operators of an ONNX model cannot be served, and why: told before TVM meets them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto
from tvm.relax.frontend.onnx import onnx_frontend

from veltair.compiler.frontend.converters import CONVERTERS
from veltair.compiler.frontend.graph import STANDARD, attributes, inferred, node_name
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.frontend.recurrent import GATES

# ONNX Runtime's operators that TVM's importer has; it goes by their names alone, whatever the domain.
CONTRIBUTED = {
    "com.microsoft": {
        "Attention",
        "BiasGelu",
        "EmbedLayerNormalization",
        "FastGelu",
        "Gelu",
        "SkipLayerNormalization",
    }
}
# Operators of both domains that the importer has right for both.
BOTH = {"Gelu"}
_OF_VALUES = "the shape of its output depends on the input"
_RANDOM = "its output differs from query to query"
_SEQUENCE = "it makes or takes sequences or optional values; tensors alone are served"
_TEXT = "it works on text"
# The importer takes some of these, but what it makes of them cannot be compiled into layers.
REASONS = {
    **dict.fromkeys(("If", "Loop", "Scan", "SequenceMap"), "which layers run must not depend on the input"),
    **dict.fromkeys(("AllClassNMS", "Compress", "NonMaxSuppression", "NonZero", "Unique"), _OF_VALUES),
    **dict.fromkeys(
        (
            "Bernoulli",
            "Multinomial",
            "RandomNormal",
            "RandomNormalLike",
            "RandomUniform",
            "RandomUniformLike",
        ),
        _RANDOM,
    ),
    **dict.fromkeys(
        (
            *("Optional", "OptionalGetElement", "OptionalHasElement", "SequenceAt", "SequenceConstruct"),
            *("SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SplitToSequence"),
            "ConcatFromSequence",
        ),
        _SEQUENCE,
    ),
    **dict.fromkeys(("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"), _TEXT),
    **dict.fromkeys(("TfIdfVectorizer", "ImageDecoder"), _TEXT),
    "TopK": "TVM has no kernel for it",
    "MaxUnpool": "TVM has no kernel for it",
}
# Element types in which kernels compute as ONNX Runtime does. Others are named with the node that makes them.
SERVED_TYPES = {
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.BOOL,
    *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
    *(TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64),
}
# How many nodes of one operator a message names.
NAMED = 3


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A node that cannot be served: its name (if it has none, its output's), its operator and the reason."""

    node: str
    operator: str
    reason: str


def unsupported_operators(model: onnx.ModelProto) -> tuple[Unsupported, ...]:
    """Return every node that cannot be served, in the order of the model.

    Bodies of If, Loop and Scan are not looked into: those are unsupported themselves.
    """
    outputs = {value.name for value in model.graph.output}
    wanted = outputs.union(*(node.input for node in model.graph.node)) - {""}  # "" is an input left out
    kinds = _kinds(model)
    found = []
    for node in model.graph.node:
        reason = _reason_of_form(node, outputs, wanted) or _reason(node) or _reason_of_type(node, kinds)
        if reason:
            operator = node.op_type if node.domain in STANDARD else f"{node.domain}.{node.op_type}"
            found.append(Unsupported(node_name(node), operator, reason))
    return tuple(found)


def check_operators(model: onnx.ModelProto, name: str) -> None:
    """Raise ModelError if any operator cannot be served; it names them all, in one line."""
    _refuse(unsupported_operators(model), name)


def check_known(model: onnx.ModelProto, name: str) -> None:
    """Raise ModelError if any operator is known to nobody here, before ONNX and its Runtime meet it.

    It names all that cannot be served, but those that may be gone once constants are folded.
    """
    functions = {one.name for one in model.functions}
    nodes = [node for node in model.graph.node if node.op_type not in functions]
    if any(map(_is_unknown, nodes)):
        _refuse([one for one in unsupported_operators(model) if one.operator not in (*functions, "If")], name)


def _is_unknown(node: onnx.NodeProto) -> bool:
    if node.domain in STANDARD:
        return not onnx.defs.has(node.op_type, "")
    return node.op_type not in CONTRIBUTED.get(node.domain, ())


def _refuse(unsupported: Iterable[Unsupported], name: str) -> None:
    groups: dict[tuple[str, str], list[str]] = {}
    for one in unsupported:
        groups.setdefault((one.operator, one.reason), []).append(one.node)
    if not groups:
        return
    listed = []
    for (operator, reason), nodes in groups.items():
        more = f" and {len(nodes) - NAMED} more" if len(nodes) > NAMED else ""
        where = f"node{'s' if len(nodes) > 1 else ''} {', '.join(nodes[:NAMED])}{more}"
        listed.append(f"operator {operator} of {where} is not supported: {reason}")
    raise ModelError(f"{name}: {'; '.join(listed)}. Replace it in the export, or end the model before it")


def is_known(operator: str) -> bool:
    """Tell whether the importer, ours or TVM's, has an operator of the standard domain."""
    if operator in CONTRIBUTED["com.microsoft"] and operator not in BOTH:
        return False  # it would take ONNX's for ONNX Runtime's of the same name
    # The importer's own list; it has no public form.
    return operator in CONVERTERS or operator in GATES or operator in onnx_frontend._get_convert_map()


def is_function(operator: str, version: int) -> bool:
    """Tell whether ONNX defines an operator by others, which can stand for it."""
    try:
        schema = onnx.defs.get_schema(operator, version, "")
    except onnx.defs.SchemaError:
        return False
    # Properties that the package has no types of.
    kinds = ("has_function", "has_context_dependent_function")
    return any(getattr(schema, kind) for kind in kinds)


def _reason(node: onnx.NodeProto) -> str:
    if node.domain not in STANDARD and node.op_type not in CONTRIBUTED.get(node.domain, ()):
        return f"custom operator of the domain {node.domain}"
    if node.op_type in REASONS and node.domain in STANDARD:
        return REASONS[node.op_type]
    known = is_known(node.op_type) or is_function(node.op_type, onnx.defs.onnx_opset_version())
    if node.domain in STANDARD and not known:
        return "TVM's ONNX importer does not know it"
    return ""


def _reason_of_form(node: onnx.NodeProto, outputs: set[str], wanted: set[str]) -> str:
    """Return why a node cannot be served as it is written, though others of its operator can."""
    if node.domain not in STANDARD or node.op_type not in FORMS:
        return ""
    return FORMS[node.op_type](node, attributes(node), outputs, wanted)


def _dropout(node: onnx.NodeProto, given: Mapping[str, Any], outputs: set[str], wanted: set[str]) -> str:
    if wanted.intersection(node.output[1:]):
        return "its mask is used, as in training"
    return "it makes an output of the model, as in training" if outputs.intersection(node.output) else ""


def _batch_norm(node: onnx.NodeProto, given: Mapping[str, Any], outputs: set[str], wanted: set[str]) -> str:
    if given.get("training_mode", 0) or wanted.intersection(node.output[1:]):
        return "it is in training mode; export the model in evaluation mode (model.eval())"
    return ""


def _max_pool(node: onnx.NodeProto, given: Mapping[str, Any], outputs: set[str], wanted: set[str]) -> str:
    return (
        "its Indices are used; only its maxima are computed" if wanted.intersection(node.output[1:]) else ""
    )


def _local_response(
    node: onnx.NodeProto, given: Mapping[str, Any], outputs: set[str], wanted: set[str]
) -> str:
    size = int(given.get("size", 1))
    return "" if size % 2 else f"its size {size} is even, which ONNX Runtime does not compute; make it odd"


def _normalization(
    node: onnx.NodeProto, given: Mapping[str, Any], outputs: set[str], wanted: set[str]
) -> str:
    return (
        "its mean or deviation is used; only what it normalises"
        if wanted.intersection(node.output[1:])
        else ""
    )


def _quantize(node: onnx.NodeProto, given: Mapping[str, Any], outputs: set[str], wanted: set[str]) -> str:
    return (
        "it has a scale a block (block_size); quantise by tensor or channel"
        if given.get("block_size")
        else ""
    )


Form = Callable[[onnx.NodeProto, Mapping[str, Any], set[str], set[str]], str]
FORMS: dict[str, Form] = {
    "Dropout": _dropout,
    "BatchNormalization": _batch_norm,
    "MaxPool": _max_pool,
    "LRN": _local_response,
    "LayerNormalization": _normalization,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _quantize,
}


def _kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element types of values; of those that are none of a tensor, nothing."""
    try:
        graph = inferred(model)
    except Exception:  # a model that is not valid is named as such elsewhere
        return {}
    listed = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in listed}


def _reason_of_type(node: onnx.NodeProto, kinds: Mapping[str, int]) -> str:
    for output in node.output:
        kind = kinds.get(output, 0)
        if kind and kind not in SERVED_TYPES:
            name = TensorProto.DataType.Name(kind).lower()
            return f"it makes {name}, in which no kernel computes; export the model in float32"
    return ""

"""Which operators of an ONNX model cannot be served, and why: told before TVM meets them."""

from dataclasses import dataclass

import onnx
from tvm.relax.frontend.onnx import onnx_frontend

from veltair.compiler.frontend.onnx_passes import ModelError

STANDARD = ("", "ai.onnx")
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
# The importer takes these, but what it makes of them cannot be compiled into layers.
REASONS = {
    **dict.fromkeys(("If", "Loop", "Scan"), "which layers run must not depend on the input"),
    **dict.fromkeys(
        ("AllClassNMS", "Compress", "NonMaxSuppression", "NonZero", "Unique"),
        "the shape of its output depends on the input",
    ),
    "TopK": "TVM has no kernel for it",
}


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A node that cannot be served: its name (if it has none, its output's), its operator and the reason."""

    node: str
    operator: str
    reason: str


def unsupported_operators(model: onnx.ModelProto) -> tuple[Unsupported, ...]:
    """Return every node whose operator cannot be served, in the order of the model.

    Bodies of If, Loop and Scan are not looked into: those are unsupported themselves.
    """
    outputs = {value.name for value in model.graph.output}
    wanted = outputs.union(*(node.input for node in model.graph.node)) - {""}  # "" is an input left out
    found = []
    for node in model.graph.node:
        reason = _reason_of_dropout(node, outputs, wanted) or _reason(node)
        if reason:
            operator = node.op_type if node.domain in STANDARD else f"{node.domain}.{node.op_type}"
            found.append(Unsupported(node.name or next(iter(node.output), "?"), operator, reason))
    return tuple(found)


def check_operators(model: onnx.ModelProto, name: str) -> None:
    """Raise ModelError if any operator cannot be served; it names them all, in one line."""
    groups: dict[tuple[str, str], list[str]] = {}
    for one in unsupported_operators(model):
        groups.setdefault((one.operator, one.reason), []).append(one.node)
    if not groups:
        return
    listed = []
    for (operator, reason), nodes in groups.items():
        where = f"node{'s' if len(nodes) > 1 else ''} {', '.join(nodes)}"
        listed.append(f"operator {operator} of {where} is not supported: {reason}")
    raise ModelError(f"{name}: {'; '.join(listed)}. Replace it in the export, or end the model before it")


def _reason(node: onnx.NodeProto) -> str:
    if node.domain not in STANDARD and node.op_type not in CONTRIBUTED.get(node.domain, ()):
        return f"custom operator of the domain {node.domain}"
    if node.op_type in REASONS:
        return REASONS[node.op_type]
    # The importer's own list; it has no public form.
    if node.op_type not in onnx_frontend._get_convert_map():
        return "TVM's ONNX importer does not know it"
    return ""


def _reason_of_dropout(node: onnx.NodeProto, outputs: set[str], wanted: set[str]) -> str:
    """Return why a Dropout cannot simply be removed, if it cannot."""
    if node.op_type != "Dropout" or node.domain not in STANDARD:
        return ""
    if wanted.intersection(node.output[1:]):
        return "its mask is used, as in training"
    return "it makes an output of the model, as in training" if outputs.intersection(node.output) else ""

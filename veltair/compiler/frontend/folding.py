"""Compute what does not depend on the inputs, once and before all else, as ONNX Runtime does it."""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnxruntime

from veltair.compiler.frontend.graph import NEWEST_OPSET, STANDARD, opset
from veltair.compiler.frontend.model_error import ModelError, one_line

# What does not depend on the values of its inputs, once shapes are fixed.
OF_SHAPES = {"Shape", "Size"}
# Their outputs differ from call to call.
RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}
# Optimisers of ONNX Runtime's basic level that we leave out: they change which operators compute a result,
# while we want constants only; what fuses, our own passes and TVM decide.
LEFT_OUT = [
    *("CommonSubexpressionElimination", "ConstantSharing", "TransposeOptimizer", "QDQPropagationTransformer"),
    *("EnsureUniqueDQForNodeUnit", "DoubleQDQPairsRemover", "WeightBiasQuantization", "ConvAddFusion"),
    *("ConvMulFusion", "ConvBNFusion", "ConvActivationFusion", "MatmulBNFusion", "GemmSumFusion"),
    *("GemmTransposeFusion", "MatMulAddFusion", "PadFusion", "DivMulFusion", "ReluQuantFusion"),
    "NotWhereFusion",
    *("ReshapeFusion", "GeluFusionL1", "LayerNormFusionL1", "MatMulTransposeFusion", "BiasGeluFusion"),
    *("ConcatSliceElimination", "GatherSliceToSplitFusion", "GatherToSliceFusion", "GatherToSplitFusion"),
]  # fmt: skip


def fold_constants(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return the model with all that is constant as initialisers, an If of a constant condition included.

    It is the model itself where nothing is. Raises ModelError if ONNX Runtime cannot open the model.
    """
    if not _is_foldable(model):
        return model
    with TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        open_session(model, name, folded=path)
        folded = onnx.load(path)
    # It keeps neither these nor, in some versions, the names of nodes.
    del folded.metadata_props[:]
    folded.metadata_props.extend(model.metadata_props)
    used = {node.domain for node in folded.graph.node}
    kept = [entry for entry in folded.opset_import if entry.domain in STANDARD or entry.domain in used]
    del folded.opset_import[:]
    folded.opset_import.extend(kept)
    _order_as(folded, model)
    return folded


def _order_as(folded: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Put the nodes in the order that they had, which ONNX Runtime changes; new ones as soon as they can be.

    The order of layers and of their inputs follows from it, and by those shipped candidates are found.
    """
    places = {made: number for number, node in enumerate(model.graph.node) for made in node.output if made}
    nodes = list(folded.graph.node)
    makers = {made: number for number, node in enumerate(nodes) for made in node.output if made}
    waits = [{makers[given] for given in _reads(node) if given in makers} for node in nodes]
    readers: dict[int, list[int]] = {}
    for number, wanted in enumerate(waits):
        for maker in wanted:
            readers.setdefault(maker, []).append(number)
    ready = [(places.get(nodes[number].output[0], -1), number) for number, one in enumerate(waits) if not one]
    heapify(ready)
    ordered = []
    while ready:
        _, number = heappop(ready)
        ordered.append(nodes[number])
        for reader in readers.get(number, ()):
            waits[reader].discard(number)
            if not waits[reader]:
                heappush(ready, (places.get(nodes[reader].output[0], -1), reader))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del folded.graph.node[:]
    folded.graph.node.extend(copies)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the values that a node reads, its bodies too."""
    yield from node.input
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for one in body.node:
                yield from _reads(one)


def open_session(
    model: onnx.ModelProto, name: str, level: str = "BASIC", folded: Path | None = None, threads: int = 0
) -> Any:
    """Return a session of a model at a level of optimisation: "DISABLE_ALL", "BASIC" or "ALL".

    `folded` is where the model that it then runs is written. Raises ModelError with ONNX Runtime's reason.
    """
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    key = level if level == "DISABLE_ALL" else f"ENABLE_{level}"
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{key}")
    left_out: list[str] = []
    if folded is not None:
        options.optimized_model_filepath = str(folded)
        # Else weights that are stored as int8 are not folded.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        left_out = LEFT_OUT
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=left_out,
        )
    except Exception as error:  # its classes have no common one of their own
        advice = f"; export it with opset {NEWEST_OPSET} or older" if opset(model) > NEWEST_OPSET else ""
        raise ModelError(f"{name}: ONNX Runtime refuses the model: {one_line(error)}{advice}") from error


def _is_foldable(model: onnx.ModelProto) -> bool:
    known = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        inputs = [given for given in node.input if given]
        if node.op_type in OF_SHAPES or (node.op_type == "If" and node.input[0] in known):
            return True
        if node.op_type not in RANDOM and all(given in known for given in inputs):
            return True
    return False

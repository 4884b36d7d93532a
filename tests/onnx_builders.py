"""Small ONNX graphs, and running them in ONNX Runtime, for tests."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str]


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **options: Any) -> onnx.NodeProto:
    """Return a node named after its first output."""
    return helper.make_node(
        operator, list(inputs), list(outputs), **{"name": f"{outputs[0]}_node", **options}
    )


def make_onnx(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape | None],
    constants: Mapping[str, NDArray[Any]] | None = None,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """Return a model of float32 tensors."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        initializer=[numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    versions = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=versions, ir_version=8)


def run_onnx(model: onnx.ModelProto, sample: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return the outputs of a model with one input, without ONNX Runtime's own rewrites."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    outputs: list[NDArray[np.float32]] = session.run(None, {session.get_inputs()[0].name: sample})
    return outputs


def relative_error(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Return the largest deviation over the largest value."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())

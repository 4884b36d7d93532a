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
    types: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """Return a model whose inputs and outputs are float32, but those with other `types` of TensorProto."""
    kinds = types or {}
    ends = (
        [
            helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)
            for name, shape in values.items()
        ]
        for values in (inputs, outputs)
    )
    graph = helper.make_graph(
        list(nodes),
        "test",
        *ends,
        initializer=[numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    versions = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=versions, ir_version=8)


def run_onnx(model: onnx.ModelProto, *samples: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the outputs of a model to an array for each input, without ONNX Runtime's own rewrites."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [value.name for value in session.get_inputs()]
    outputs: list[NDArray[Any]] = session.run(None, dict(zip(names, samples, strict=True)))
    return outputs


def relative_error(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Return the largest deviation over the largest value, or over 1 of zeros."""
    deviation = np.abs(np.subtract(found, wanted, dtype=np.float64)).max()
    return float(deviation / (np.abs(wanted.astype(np.float64)).max() or 1.0))

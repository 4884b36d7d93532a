"""Small networks with seeded weights, by what matters in a service: bytes of a body, arithmetic, weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR = 17, 8


class _Graph:
    """Nodes and weights of a network whose layers follow one another."""

    def __init__(self, shape: Sequence[int], seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._shape, self._last = list(shape), "input"

    def node(self, kind: str, weights: Sequence[tuple[int, ...]] = (), **attributes: Any) -> None:
        """Add a layer behind the last one."""
        place = len(self._nodes)
        names = []
        for number, shape in enumerate(weights):
            name = f"weight_{place}_{number}"
            scale = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.0
            values = (scale * self._generator.standard_normal(shape)).astype(np.float32)
            self._weights.append(numpy_helper.from_array(values, name))
            names.append(name)
        output = f"layer_{place}"
        self._nodes.append(helper.make_node(kind, [self._last, *names], [output], **attributes))
        self._last = output

    def dense(self, inputs: int, outputs: int) -> None:
        """Add a dense layer."""
        self.node("Gemm", [(outputs, inputs), (outputs,)], transB=1)

    def content(self, outputs: int) -> bytes:
        """Return the bytes of an ONNX file whose output has shape (1, outputs)."""
        given = helper.make_tensor_value_info("input", TensorProto.FLOAT, self._shape)
        made = helper.make_tensor_value_info(self._last, TensorProto.FLOAT, [1, outputs])
        graph = helper.make_graph(self._nodes, "network", [given], [made], self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
        content: bytes = model.SerializeToString(deterministic=True)
        return content


def image_network(height: int, width: int, stride: int, channels: int = 16, convolutions: int = 0) -> bytes:
    """Return one of an input (1, 3, height, width): a convolution, as many more, a mean and ten outputs."""
    graph = _Graph((1, 3, height, width), seed=height)
    graph.node("Conv", [(channels, 3, 3, 3), (channels,)], pads=[1] * 4, strides=[stride] * 2)
    graph.node("Relu")
    for _ in range(convolutions):
        graph.node("Conv", [(channels, channels, 3, 3), (channels,)], pads=[1] * 4)
        graph.node("Relu")
    graph.node("GlobalAveragePool")
    graph.node("Flatten", axis=1)
    graph.dense(channels, 10)
    return graph.content(10)


def dense_network(width: int, layers: int) -> bytes:
    """Return one of dense layers of one width, 4 * layers * width² bytes of weights."""
    graph = _Graph((1, width), seed=width)
    for _ in range(layers):
        graph.dense(width, width)
        graph.node("Relu")
    return graph.content(width)

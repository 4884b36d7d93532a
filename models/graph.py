"""A small recorder of ONNX graphs: each method appends nodes and returns the name of their output.

Weights are drawn from one generator per model, so a model is the same bytes on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8


@dataclass
class GraphRecorder:
    """Records nodes and initialisers of one model; `seed` fixes all weights."""

    name: str
    seed: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def weight(self, name: str, shape: Sequence[int], scale: float) -> str:
        """Add a normal float32 initialiser of standard deviation `scale`."""
        values = self._random.standard_normal(tuple(shape), dtype=np.float32)
        return self.constant(name, values * np.float32(scale))

    def constant(self, name: str, values: NDArray[np.float32] | NDArray[np.int64]) -> str:
        """Add an initialiser with the given values."""
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Append one node with a single output named after it."""
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def conv(
        self,
        source: str,
        name: str,
        channels: tuple[int, int],
        *,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        gain: float = 2.0,
    ) -> str:
        """Append a convolution without bias and its BatchNormalization, `kernel // 2` zeros around."""
        inner, outer = channels
        fan_in = inner // groups * kernel * kernel
        weight = self.weight(
            f"{name}.weight", (outer, inner // groups, kernel, kernel), (gain / fan_in) ** 0.5
        )
        convolved = self.node(
            "Conv",
            [source, weight],
            f"{name}.conv",
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
            group=groups,
        )
        return self.batch_norm(convolved, name, outer)

    def batch_norm(self, source: str, name: str, channels: int) -> str:
        """Append an inference BatchNormalization whose statistics are near those of a trained one."""
        draw = self._random.standard_normal((4, channels), dtype=np.float32)
        statistics = {
            "gamma": 1 + np.float32(0.1) * draw[0],
            "beta": np.float32(0.1) * draw[1],
            "mean": np.float32(0.1) * draw[2],
            "var": 1 + np.float32(0.1) * np.abs(draw[3]),
        }
        names = [self.constant(f"{name}.bn.{key}", value) for key, value in statistics.items()]
        return self.node("BatchNormalization", [source, *names], f"{name}.bn", epsilon=1e-5)

    def clip(self, source: str, name: str, low: float, high: float) -> str:
        """Append a Clip (ReLU6 is clip to 0 … 6)."""
        bounds = [
            self.constant(f"{name}.{end}", np.array(value, dtype=np.float32))
            for end, value in (("min", low), ("max", high))
        ]
        return self.node("Clip", [source, *bounds], name)

    def dense(self, source: str, name: str, channels: tuple[int, int]) -> str:
        """Append a fully connected layer with bias."""
        inner, outer = channels
        weight = self.weight(f"{name}.weight", (outer, inner), inner**-0.5)
        bias = self.weight(f"{name}.bias", (outer,), 0.1)
        return self.node("Gemm", [source, weight, bias], name, transB=1)

    def model(self, input_shape: Sequence[int], output: str, output_shape: Sequence[int]) -> onnx.ModelProto:
        """Return the checked model with one float32 input named `input` and one output."""
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, list(input_shape))],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, list(output_shape))],
            initializer=self.initializers,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="veltair-models",
        )
        onnx.checker.check_model(model, full_check=True)
        return model

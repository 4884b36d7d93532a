"""A small recorder of ONNX graphs: each method appends nodes and returns the name of their output.

Weights are drawn from one generator per model, so a model is the same bytes on every machine.
"""

from collections.abc import Mapping, Sequence
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
    """Records nodes and initialisers of one model.

    `seed` fixes all weights; `epsilon` is what each BatchNormalization adds to its variances.
    """

    name: str
    seed: int
    epsilon: float = 1e-5
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
        weight = self._conv_weight(name, channels, kernel, groups, gain)
        convolved = self._conv([source, weight], f"{name}.conv", kernel, stride, groups=groups)
        return self.batch_norm(convolved, name, channels[1])

    def biased_conv(
        self,
        source: str,
        name: str,
        channels: tuple[int, int],
        *,
        kernel: int,
        stride: int = 1,
        padding: int | None = None,
        gain: float = 1.0,
    ) -> str:
        """Append a convolution with bias; around it are `padding` zeros, `kernel // 2` if it is None."""
        weight = self._conv_weight(name, channels, kernel, 1, gain)
        bias = self.weight(f"{name}.bias", (channels[1],), 0.1)
        return self._conv([source, weight, bias], name, kernel, stride, padding=padding)

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
        return self.node("BatchNormalization", [source, *names], f"{name}.bn", epsilon=self.epsilon)

    def clip(self, source: str, name: str, low: float, high: float) -> str:
        """Append a Clip (ReLU6 is clip to 0 … 6)."""
        bounds = [
            self.constant(f"{name}.{end}", np.array(value, dtype=np.float32))
            for end, value in (("min", low), ("max", high))
        ]
        return self.node("Clip", [source, *bounds], name)

    def swish(self, source: str, name: str) -> str:
        """Append x * sigmoid(x), the form in which exporters write it at this opset."""
        gate = self.node("Sigmoid", [source], f"{name}.sigmoid")
        return self.node("Mul", [source, gate], name)

    def dense(self, source: str, name: str, channels: tuple[int, int]) -> str:
        """Append a fully connected layer with bias."""
        inner, outer = channels
        weight = self.weight(f"{name}.weight", (outer, inner), inner**-0.5)
        bias = self.weight(f"{name}.bias", (outer,), 0.1)
        return self.node("Gemm", [source, weight, bias], name, transB=1)

    def model(
        self,
        input_shape: Sequence[int],
        output: str,
        output_shape: Sequence[int],
        more_outputs: Mapping[str, Sequence[int]] | None = None,
        integer_inputs: Mapping[str, tuple[Sequence[int], int]] | None = None,
    ) -> onnx.ModelProto:
        """Return the checked model with `output` and any further outputs; the recorder has no weights left.

        Its inputs are one float32 input named `input` (none if `input_shape` is empty), then the int64 ones:
        name -> shape and largest value, which the model's metadata states as `range.NAME` = "0 LARGEST".
        """
        integers = integer_inputs or {}
        inputs = [
            (TensorProto.FLOAT, {"input": input_shape} if input_shape else {}),
            (TensorProto.INT64, {name: shape for name, (shape, _) in integers.items()}),
        ]
        outputs = [(TensorProto.FLOAT, {output: output_shape, **(more_outputs or {})})]
        first, last = (
            [
                helper.make_tensor_value_info(name, kind, list(shape))
                for kind, shapes in values
                for name, shape in shapes.items()
            ]
            for values in (inputs, outputs)
        )
        model = helper.make_model(
            helper.make_graph(self.nodes, self.name, first, last),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="veltair-models",
        )
        # Weights may be gigabytes: each is given away as it is copied.
        self.initializers.reverse()
        while self.initializers:
            model.graph.initializer.append(self.initializers.pop())
        helper.set_model_props(model, {f"range.{name}": f"0 {top}" for name, (_, top) in integers.items()})
        onnx.checker.check_model(model, full_check=True)
        return model

    def _conv_weight(
        self, name: str, channels: tuple[int, int], kernel: int, groups: int, gain: float
    ) -> str:
        inner, outer = channels
        fan_in = inner // groups * kernel * kernel
        shape = (outer, inner // groups, kernel, kernel)
        return self.weight(f"{name}.weight", shape, (gain / fan_in) ** 0.5)

    def _conv(
        self,
        inputs: Sequence[str],
        name: str,
        kernel: int,
        stride: int,
        *,
        groups: int = 1,
        padding: int | None = None,
    ) -> str:
        return self.node(
            "Conv",
            inputs,
            name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2 if padding is None else padding] * 4,
            group=groups,
        )

"""Layers of one convolution: imported from ONNX, and answered by ONNX Runtime."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from tests.support.compiler.recipe_kernels import Answered, Array
from tests.support.onnx_builders import make_onnx, node, run_onnx
from veltair.compiler.frontend.importer import ImportedModel, LayerCall, Source, import_model

ENDINGS = ("none", "bias", "relu", "prelu", "relu6", "swish", "residual")


@dataclass(frozen=True, slots=True)
class Case:
    """A convolution with what follows it; sizes are (rows, columns), `pads` are top, left, bottom, right."""

    size: tuple[int, int] = (8, 8)
    channels: int = 8
    out_channels: int = 8
    kernel: tuple[int, int] = (3, 3)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    batch: int = 1
    ending: str = "none"
    seed: int = 0

    @property
    def out_size(self) -> tuple[int, int]:
        """Rows and columns of the output; not above 0 if the kernel is larger than the padded data."""
        top, left, bottom, right = self.pads
        rows, columns = (
            (size + pad - (kernel - 1) * dilation - 1) // stride + 1
            for size, pad, kernel, dilation, stride in zip(
                self.size, (top + bottom, left + right), self.kernel, self.dilation, self.stride, strict=True
            )
        )
        return rows, columns


def model_of(case: Case) -> onnx.ModelProto:
    """Return a case as a network; a residual is a second input of the output's shape."""
    random = np.random.default_rng(case.seed)
    shape = (case.batch, case.out_channels, *case.out_size)
    inputs = {"x": (case.batch, case.channels, *case.size)}
    constants = {
        "w": _weights(random, case.out_channels, case.channels // case.groups, *case.kernel),
        "b": _weights(random, case.out_channels),
        "slope": _weights(random, case.out_channels, 1, 1),
        "low": np.array(0.0, np.float32),
        "high": np.array(6.0, np.float32),
    }
    convolution = node(
        "Conv",
        ["x", "w"] if case.ending == "none" else ["x", "w", "b"],
        ["y" if case.ending in ("none", "bias") else "c"],
        pads=case.pads,
        strides=case.stride,
        dilations=case.dilation,
        group=case.groups,
    )
    nodes = [convolution, *_ENDINGS[case.ending]]
    if case.ending == "residual":
        inputs["r"] = shape
    used = {name for one in nodes for name in one.input}
    kept = {name: value for name, value in constants.items() if name in used}
    return make_onnx(nodes, inputs, {"y": shape}, kept)


def convolution_call(model: onnx.ModelProto) -> tuple[ImportedModel, LayerCall]:
    """Return a network, imported, and its one layer of a convolution."""
    imported = import_model("one", model, 1.0)
    (call,) = (
        call
        for layer, call in zip(imported.model.layers, imported.calls, strict=True)
        if "conv2d" in layer.name
    )
    return imported, call


def function_of(case: Case) -> Any:
    """Return the unscheduled function of a case."""
    return convolution_call(model_of(case))[1].function


def answered(case: Case) -> Answered:
    """Return a case with random inputs and ONNX Runtime's answer to them."""
    return answered_model(model_of(case), case.seed)


def answered_model(model: onnx.ModelProto, seed: int = 0) -> Answered:
    """Return the layer of a network of one convolution with random inputs, and ONNX Runtime's answer."""
    imported, call = convolution_call(model)
    others = [layer.name for layer in imported.model.layers if "conv2d" not in layer.name]
    if not all(name.endswith("-transpose") for name in others):
        raise ValueError(f"more than layouts is computed outside of the convolution's layer: {others}")
    random = np.random.default_rng(seed + 1)
    samples = [random.standard_normal(one.shape).astype(np.float32) for one in imported.inputs]
    (answer,) = run_onnx(model, *samples)
    arguments = [
        _as_given(imported, source, samples) if isinstance(source, Source) else source
        for source in call.inputs
    ]
    return Answered(call.function, tuple(arguments), np.ascontiguousarray(answer.transpose(0, 2, 3, 1)))


def _as_given(imported: ImportedModel, source: Source, samples: Sequence[Array]) -> Array:
    """Return what a layer reads of a sample: it, or what the layer before gives, with channels last."""
    shape: tuple[int, ...] | None = None
    while source.layer >= 0:
        call = imported.calls[source.layer]
        shape, source = shape or call.outputs[source.output], call.inputs[0]  # type: ignore[assignment]
    sample = samples[source.output]
    if shape is None:
        return sample
    return np.ascontiguousarray(sample.transpose(0, 2, 3, 1).reshape(shape))


def _weights(random: np.random.Generator, *shape: int) -> Array:
    return random.standard_normal(shape).astype(np.float32)


_ENDINGS: dict[str, list[onnx.NodeProto]] = {
    "none": [],
    "bias": [],
    "relu": [node("Relu", ["c"], ["y"])],
    "prelu": [node("PRelu", ["c", "slope"], ["y"])],
    "relu6": [node("Clip", ["c", "low", "high"], ["y"])],
    "swish": [node("Sigmoid", ["c"], ["s"]), node("Mul", ["c", "s"], ["y"])],
    "residual": [node("Add", ["c", "r"], ["s"]), node("Relu", ["s"], ["y"])],
}

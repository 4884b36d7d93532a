"""Operators that TVM's importer has wrong, lacks, or refuses in words of its own, beside ONNX Runtime."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.imports import INT64, chain, floats, normal, one, proof_of, whole
from tests.support.onnx_builders import make_onnx, node
from veltair.compiler.frontend.fix import fix
from veltair.compiler.frontend.importer import import_model
from veltair.compiler.frontend.model_error import ModelError

IMAGE, MATRIX, TOKENS = (1, 4, 9, 9), (2, 3), (1, 5, 8)
KERNEL = normal(8, 4, 3, 3)
Make = Callable[[], onnx.ModelProto]


def attribute_without_values(operator: str, name: str, **options: Any) -> onnx.ModelProto:
    model = one(operator, IMAGE, (1, 2, 7, 7), normal(2, 4, 3, 3), **options)
    empty = helper.make_attribute(name, [], attr_type=onnx.AttributeProto.INTS)
    model.graph.node[0].attribute.append(empty)
    return model


def skip(*, bias: bool = False, total: bool = True) -> onnx.ModelProto:
    """Return ONNX Runtime's SkipLayerNormalization, whose sum is read too."""
    inputs = ["x", "s", "g", "b", *(["e"] if bias else [])]
    sums = node(
        "SkipLayerNormalization", inputs, ["z", "", "", "sum"] if total else ["z"], domain="com.microsoft"
    )
    constants = {"g": normal(8), "b": normal(8, seed=1), "s": normal(*TOKENS, seed=2), "e": normal(8, seed=3)}
    last = node("Add", ["z", "sum"], ["y"]) if total else node("Relu", ["z"], ["y"])
    kept = {name: value for name, value in constants.items() if name in inputs}
    return make_onnx([sums, last], {"x": TOKENS}, {"y": TOKENS}, kept, domains=["com.microsoft"])


RIGHT: dict[str, Make] = {
    # Variadic operators: stacked and reduced by TVM's importer.
    "max of two": lambda: one("Max", MATRIX, MATRIX, normal(2, 3)),
    "max of one": lambda: chain(("Max", "x", "h"), ("Relu", "h", "y"), shape=MATRIX, made=MATRIX),
    "max with a scalar": lambda: one("Max", MATRIX, MATRIX, np.float32(0.1)),
    "max of three that broadcast": lambda: one("Max", MATRIX, MATRIX, np.float32(0.1), normal(3)),
    "max that broadcasts its input": lambda: one("Max", (3,), MATRIX, normal(2, 1)),
    "max of whole numbers": lambda: one(
        "Max", MATRIX, MATRIX, whole(0, 1, 2), kinds={"x": INT64, "y": INT64}
    ),
    "min of two": lambda: one("Min", MATRIX, MATRIX, normal(2, 3)),
    "mean of two": lambda: one("Mean", MATRIX, MATRIX, normal(2, 3)),
    "mean of three": lambda: one("Mean", MATRIX, MATRIX, normal(2, 3), normal(3)),
    "sum of one": lambda: chain(("Sum", "x", "h"), ("Relu", "h", "y"), shape=MATRIX, made=MATRIX),
    "max after convolutions": lambda: chain(
        ("Conv", "x k", "a"),
        ("Conv", "x k2", "b"),
        ("Max", "a b", "y"),
        shape=IMAGE,
        made=(1, 8, 7, 7),
        constants={"k": KERNEL, "k2": normal(8, 4, 3, 3, seed=1)},
    ),
    "ReLU6 as max and min": lambda: chain(
        ("Conv", "x k", "a"),
        ("Max", "a z", "b"),
        ("Min", "b six", "y"),
        shape=IMAGE,
        made=(1, 8, 7, 7),
        constants={"k": KERNEL, "z": np.float32(0), "six": np.float32(6)},
    ),
    # Bounds have the type of the data.
    "clip of int64": lambda: one(
        "Clip", (2, 30), (2, 30), np.array(-3), np.array(5), kinds={"x": INT64, "y": INT64}
    ),
    "clip of int32": lambda: one("Clip", (2, 30), (2, 30), np.int32(-3), np.int32(5), kinds={"x": 6, "y": 6}),
    "clip of one bound": lambda: one("Clip", (2, 30), (2, 30), None, np.float32(0.3)),
    "clip without bounds": lambda: chain(("Clip", "x", "h"), ("Relu", "h", "y"), shape=MATRIX, made=MATRIX),
    "clip of a bound that is computed": lambda: chain(
        ("ReduceMax", "x", "m", {"keepdims": 0}),
        ("Mul", "m half", "h"),
        ("Clip", "x low h", "y"),
        shape=(2, 30),
        made=(2, 30),
        constants={"half": np.float32(0.5), "low": np.float32(-1)},
    ),
    # Pads.
    "pooling that pads before": lambda: one(
        "MaxPool", IMAGE, (1, 4, 5, 5), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"
    ),
    "pooling of a width of 2 that pads before": lambda: one(
        "MaxPool", (1, 3, 13, 13), (1, 3, 13, 13), kernel_shape=[2, 2], auto_pad="SAME_LOWER"
    ),
    "averages that pad before": lambda: one(
        "AveragePool", IMAGE, (1, 4, 5, 5), kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER"
    ),
    "averages that count pads": lambda: one(
        "AveragePool",
        IMAGE,
        (1, 4, 5, 5),
        kernel_shape=[2, 2],
        strides=[2, 2],
        auto_pad="SAME_LOWER",
        count_include_pad=1,
    ),
    "dilated averages": lambda: one(
        "AveragePool", IMAGE, IMAGE, opset=19, kernel_shape=[3, 3], dilations=[2, 2], pads=[2, 2, 2, 2]
    ),
    "convolution that pads before": lambda: one(
        "Conv", IMAGE, (1, 8, 5, 5), KERNEL, strides=[2, 2], auto_pad="SAME_LOWER"
    ),
    "convolution of one dimension that pads": lambda: one(
        "Conv", (1, 4, 9), (1, 8, 5), normal(8, 4, 3), strides=[2], auto_pad="SAME_UPPER"
    ),
    "valid": lambda: one("Conv", IMAGE, (1, 8, 7, 7), KERNEL, auto_pad="VALID"),
    # Transposed convolutions.
    "an output shape": lambda: one(
        "ConvTranspose", IMAGE, (1, 6, 18, 18), normal(4, 6, 3, 3), strides=[2, 2], output_shape=[18, 18]
    ),
    "an output shape that crops much": lambda: one(
        "ConvTranspose", IMAGE, (1, 6, 16, 17), normal(4, 6, 3, 3), strides=[2, 2], output_shape=[16, 17]
    ),
    "an output shape with upper pads": lambda: one(
        "ConvTranspose",
        IMAGE,
        (1, 6, 18, 18),
        normal(4, 6, 3, 3),
        strides=[2, 2],
        output_shape=[18, 18],
        auto_pad="SAME_UPPER",
    ),
    "lower pads": lambda: one(
        "ConvTranspose", IMAGE, (1, 6, 18, 18), normal(4, 6, 3, 3), strides=[2, 2], auto_pad="SAME_LOWER"
    ),
    "a transposed convolution of one dimension": lambda: one(
        "ConvTranspose", (1, 4, 9), (1, 6, 19), normal(4, 6, 3), strides=[2]
    ),
    "a transposed convolution behind one": lambda: chain(
        ("Conv", "x k", "a"),
        ("ConvTranspose", "a t", "b", {"strides": [2, 2]}),
        ("Relu", "b", "y"),
        shape=IMAGE,
        made=(1, 6, 14, 14),
        constants={"k": KERNEL, "t": normal(8, 6, 2, 2)},
    ),
    "and one behind that": lambda: chain(
        ("Conv", "x k", "a"),
        ("ConvTranspose", "a t", "b", {"strides": [2, 2]}),
        ("Conv", "b k2", "y"),
        shape=IMAGE,
        made=(1, 3, 12, 12),
        constants={"k": KERNEL, "t": normal(8, 6, 2, 2), "k2": normal(3, 6, 3, 3)},
    ),
    # Scales of normalizations.
    "a scalar scale": lambda: one("LayerNormalization", TOKENS, TOKENS, normal(1), normal(1, seed=1)),
    "a scale a row": lambda: one("LayerNormalization", TOKENS, TOKENS, normal(8), normal(8, seed=1), axis=1),
    "a scale a column": lambda: one(
        "LayerNormalization", TOKENS, TOKENS, normal(5, 1), normal(8, seed=1), axis=1
    ),
    "a scale with dimensions of 1": lambda: one(
        "LayerNormalization", TOKENS, TOKENS, normal(1, 1, 8), normal(1, 1, 8, seed=1)
    ),
    "no bias": lambda: one("LayerNormalization", TOKENS, TOKENS, normal(8)),
    "root mean squares": lambda: one("RMSNormalization", TOKENS, TOKENS, normal(1), opset=23),
    "a skip that is read": skip,
    "a skip with a bias": lambda: skip(bias=True),
    "a skip alone": lambda: skip(total=False),
    # Types and axes.
    "a whole exponent": lambda: one("Pow", MATRIX, MATRIX, np.array(3)),
    "whole exponents": lambda: one("Pow", MATRIX, MATRIX, whole(1, 2, 3)),
    "an exponent of int32": lambda: one("Pow", MATRIX, MATRIX, np.int32(2)),
    "a negative axis": lambda: one("Squeeze", (1, 4, 1), (1, 4), whole(-1)),
    "two negative axes": lambda: one("Squeeze", (1, 4, 1, 1), (1, 4), whole(-1, -2)),
    "all axes": lambda: chain(("Squeeze", "x", "h"), ("Relu", "h", "y"), shape=(1, 4, 1, 9), made=(4, 9)),
    "division by nearly nothing": lambda: chain(
        ("Mul", "x s", "h"),
        ("Div", "h c", "y"),
        shape=TOKENS,
        made=TOKENS,
        constants={"s": np.float32(1e-5), "c": np.float32(1e-39)},
    ),
    "division by very much": lambda: chain(
        ("Mul", "x s", "h"),
        ("Div", "h c", "y"),
        shape=TOKENS,
        made=TOKENS,
        constants={"s": np.float32(1e38), "c": np.float32(3e38)},
    ),
    "a mask that is an output": lambda: chain(
        ("Where", "c x low", "y"),
        shape=TOKENS,
        made=TOKENS,
        constants={"c": np.arange(40).reshape(TOKENS) % 3 > 0, "low": np.float32(-np.inf)},
    ),
    # Sums along an axis.
    "a running sum": lambda: one("CumSum", (3, 4), (3, 4), np.array(1)),
    "a running sum of rows": lambda: one("CumSum", (3, 4), (3, 4), np.array(0)),
    "a running sum from the end": lambda: one("CumSum", (3, 4), (3, 4), np.array(-1), reverse=1, exclusive=1),
    "position ids": lambda: chain(
        ("CumSum", "x a", "s"),
        ("Gather", "t s", "y", {"axis": 0}),
        shape=(1, 4),
        made=(1, 4, 3),
        constants={"a": np.array(1), "t": normal(9, 3)},
        types={"x": INT64},
    ),
    # Operators that ONNX defines by others.
    "Celu": lambda: one("Celu", IMAGE, IMAGE),
    "Swish": lambda: one("Swish", IMAGE, IMAGE, opset=24),
    # Attributes that are empty lists.
    "no strides": lambda: attribute_without_values("Conv", "strides"),
    "no axes": lambda: one("ReduceMean", MATRIX, (1, 1), opset=13),
    # Quantised models are computed as they say.
    "weights of int8": lambda: chain(
        ("DequantizeLinear", "k s", "w", {"axis": 1}),
        ("MatMul", "x w", "y"),
        shape=(1, 3, 8),
        made=(1, 3, 4),
        constants={
            "k": np.random.default_rng(0).integers(-100, 100, (8, 4)).astype(np.int8),
            "s": floats(0.1, 0.2, 0.3, 0.4),
        },
    ),
    "values that are quantised and back": lambda: chain(
        ("QuantizeLinear", "x s z", "q"),
        ("DequantizeLinear", "q s z", "d"),
        ("Relu", "d", "y"),
        shape=IMAGE,
        made=IMAGE,
        constants={"s": np.float32(0.03), "z": np.uint8(128)},
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_tvm_has_wrong_is_right(name: str) -> None:
    proof = proof_of(RIGHT[name]())
    assert proof.error <= 1e-5


REFUSED: dict[str, tuple[Make, str]] = {
    "a normalization in training": (
        lambda: chain(
            ("Conv", "x k", "c"),
            ("BatchNormalization", "c g b m v", "y m2 v2", {"training_mode": 1, "name": "norm"}),
            shape=IMAGE,
            made=(1, 8, 7, 7),
            constants={"k": KERNEL, "g": normal(8), "b": normal(8), "m": normal(8), "v": np.abs(normal(8))},
        ),
        "operator BatchNormalization of node norm is not supported: it is in training mode; export the "
        "model in",
    ),
    "places of maxima": (
        lambda: make_onnx(
            [node("MaxPool", ["x"], ["y", "i"], name="pool", kernel_shape=[2, 2], strides=[2, 2])],
            {"x": (1, 4, 8, 8)},
            {"y": (1, 4, 4, 4), "i": (1, 4, 4, 4)},
            types={"i": INT64},
        ),
        "operator MaxPool of node pool is not supported: its Indices are used",
    ),
    "dilated pooling that pads itself": (
        lambda: one("MaxPool", IMAGE, IMAGE, kernel_shape=[3, 3], dilations=[2, 2], auto_pad="SAME_LOWER"),
        "node y_node (MaxPool) has dilations and auto_pad, of which ONNX Runtime computes another",
    ),
    "noise": (
        lambda: chain(
            ("RandomNormalLike", "x", "n", {"name": "noise"}), ("Add", "x n", "y"), shape=MATRIX, made=MATRIX
        ),
        "operator RandomNormalLike of node noise is not supported: its output differs from query to query",
    ),
    "an output shape beyond the input": (
        lambda: one(
            "ConvTranspose",
            IMAGE,
            (1, 6, 40, 40),
            normal(4, 6, 3, 3),
            strides=[2, 2],
            output_shape=[40, 40],
            name="up",
        ),
        "net: node up (ConvTranspose) has output_shape [40, 40], larger than what it computes",
    ),
    "a constant output": (
        lambda: make_onnx(
            [node("Relu", ["x"], ["y"]), node("Shape", ["x"], ["s"])],
            {"x": MATRIX},
            {"y": MATRIX, "s": (2,)},
            types={"s": INT64},
        ),
        "net: an output is a constant: s",
    ),
    "whole numbers divided by 0": (
        lambda: one("Div", MATRIX, MATRIX, np.array(0), kinds={"x": INT64, "y": INT64}, name="div"),
        "node div (Div",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused_with_its_node(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ModelError) as caught:
        proof_of(make())
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_max_and_min_fuse_into_the_convolution_before_them() -> None:
    model = RIGHT["ReLU6 as max and min"]()
    kinds = [layer.structure.rsplit("-", 1)[0] for layer in import_model("net", model, 1.0).model.layers]
    assert "conv2d_maximum_minimum" in kinds


def test_operators_of_a_list_of_ten_are_counted_and_three_named() -> None:
    nodes = [node("Frob", ["x"], [f"a{number}"], name=f"f{number}", domain="acme") for number in range(10)]
    last = node("Relu", ["x"], ["y"])
    model = make_onnx([*nodes, last], {"x": MATRIX}, {"y": MATRIX}, domains=["acme"])
    with pytest.raises(
        ModelError, match=r"operator acme\.Frob of nodes f0, f1, f2 and 7 more is not supported"
    ):
        import_model("net", model, 1.0)


def test_no_pass_changes_a_model_that_has_its_forms() -> None:
    model = make_onnx([node("Conv", ["x", "k"], ["y"])], {"x": IMAGE}, {"y": (1, 8, 7, 7)}, {"k": KERNEL})
    assert fix(model, "net").model is model
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT

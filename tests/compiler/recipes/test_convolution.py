"""Which layers are convolutions that recipes compute, read from layers as the importer makes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from tvm import te, tirx

from tests.support.compiler.convolution_cases import cases
from tests.support.compiler.convolution_layers import ENDINGS, Case, convolution_call, function_of
from tests.support.compiler.nests import matmul
from tests.support.onnx_builders import make_onnx, node
from veltair.compiler.frontend.importer import import_model
from veltair.compiler.recipes.convolution import read_layer
from veltair.compiler.recipes.sizes import Convolution

VALID = (0, 0, 0, 0)
WEIGHTS = np.ones((8, 8, 3, 3), np.float32)


def sizes_of(case: Case) -> Convolution | None:
    layer = read_layer(function_of(case))
    return layer.convolution if layer else None


def functions_of(
    nodes: Sequence[onnx.NodeProto], inputs: dict[str, Any], output: Sequence[int], **constants: Any
) -> dict[str, Any]:
    """Return the layers of a small network by the operators that are fused in them."""
    model = make_onnx(nodes, inputs, {"y": output}, constants)
    return {
        name.rsplit("-", 1)[0]: function
        for name, function in import_model("small", model, 1.0).functions().items()
    }


@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        (Case((9, 11), 8, 16), Convolution(1, 9, 11, 8, 9, 11, 16, 1, 1, (3, 3))),
        (Case((9, 11), 8, 16, batch=2), Convolution(2, 9, 11, 8, 9, 11, 16, 1, 1, (3, 3))),
        # Zeros above and left are told; those below and right follow from the sizes.
        (Case((9, 11), 8, 16, pads=(0, 2, 1, 0)), Convolution(1, 9, 11, 8, 8, 11, 16, 0, 2, (3, 3))),
        (Case((9, 11), 8, 16, pads=(0, 0, 1, 1)), Convolution(1, 9, 11, 8, 8, 10, 16, 0, 0, (3, 3))),
        (Case((9, 11), 8, 16, pads=(2, 0, 0, 0)), Convolution(1, 9, 11, 8, 9, 9, 16, 2, 0, (3, 3))),
        (Case((9, 11), 8, 16, pads=VALID), Convolution(1, 9, 11, 8, 7, 9, 16, 0, 0, (3, 3))),
        (Case((9, 11), 8, 16, stride=(2, 1)), Convolution(1, 9, 11, 8, 5, 11, 16, 1, 1, (3, 3), (2, 1))),
        (
            Case((9, 11), 8, 16, pads=(2, 2, 2, 2), dilation=(2, 1)),
            Convolution(1, 9, 11, 8, 9, 13, 16, 2, 2, (3, 3), (1, 1), (2, 1)),
        ),
        (Case((9, 11), 8, 16, (1, 1), VALID), Convolution(1, 9, 11, 8, 9, 11, 16)),
        (
            Case((9, 11), 8, 16, (1, 1), VALID, stride=(2, 2)),
            Convolution(1, 9, 11, 8, 5, 6, 16, stride=(2, 2)),
        ),
        (
            Case((20, 30), 3, 16, (7, 7), (3, 3, 3, 3), (2, 2)),
            Convolution(1, 20, 30, 3, 10, 15, 16, 3, 3, (7, 7), (2, 2)),
        ),
        (Case((9, 11), 8, 16, (1, 5), (0, 2, 0, 2)), Convolution(1, 9, 11, 8, 9, 11, 16, 0, 2, (1, 5))),
        (Case((3, 3), 8, 16, pads=VALID), Convolution(1, 3, 3, 8, 1, 1, 16, 0, 0, (3, 3))),
        (Case((1, 1), 8, 16), Convolution(1, 1, 1, 8, 1, 1, 16, 1, 1, (3, 3))),
    ],
    ids=str,
)
def test_a_dense_convolution_is_read_with_all_its_sizes(case: Case, sizes: Convolution) -> None:
    assert sizes_of(case) == sizes


@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        (Case((9, 11), groups=8), Convolution(1, 9, 11, 8, 9, 11, 8, 1, 1, (3, 3), is_depthwise=True)),
        (
            Case((9, 11), groups=8, stride=(2, 2), pads=(0, 0, 1, 1)),
            Convolution(1, 9, 11, 8, 4, 5, 8, 0, 0, (3, 3), (2, 2), is_depthwise=True),
        ),
    ],
    ids=str,
)
def test_a_depthwise_convolution_is_read_as_such(case: Case, sizes: Convolution) -> None:
    assert sizes_of(case) == sizes


def test_a_convolution_of_one_channel_is_dense() -> None:
    sizes = sizes_of(Case((9, 11), 1, 1))
    assert sizes is not None and not sizes.is_depthwise


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_follows_element_by_element_changes_nothing_of_the_sizes(ending: str) -> None:
    assert sizes_of(Case(ending=ending)) == sizes_of(Case())


@given(case=cases("any"))
@settings(max_examples=40, derandomize=True)
def test_every_convolution_without_groups_is_read(case: Case) -> None:
    top, left, *_ = case.pads
    assert sizes_of(case) == Convolution(
        *(case.batch, *case.size, case.channels, *case.out_size, case.out_channels),
        *(top, left, case.kernel, case.stride, case.dilation),
    )


def test_the_parameters_that_are_read_are_named_by_number() -> None:
    layer = read_layer(function_of(Case(ending="residual")))
    assert layer is not None and (layer.data, layer.weights) == (0, 1)


@pytest.mark.parametrize("case", [Case(groups=2), Case(groups=4), Case(out_channels=16, groups=8)], ids=str)
def test_groups_of_channels_and_multiples_of_depth_are_not_read(case: Case) -> None:
    assert sizes_of(case) is None


def test_a_product_of_matrices_is_no_convolution() -> None:
    assert read_layer(matmul(8, 8, 8)) is None


def test_a_pooling_is_no_convolution() -> None:
    pooling = node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3])
    for function in functions_of([pooling], {"x": (1, 8, 9, 9)}, (1, 8, 7, 7)).values():
        assert read_layer(function) is None


def test_a_convolution_of_half_precision_is_not_read() -> None:
    data = te.placeholder((1, 6, 6, 8), "float16", name="data")
    weights = te.placeholder((3, 3, 8, 8), "float16", name="weights")
    assert read_layer(convolve(data, weights, data, weights)) is None


def convolve(data: Any, weights: Any, *given: Any, ending: Any = None) -> Any:
    """Return a function of a 3 x 3 convolution without padding of 6 x 6 pixels, and what is made of it."""
    down, right, depth = (
        te.reduce_axis((0, extent), name=name) for name, extent in (("d", 3), ("r", 3), ("k", 8))
    )
    sums = te.compute(
        (1, 4, 4, 8),
        lambda n, i, j, c: te.sum(
            data[n, i + down, j + right, depth] * weights[down, right, depth, c], axis=[down, right, depth]
        ),
        name="sums",
    )
    return te.create_prim_func([*given, ending(sums) if ending else sums])


def placeholders() -> tuple[Any, Any]:
    return te.placeholder((1, 6, 6, 8), name="data"), te.placeholder((3, 3, 8, 8), name="weights")


def follow(shape: tuple[int, ...], make: Any) -> Any:
    """Return a function of a convolution that another block follows, which makes an array of a shape."""
    data, weights = placeholders()
    return convolve(
        data, weights, data, weights, ending=lambda sums: te.compute(shape, lambda *at: make(sums, *at))
    )


def test_a_convolution_written_by_hand_is_read() -> None:
    data, weights = placeholders()
    layer = read_layer(convolve(data, weights, data, weights))
    assert layer is not None
    assert layer.convolution == Convolution(1, 6, 6, 8, 4, 4, 8, kernel=(3, 3))


@pytest.mark.parametrize(
    ("shape", "make"),
    [
        ((1, 8, 8, 8), lambda sums, n, i, j, c: sums[n, i // 2, j // 2, c]),
        ((1, 4, 4, 8), lambda sums, n, i, j, c: sums[n, j, i, c]),
        ((1, 4, 4, 8), lambda sums, n, i, j, c: sums[n, i, j, 7 - c]),
        ((1, 8, 4, 4), lambda sums, n, c, i, j: sums[n, i, j, c]),
        ((1, 2, 4, 8), lambda sums, n, i, j, c: sums[n, i, j, c]),
        ((1, 128), lambda sums, n, i: sums[n, i // 32, i % 32 // 8, i % 8]),
        ((1, 4, 4, 8), lambda sums, n, i, j, c: sums[n, i, j, c] + sums[n, i, j, 0]),
        ((1, 4, 4, 8), lambda sums, n, i, j, c: sums[n, i, j, c] + tirx.Cast("float32", i)),
    ],
    ids=[
        "upsampled",
        "transposed",
        "mirrored",
        "channels first",
        "cut",
        "flattened",
        "of another channel",
        "of its row",
    ],
)
def test_what_does_not_follow_element_by_element_is_not_read(shape: tuple[int, ...], make: Any) -> None:
    assert read_layer(follow(shape, make)) is None


def test_what_follows_element_by_element_is_read() -> None:
    relu = follow((1, 4, 4, 8), lambda sums, *at: tirx.max(sums[at], tirx.const(0.0, "float32")))
    assert read_layer(relu) is not None


@pytest.mark.parametrize(
    "make",
    [
        lambda data, gate: lambda n, i, j, c: data[n, i, j, c] * gate[n, 0, 0, c],
        lambda data, gate: lambda n, i, j, c: te.exp(data[n, i, j, c]),
        lambda data, gate: lambda n, i, j, c: data[n, j, i, c],
        lambda data, gate: lambda n, i, j, c: data[n, i, j, c] + gate[n, 0, 0, c],
    ],
    ids=["gated", "exponential", "transposed", "shifted"],
)
def test_a_convolution_of_what_is_computed_first_is_not_read(make: Any) -> None:
    data, weights = placeholders()
    gate = te.placeholder((1, 1, 1, 8), name="gate")
    computed = te.compute((1, 6, 6, 8), make(data, gate), name="computed")
    assert read_layer(convolve(computed, weights, data, gate, weights)) is None


def pad(value: float, first: int = 1, last: int = 1) -> Any:
    """Return a function of a convolution of 4 x 4 pixels with a row and a column of a value on each side."""
    data, weights = te.placeholder((1, 4, 4, 8), name="data"), placeholders()[1]
    padded = te.compute(
        (1, 6, 6, 8),
        lambda n, i, j, c: te.if_then_else(
            te.all(i >= first, i < 5, j >= 1, j < 4 + last),
            data[n, i - 1, j - 1, c],
            tirx.const(value, "float32"),
        ),
        name="padded",
    )
    return convolve(padded, weights, data, weights)


def test_padding_with_zeros_is_read() -> None:
    layer = read_layer(pad(0.0))
    assert layer is not None
    assert layer.convolution == Convolution(1, 4, 4, 8, 4, 4, 8, 1, 1, (3, 3))


def test_padding_with_anything_else_is_not_read() -> None:
    assert read_layer(pad(1.0)) is None


@pytest.mark.parametrize(("first", "last"), [(2, 1), (1, 0)])
def test_padding_that_cuts_the_data_is_not_read(first: int, last: int) -> None:
    assert read_layer(pad(0.0, first, last)) is None


def test_padding_of_channels_is_not_read() -> None:
    data, weights = te.placeholder((1, 6, 6, 6), name="data"), placeholders()[1]
    padded = te.compute(
        (1, 6, 6, 8),
        lambda n, i, j, c: te.if_then_else(
            te.all(c >= 1, c < 7), data[n, i, j, c - 1], tirx.const(0.0, "float32")
        ),
        name="padded",
    )
    assert read_layer(convolve(padded, weights, data, weights)) is None


def test_a_depthwise_convolution_of_some_channels_is_not_read() -> None:
    data, weights = te.placeholder((1, 6, 6, 8), name="data"), te.placeholder((3, 3, 1, 4), name="weights")
    down, right, depth = (
        te.reduce_axis((0, extent), name=name) for name, extent in (("d", 3), ("r", 3), ("k", 1))
    )
    sums = te.compute(
        (1, 4, 4, 4),
        lambda n, i, j, c: te.sum(
            data[n, i + down, j + right, c + depth] * weights[down, right, depth, c],
            axis=[down, right, depth],
        ),
        name="sums",
    )
    assert read_layer(te.create_prim_func([data, weights, sums])) is None


def test_a_convolution_that_another_sum_follows_is_not_read() -> None:
    pixel = te.reduce_axis((0, 4), name="pixel")
    function = follow((1, 4, 8), lambda sums, n, i, c: te.sum(sums[n, i, pixel, c], axis=pixel))
    assert read_layer(function) is None


def test_the_importer_gives_a_case_one_layer_of_a_convolution() -> None:
    model = make_onnx(
        [node("Conv", ["x", "w"], ["y"])], {"x": (1, 8, 7, 7)}, {"y": (1, 8, 5, 5)}, {"w": WEIGHTS}
    )
    assert read_layer(convolution_call(model)[1].function) is not None

"""Which layers are softmax that recipes compute, read from layers as the importer makes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from tvm import te, tirx

from tests.support.compiler.nests import matmul
from tests.support.compiler.product_layers import calls_of, function_of, small_model
from tests.support.onnx_builders import make_onnx, node
from veltair.compiler.recipes.recipes import recipes
from veltair.compiler.recipes.softmax import read_softmax
from veltair.compiler.search.target import cpu_target


def sizes_of(function: Any) -> tuple[int, int] | None:
    """Return rows and length of a softmax."""
    softmax = read_softmax(function)
    return (softmax.rows, softmax.length) if softmax else None


def softmax_of(shape: Sequence[int], axis: int = -1, operator: str = "Softmax") -> Any:
    return function_of(small_model([node(operator, ["x"], ["y"], axis=axis)], {"x": shape}, shape))


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((6, 8), (6, 8)),
        ((1, 8), (1, 8)),
        ((6, 1), (6, 1)),
        ((2, 6, 8), (12, 8)),
        ((1, 16, 6, 8), (96, 8)),
        ((2, 2, 3, 5, 7), (60, 7)),
    ],
)
def test_a_softmax_of_the_last_axis_is_read_with_its_rows_and_their_length(
    shape: tuple[int, ...], sizes: tuple[int, int]
) -> None:
    assert sizes_of(softmax_of(shape)) == sizes
    assert sizes_of(softmax_of(shape, axis=len(shape) - 1)) == sizes


@pytest.mark.parametrize(("shape", "axis"), [((8, 8), 0), ((2, 6, 8), 1), ((2, 8, 8), -2), ((4, 4, 4, 4), 0)])
def test_a_softmax_of_another_axis_is_not_read(shape: tuple[int, ...], axis: int) -> None:
    assert sizes_of(softmax_of(shape, axis)) is None


def test_a_softmax_of_a_vector_is_not_read() -> None:
    # Its only row has no axis to be counted by; it once had recipes that could not be built.
    function = softmax_of((8,))
    assert sizes_of(function) is None
    assert recipes(function, cpu_target(64, "x86-64-v3")) == []


def test_a_logarithm_of_a_softmax_is_not_read() -> None:
    assert sizes_of(softmax_of((6, 8), operator="LogSoftmax")) is None


def test_a_softmax_that_something_follows_is_not_read() -> None:
    nodes = [node("Softmax", ["x"], ["s"], axis=-1), node("Mul", ["s", "m"], ["y"])]
    function = function_of(small_model(nodes, {"x": (6, 8), "m": (6, 8)}, (6, 8)))
    assert sizes_of(function) is None


def test_a_softmax_of_half_precision_is_not_read() -> None:
    nodes = [
        node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        node("Softmax", ["h"], ["s"], axis=-1),
        node("Cast", ["s"], ["y"], to=TensorProto.FLOAT),
    ]
    calls = calls_of(make_onnx(nodes, {"x": (6, 8)}, {"y": (6, 8)}))
    assert [sizes_of(call.function) for call in calls.values()] == [None, None]


@pytest.mark.parametrize(
    ("operator", "columns"),
    [
        (node("ReduceMax", ["x"], ["y"], axes=[1]), 1),
        (node("Exp", ["x"], ["y"]), 8),
        (node("LayerNormalization", ["x", "scale"], ["y"]), 8),
    ],
    ids=["maximum", "exponential", "norm"],
)
def test_what_is_no_softmax_is_not_read(operator: onnx.NodeProto, columns: int) -> None:
    model = small_model([operator], {"x": (6, 8)}, (6, columns), {"scale": np.ones(8)})
    assert sizes_of(function_of(model)) is None


def test_a_product_is_no_softmax() -> None:
    assert sizes_of(matmul(8, 8, 8)) is None


def written(term: str = "", dtype: str = "float32") -> Any:
    """Return the function of a softmax of 6 x 8, of which a term may be another one."""
    data = te.placeholder((6, 8), dtype, name="data")
    other, place = te.reduce_axis((0, 8), name="other"), te.reduce_axis((0, 8), name="place")
    most = te.compute((6,), lambda i: te.max(data[i, other], axis=other), name="most")
    least = te.compute((6,), lambda i: te.min(data[i, other], axis=other), name="least")
    shift = least if term == "least" else most
    power = tirx.tanh if term == "tangent" else tirx.exp
    powers = te.compute(
        (6, 8),
        lambda i, j: power(data[i, j] - shift[5 - i if term == "another row" else i]),
        name="powers",
    )
    total = te.compute((6,), lambda i: te.sum(powers[i, place], axis=place), name="total")
    output = te.compute(
        (6, 8),
        lambda i, j: total[i] / powers[i, j] if term == "inverse" else powers[i, j] / total[i],
        name="output",
    )
    return te.create_prim_func([data, output, powers] if term == "powers too" else [data, output])


def test_a_softmax_written_by_hand_is_read() -> None:
    assert sizes_of(written()) == (6, 8)


@pytest.mark.parametrize("term", ["least", "another row", "tangent", "inverse", "powers too"])
def test_what_differs_from_a_softmax_in_one_term_is_not_read(term: str) -> None:
    assert sizes_of(written(term)) is None


def test_a_softmax_of_double_precision_is_not_read() -> None:
    assert sizes_of(written(dtype="float64")) is None

"""Which layers are products of matrices that recipes compute, read from layers as the importer makes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from tvm import te

from tests.support.compiler.nests import matmul
from tests.support.compiler.product_layers import (
    ENDINGS,
    FORMS,
    HEADS,
    ProductCase,
    answered,
    calls_of,
    function_of,
    model_of,
    small_model,
)
from tests.support.compiler.recipe_kernels import TOLERANCE, worst_error
from tests.support.onnx_builders import make_onnx, node
from veltair.compiler.recipes.product import read_product
from veltair.compiler.recipes.recipes import recipes
from veltair.compiler.recipes.sizes import Matrices
from veltair.compiler.search.target import cpu_target

TARGET = cpu_target(64, "x86-64-v3")
PRODUCT = node("MatMul", ["x", "w"], ["y"])
ONES = {"w": np.ones((10, 8))}


def sizes_of(function: Any) -> Matrices | None:
    product = read_product(function)
    return product.sizes if product else None


def multiply(left: Sequence[int], right: Sequence[int], output: Sequence[int]) -> onnx.ModelProto:
    """Return a network that multiplies an input by constants."""
    return small_model([PRODUCT], {"x": left}, output, {"w": np.ones(right)})


def einsum(equation: str, left: Sequence[int], right: Sequence[int], output: Sequence[int]) -> Any:
    """Return the function of an Einsum of two inputs."""
    nodes = [node("Einsum", ["x", "w"], ["y"], equation=equation)]
    return function_of(small_model(nodes, {"x": left, "w": right}, output))


@pytest.mark.parametrize(
    ("left", "right", "output", "sizes"),
    [
        ((6, 10), (10, 8), (6, 8), Matrices(1, 6, 8, 10)),
        ((1, 6, 10), (10, 8), (1, 6, 8), Matrices(1, 6, 8, 10)),
        ((2, 6, 10), (10, 8), (2, 6, 8), Matrices(2, 6, 8, 10)),
        ((2, 3, 6, 10), (10, 8), (2, 3, 6, 8), Matrices(6, 6, 8, 10)),
        ((3, 6, 10), (3, 10, 8), (3, 6, 8), Matrices(3, 6, 8, 10)),
        ((6, 10), (3, 10, 8), (3, 6, 8), Matrices(3, 6, 8, 10)),
        ((2, 1, 6, 10), (3, 10, 8), (2, 3, 6, 8), Matrices(6, 6, 8, 10)),
        ((6, 1), (1, 8), (6, 8), Matrices(1, 6, 8, 1)),
        ((1, 10), (10, 8), (1, 8), Matrices(1, 1, 8, 10)),
    ],
)
def test_a_product_with_constants_is_read_with_all_its_sizes(
    left: tuple[int, ...], right: tuple[int, ...], output: tuple[int, ...], sizes: Matrices
) -> None:
    product = read_product(function_of(multiply(left, right, output)))
    assert product is not None
    assert product.sizes == sizes
    assert (product.data, product.weights, product.is_packed) == (0, 1, True)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("form", FORMS)
def test_what_follows_element_by_element_changes_nothing_of_the_sizes(form: str, ending: str) -> None:
    product = read_product(function_of(model_of(ProductCase(6, 10, 8, 2, form, ending))))
    assert product is not None
    assert product.sizes == Matrices(2, 6, 8, 10 * HEADS if form == "heads" else 10)
    assert len(product.reduced) == (2 if form == "heads" else 1)


def test_only_constants_may_be_packed() -> None:
    packed = {
        form: product.is_packed
        for form in FORMS
        if (product := read_product(function_of(model_of(ProductCase(form=form)))))
    }
    assert packed == {"weights": True, "each": True, "inputs": False, "heads": True}


def test_constants_on_the_left_are_data_that_lie_as_they_are() -> None:
    nodes = [node("MatMul", ["w", "x"], ["y"])]
    product = read_product(function_of(small_model(nodes, {"x": (8, 6)}, (10, 6), ONES)))
    assert product is not None
    assert product.sizes == Matrices(1, 10, 6, 8)
    assert not product.is_packed


def test_the_parts_of_an_attention_are_read() -> None:
    # 3 heads of 5 tokens, of width 4: scores, scaled and masked; and what probabilities make of values.
    nodes = [
        node("MatMul", ["q", "k"], ["c"]),
        node("Mul", ["c", "half"], ["s"]),
        node("Add", ["s", "m"], ["a"]),
        node("Softmax", ["a"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["y"]),
    ]
    inputs = {"q": (1, 3, 5, 4), "k": (1, 3, 4, 5), "v": (1, 3, 5, 4), "m": (1, 1, 1, 5)}
    calls = calls_of(small_model(nodes, inputs, (1, 3, 5, 4), {"half": np.array(0.5)}))
    assert {name: sizes_of(call.function) for name, call in calls.items()} == {
        "matmul_multiply_add": Matrices(3, 5, 5, 4),
        "softmax": None,
        "matmul": Matrices(3, 5, 4, 5),
    }


@pytest.mark.parametrize("options", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}], ids=str)
def test_a_gemm_is_read_however_its_constants_are_given(options: dict[str, Any]) -> None:
    constants = {"w": np.ones((8, 10) if "transB" in options else (10, 8)), "b": np.ones(8)}
    nodes = [node("Gemm", ["x", "w", "b"], ["y"], **options)]
    calls = calls_of(small_model(nodes, {"x": (6, 10)}, (6, 8), constants))
    assert sizes_of(calls["matmul_add"].function) == Matrices(1, 6, 8, 10)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [("x", {"x": (10, 6), "w": (10, 8)}), ("w", {"x": (6, 10), "w": (8, 10)})],
    ids=["left", "right"],
)
def test_a_transposed_operand_is_read_after_a_layer_that_transposes_it(
    name: str, inputs: dict[str, tuple[int, int]]
) -> None:
    operands = ["t" if operand == name else operand for operand in "xw"]
    nodes = [node("Transpose", [name], ["t"], perm=[1, 0]), node("MatMul", operands, ["y"])]
    calls = calls_of(small_model(nodes, inputs, (6, 8)))
    assert sizes_of(calls["transpose"].function) is None
    assert sizes_of(calls["matmul"].function) == Matrices(1, 6, 8, 10)


def test_a_matrix_times_itself_is_read() -> None:
    product = read_product(
        function_of(small_model([node("MatMul", ["x", "x"], ["y"])], {"x": (8, 8)}, (8, 8)))
    )
    assert product is not None
    assert product.sizes == Matrices(1, 8, 8, 8)


def test_constants_that_are_also_added_are_not_packed() -> None:
    # What is packed lies in another order: the addition found it gone.
    nodes = [node("MatMul", ["x", "w"], ["c"]), node("Add", ["c", "w"], ["y"])]
    constants = {"w": np.random.default_rng(0).standard_normal((8, 8))}
    layer = answered(small_model(nodes, {"x": (8, 8)}, (8, 8), constants))
    product = read_product(layer.function)
    assert product is not None and not product.is_packed
    assert worst_error(layer, recipes(layer.function, TARGET)) <= TOLERANCE


@pytest.mark.parametrize(
    ("equation", "left", "right", "output", "sizes"),
    [
        ("ik,kj->ij", (6, 10), (10, 8), (6, 8), Matrices(1, 6, 8, 10)),
        ("kj,ik->ij", (10, 8), (6, 10), (6, 8), Matrices(1, 6, 8, 10)),
        # Pairs may lie between rows and columns.
        ("ibk,bkj->ibj", (6, 3, 10), (3, 10, 8), (6, 3, 8), Matrices(3, 6, 8, 10)),
        ("bik,bkj->ibj", (3, 6, 10), (3, 10, 8), (6, 3, 8), Matrices(3, 6, 8, 10)),
        # Diagonals: single elements of data and of depth are read where they lie.
        ("iik,kj->ij", (6, 6, 10), (10, 8), (6, 8), Matrices(1, 6, 8, 10)),
        ("ik,kkj->ij", (6, 10), (10, 10, 8), (6, 8), Matrices(1, 6, 8, 10)),
        # The axes of a sum are in the order of their letters.
        ("bhsw,hwn->bsn", (2, 3, 6, 10), (3, 10, 8), (2, 6, 8), Matrices(2, 6, 8, 30)),
        ("bwsh,whn->bsn", (2, 3, 6, 10), (3, 10, 8), (2, 6, 8), Matrices(2, 6, 8, 30)),
        ("bhsw,whn->bsn", (2, 3, 6, 10), (10, 3, 8), (2, 6, 8), Matrices(2, 6, 8, 30)),
    ],
)
def test_an_einsum_that_is_a_product_is_read_and_is_right(
    equation: str, left: tuple[int, ...], right: tuple[int, ...], output: tuple[int, ...], sizes: Matrices
) -> None:
    nodes = [node("Einsum", ["x", "w"], ["y"], equation=equation)]
    layer = answered(small_model(nodes, {"x": left, "w": right}, output))
    assert sizes_of(layer.function) == sizes
    assert worst_error(layer, recipes(layer.function, TARGET)) <= TOLERANCE


@pytest.mark.parametrize(
    ("equation", "left", "right", "output"),
    [
        ("ik,jk->ij", (6, 10), (8, 10), (6, 8)),  # columns do not lie side by side
        ("ki,kj->ij", (10, 6), (10, 8), (6, 8)),  # nor does the depth
        ("ik,kjj->ij", (6, 10), (10, 8, 8), (6, 8)),  # nor do the columns of a diagonal
        ("ii,ij->ij", (8, 8), (8, 8), (8, 8)),  # no sum
        ("bi,bj->bij", (3, 6), (3, 8), (3, 6, 8)),
        ("ikl,kj->ij", (6, 10, 4), (10, 8), (6, 8)),  # a sum of one factor
        ("bk,bkj->bj", (6, 10), (6, 10, 8), (6, 8)),  # no rows: other weights for each
        ("ijk,kj->ij", (6, 8, 10), (10, 8), (6, 8)),  # other data for each column
    ],
)
def test_an_einsum_whose_operands_do_not_lie_as_matrices_is_not_read(
    equation: str, left: tuple[int, ...], right: tuple[int, ...], output: tuple[int, ...]
) -> None:
    assert sizes_of(einsum(equation, left, right, output)) is None


@pytest.mark.parametrize(
    ("left", "right", "output"), [((10,), (10, 8), (8,)), ((6, 10), (10,), (6,)), ((10,), (10,), ())]
)
def test_a_product_with_a_vector_without_rows_is_not_read(
    left: tuple[int, ...], right: tuple[int, ...], output: tuple[int, ...]
) -> None:
    assert sizes_of(function_of(multiply(left, right, output))) is None


@pytest.mark.parametrize("rows", [1, 3])
def test_a_product_of_few_rows_has_no_recipes(rows: int) -> None:
    function = function_of(multiply((rows, 10), (10, 8), (rows, 8)))
    assert sizes_of(function) == Matrices(1, rows, 8, 10)
    assert recipes(function, TARGET) == []


def test_a_product_of_integers_is_not_read() -> None:
    types = dict.fromkeys("xwy", TensorProto.INT32)
    model = make_onnx([PRODUCT], {"x": (6, 10), "w": (10, 8)}, {"y": (6, 8)}, types=types)
    assert sizes_of(function_of(model)) is None


def test_a_product_of_half_precision_is_read_as_one_in_float32() -> None:
    nodes = [
        node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        node("MatMul", ["h", "w"], ["c"]),
        node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    calls = calls_of(make_onnx(nodes, {"x": (6, 10)}, {"y": (6, 8)}, {"w": np.ones((10, 8), np.float16)}))
    assert [sizes_of(call.function) for call in calls.values()] == [None, Matrices(1, 6, 8, 10)]


@pytest.mark.parametrize(
    ("nodes", "output"),
    [
        ([node("Conv", ["x", "w"], ["y"])], (1, 8, 6, 6)),
        ([node("Conv", ["x", "v"], ["y"], group=8)], (1, 8, 4, 4)),
        ([node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3])], (1, 8, 4, 4)),
        ([node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3])], (1, 8, 4, 4)),
        ([node("GlobalAveragePool", ["x"], ["y"])], (1, 8, 1, 1)),
        ([node("ReduceMax", ["x"], ["y"], axes=[1])], (1, 1, 6, 6)),
        ([node("Add", ["x", "x"], ["y"])], (1, 8, 6, 6)),
        # Two values are reduced at once.
        ([node("ArgMax", ["x"], ["i"], axis=1), node("Cast", ["i"], ["y"], to=1)], (1, 1, 6, 6)),
    ],
    ids=["1 x 1", "depthwise", "average", "maximum", "mean", "reduced", "sum", "place"],
)
def test_what_is_no_product_of_matrices_is_not_read(
    nodes: list[onnx.NodeProto], output: tuple[int, ...]
) -> None:
    constants = {"w": np.ones((8, 8, 1, 1)), "v": np.ones((8, 1, 3, 3))}
    calls = calls_of(small_model(nodes, {"x": (1, 8, 6, 6)}, output, constants))
    assert [sizes_of(call.function) for call in calls.values()] == [None] * len(calls)


def follow(shape: tuple[int, ...], make: Any) -> Any:
    """Return a function of a product, 6 x 10 by 10 x 8, that another block makes an array of a shape of."""
    left, right = te.placeholder((6, 10), name="left"), te.placeholder((10, 8), name="right")
    depth = te.reduce_axis((0, 10), name="depth")
    sums = te.compute((6, 8), lambda i, j: te.sum(left[i, depth] * right[depth, j], axis=depth), name="sums")
    return te.create_prim_func([left, right, te.compute(shape, lambda *at: make(sums, *at))])


def test_a_product_written_by_hand_is_read() -> None:
    assert sizes_of(matmul(6, 8, 10)) == Matrices(1, 6, 8, 10)
    assert sizes_of(follow((6, 8), lambda sums, i, j: sums[i, j] * sums[i, j])) == Matrices(1, 6, 8, 10)


@pytest.mark.parametrize(
    ("shape", "make"),
    [
        ((8, 6), lambda sums, j, i: sums[i, j]),
        ((6, 8), lambda sums, i, j: sums[i, 7 - j]),
        ((48,), lambda sums, i: sums[i // 8, i % 8]),
        ((6, 4), lambda sums, i, j: sums[i, j]),
        ((6, 8), lambda sums, i, j: sums[i, j] + sums[i, 0]),
    ],
    ids=["transposed", "mirrored", "flattened", "cut", "of another column"],
)
def test_what_does_not_follow_element_by_element_is_not_read(shape: tuple[int, ...], make: Any) -> None:
    assert sizes_of(follow(shape, make)) is None


@pytest.mark.parametrize(
    "places",
    [
        lambda i, k, j: ((i, k, k + i), (k, j)),
        lambda i, k, j: ((i, i + k, k), (k, j)),
        lambda i, k, j: ((i, 0, 9 - k), (k, j)),
        lambda i, k, j: ((i, 0, k), (k, 7 - j)),
        lambda i, k, j: ((i, 0, k), (k, 0)),
    ],
    ids=["shifted depth", "a window of rows", "mirrored depth", "mirrored columns", "one column"],
)
def test_a_sum_of_products_of_other_elements_is_not_read(places: Any) -> None:
    left, right = te.placeholder((6, 16, 16), name="left"), te.placeholder((10, 8), name="right")
    depth = te.reduce_axis((0, 10), name="depth")

    def product(row: Any, column: Any) -> Any:
        of_left, of_right = places(row, depth, column)
        return te.sum(left[of_left] * right[of_right], axis=depth)

    assert sizes_of(te.create_prim_func([left, right, te.compute((6, 8), product)])) is None


def test_a_product_that_another_sum_follows_is_not_read() -> None:
    column = te.reduce_axis((0, 8), name="column")
    assert sizes_of(follow((6,), lambda sums, i: te.sum(sums[i, column], axis=column))) is None


def test_a_product_of_what_is_computed_first_is_not_read() -> None:
    left, right = te.placeholder((6, 10), name="left"), te.placeholder((10, 8), name="right")
    depth = te.reduce_axis((0, 10), name="depth")
    doubled = te.compute((6, 10), lambda i, k: left[i, k] + left[i, k], name="doubled")
    sums = te.compute((6, 8), lambda i, j: te.sum(doubled[i, depth] * right[depth, j], axis=depth))
    assert sizes_of(te.create_prim_func([left, right, sums])) is None

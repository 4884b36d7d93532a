"""The fused layers of small graphs; what they compute is compared with ONNX Runtime."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from tests.support.compiler.unscheduled import run_unscheduled
from tests.support.onnx_builders import make_onnx, node, relative_error, run_onnx
from veltair.compiler.frontend.importer import ImportedModel, import_model
from veltair.compiler.frontend.samples import random_samples

TOLERANCE = 1e-6
RANDOM = np.random.default_rng(0)


def kinds(model: ImportedModel) -> list[str]:
    return [layer.structure.rsplit("-", 1)[0] for layer in model.model.layers]


def import_checked(model: onnx.ModelProto) -> ImportedModel:
    """Return the imported model, whose layers give ONNX Runtime's answers."""
    imported = import_model("small", model, 1.0)
    samples = random_samples(imported.inputs, seed=1)
    for found, wanted in zip(run_unscheduled(imported, samples), run_onnx(model, *samples), strict=True):
        assert relative_error(found, wanted) < TOLERANCE
    return imported


def floats(*shape: int) -> NDArray[np.float32]:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def shape_of(*extents: int) -> NDArray[np.int64]:
    return np.array(extents, np.int64)


# Attention: 6 tokens of 8 channels, 2 heads of width 4.


def projection(order: tuple[int, ...], **other: Any) -> onnx.ModelProto:
    """Return a projection to heads; `other` replaces constants or the input's shape."""
    constants: dict[str, Any] = {"w": floats(8, 8), "b": floats(8), "s": shape_of(1, 6, 2, 4)} | other
    inputs = {"x": constants.pop("x", (1, 6, 8))}
    addends = ["b", "p"] if constants.pop("bias_first", False) else ["p", "b"]
    nodes = [
        node("MatMul", ["x", "w"], ["p"]),
        node("Add", addends, ["a"]),
        node("Reshape", ["a", "s"], ["r"]),
        node("Transpose", ["r"], ["y"], perm=order),
    ]
    split = constants["s"]
    outputs = {"y": tuple(int(split[axis]) for axis in order)}
    return make_onnx(nodes, inputs, outputs, constants)


@pytest.mark.parametrize("bias_first", [False, True])
def test_a_projection_to_heads_is_one_layer(bias_first: bool) -> None:
    assert kinds(import_checked(projection((0, 2, 1, 3), bias_first=bias_first))) == ["matmul_add"]


def test_the_weights_of_a_projection_to_heads_may_be_packed() -> None:
    (call,) = import_checked(projection((0, 2, 1, 3))).calls
    assert [int(index) for index in call.function.attrs["layout_free_buffers"]] == [1, 2]


def test_a_projection_to_keys_transposes_heads_alone() -> None:
    model = import_checked(projection((0, 2, 3, 1)))
    assert kinds(model) == ["matmul_add", "transpose"]
    assert [call.outputs for call in model.calls] == [((1, 2, 6, 4),), ((1, 2, 4, 6),)]


@pytest.mark.parametrize(
    ("order", "other"),
    [
        ((0, 1, 3, 2), {}),
        ((2, 0, 1, 3), {}),
        # A batch would be taken for heads, for both come first.
        ((0, 2, 1, 3), {"x": (2, 6, 8), "s": shape_of(2, 6, 2, 4)}),
        ((0, 2, 1, 3), {"x": (2, 6, 8), "s": shape_of(1, 12, 2, 4)}),
        ((0, 2, 1, 3), {"s": shape_of(1, 3, 4, 4)}),
        ((0, 2, 1, 3), {"b": floats(1)}),
        ((0, 2, 1, 3), {"w": floats(1, 8, 8)}),
        ((0, 2, 1), {"s": shape_of(1, 12, 4)}),
    ],
    ids=[
        "other order",
        "other axes",
        "batch",
        "batch joined",
        "tokens joined",
        "scalar bias",
        "batched weight",
        "rank 3",
    ],
)
def test_what_only_resembles_a_projection_to_heads_is_computed_as_written(
    order: tuple[int, ...], other: Mapping[str, Any]
) -> None:
    assert len(kinds(import_checked(projection(order, **other)))) == 2


def join(order: tuple[int, ...], joined: tuple[int, ...], weight: NDArray[np.float32]) -> onnx.ModelProto:
    """Return a projection of heads (2, 3, 6, 4)."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=order),
        node("Reshape", ["t", "s"], ["r"]),
        node("MatMul", ["r", "w"], ["y"]),
    ]
    constants = {"s": shape_of(*joined), "w": weight}
    return make_onnx(nodes, {"x": (2, 3, 6, 4)}, {"y": (*joined[:-1], weight.shape[-1])}, constants)


def test_a_projection_of_heads_is_one_layer() -> None:
    assert kinds(import_checked(join((0, 2, 1, 3), (2, 6, 12), floats(12, 5)))) == ["einsum"]


@pytest.mark.parametrize(
    ("order", "joined", "weight"),
    [
        ((0, 1, 3, 2), (2, 6, 12), floats(12, 5)),
        ((0, 2, 1, 3), (1, 12, 12), floats(12, 5)),
        ((0, 2, 1, 3), (2, 6, 12), floats(1, 12, 5)),
    ],
    ids=["other order", "other join", "batched weight"],
)
def test_what_only_resembles_a_projection_of_heads_is_computed_as_written(
    order: tuple[int, ...], joined: tuple[int, ...], weight: NDArray[np.float32]
) -> None:
    assert kinds(import_checked(join(order, joined, weight)))[-1] == "matmul"


# Constants.


def test_a_clip_is_a_maximum_and_a_minimum_of_which_nan_is_none() -> None:
    nodes = [node("Clip", ["x", "low", "high"], ["h"]), node("Clip", ["h", "nan", "top"], ["y"])]
    bounds = {"low": -0.5, "high": 0.75, "nan": np.nan, "top": 0.5}
    constants = {name: np.array(value, np.float32) for name, value in bounds.items()}
    model = import_checked(make_onnx(nodes, {"x": (2, 50)}, {"y": (2, 50)}, constants))
    assert kinds(model) == ["maximum_minimum_minimum"]


@pytest.mark.parametrize(("order", "shape"), [((2, 0, 1), (4, 2, 3)), (None, (4, 3, 2))])
def test_a_constant_is_transposed_and_reshaped_once_and_for_all(
    order: tuple[int, ...] | None, shape: tuple[int, ...]
) -> None:
    nodes = [
        node("Transpose", ["c"], ["t"], **({"perm": order} if order else {})),
        node("Reshape", ["t", "s"], ["r"]),
        node("Add", ["x", "r"], ["y"]),
    ]
    constants = {"c": floats(2, 3, 4), "s": shape_of(shape[0], 6)}
    model = import_checked(make_onnx(nodes, {"x": (4, 6)}, {"y": (4, 6)}, constants))
    assert kinds(model) == ["add"]


def test_the_weights_of_a_convolution_are_laid_out_once_and_for_all() -> None:
    convolution = node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 2])
    model = make_onnx([convolution], {"x": (1, 3, 6, 5)}, {"y": (1, 4, 4, 4)}, {"w": floats(4, 3, 3, 2)})
    imported = import_checked(model)
    assert kinds(imported) == ["transpose", "conv2d", "transpose"]
    assert imported.calls[1].inputs[1].shape == (3, 2, 3, 4)


# Gathers.


def gather(tokens: list[int]) -> tuple[onnx.ModelProto, NDArray[np.int64]]:
    nodes = [node("Gather", ["table", "t"], ["g"], axis=0), node("Add", ["g", "x"], ["y"])]
    inputs, outputs = {"t": (1, len(tokens)), "x": (1, len(tokens), 4)}, {"y": (1, len(tokens), 4)}
    model = make_onnx(nodes, inputs, outputs, {"table": floats(5, 4)}, types={"t": TensorProto.INT64})
    return model, np.array([tokens], np.int64)


def test_a_gather_is_one_layer_with_what_follows() -> None:
    model, _ = gather([0, 1])
    assert kinds(import_checked(model)) == ["less_add_where_take_add"]


def test_a_gather_counts_negative_indices_from_the_end() -> None:
    model, tokens = gather([4, -1, -5, 0])
    x = floats(1, 4, 4)
    (found,) = run_unscheduled(import_model("small", model, 1.0), [tokens, x])
    assert np.array_equal(found, run_onnx(model, tokens, x)[0])


def test_a_gather_beyond_its_table_stays_in_it() -> None:
    model, tokens = gather([5, 10**12, -6, -(10**12)])
    (found,) = run_unscheduled(import_model("small", model, 1.0), [tokens, np.zeros((1, 4, 4), np.float32)])
    table = onnx.numpy_helper.to_array(model.graph.initializer[0])
    assert np.array_equal(found[0], table[[4, 4, 0, 0]])


# Divisions.


def divide(left: str, right: str, divisor: NDArray[Any], dtype: int) -> onnx.ModelProto:
    nodes = [node("Div", [left, right], ["y"])]
    kind = {"x": dtype, "y": dtype}
    return make_onnx(nodes, {"x": (2, 3)}, {"y": (2, 3)}, {"c": divisor}, types=kind)


def test_a_division_by_a_constant_is_a_multiplication() -> None:
    model = divide("x", "c", np.array([2, 3, 4], np.float32), TensorProto.FLOAT)
    assert kinds(import_checked(model)) == ["multiply"]


def test_a_constant_divided_is_a_division() -> None:
    model = divide("c", "x", np.array([2, 3, 4], np.float32), TensorProto.FLOAT)
    assert kinds(import_checked(model)) == ["divide"]


def test_integers_are_divided_as_integers() -> None:
    model = divide("x", "c", np.array([2, 3, 4], np.int64), TensorProto.INT64)
    x = np.array([[7, 7, 7], [8, 9, 9]], np.int64)
    (found,) = run_unscheduled(import_model("small", model, 1.0), [x])
    assert found.tolist() == [[3, 2, 1], [4, 3, 2]]

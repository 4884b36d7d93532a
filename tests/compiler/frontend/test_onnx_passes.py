from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.onnx_builders import make_onnx, node, relative_error, run_onnx
from tests.support.tiny import tiny
from veltair.compiler.frontend.onnx_passes import (
    drop_identities,
    drop_unused_outputs,
    fold_batch_norm,
    slopes_per_channel,
    sum_to_add,
)
from veltair.compiler.frontend.rewriting import PASSES, rewrite

IMAGE = {"x": (1, 3, 8, 8)}
OUTPUT = {"y": (1, 4, 8, 8)}


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def assert_same_function(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    onnx.checker.check_model(after, full_check=True)
    shape = [extent.dim_value for extent in before.graph.input[0].type.tensor_type.shape.dim]
    sample = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    for found, wanted in zip(run_onnx(after, sample), run_onnx(before, sample), strict=True):
        assert relative_error(found, wanted) < 1e-5


def conv_constants(*names: str, bias: bool = False) -> dict[str, np.ndarray]:
    """Return the weight of a 3x3 convolution from 3 to 4 channels and BatchNormalizations by prefix."""
    rng = np.random.default_rng(1)
    constants = {"w": rng.standard_normal((4, 3, 3, 3), dtype=np.float32)}
    if bias:
        constants["b"] = rng.standard_normal(4, dtype=np.float32)
    for name in names:
        draw = rng.standard_normal((4, 4), dtype=np.float32)
        statistics = {"gamma": draw[0], "beta": draw[1], "mean": draw[2], "var": 0.5 + draw[3] ** 2}
        constants.update({f"{name}.{key}": value for key, value in statistics.items()})
    return constants


def conv(source: str, output: str, bias: bool = False) -> onnx.NodeProto:
    return node("Conv", [source, "w", *(["b"] if bias else [])], [output], pads=[1, 1, 1, 1])


def batch_norm(source: str, output: str, name: str, **options: float) -> onnx.NodeProto:
    statistics = [f"{name}.{key}" for key in ("gamma", "beta", "mean", "var")]
    return node("BatchNormalization", [source, *statistics], [output], **options)


def pooled_with_indices() -> onnx.ModelProto:
    pool = node("MaxPool", ["x"], ["y", "indices"], kernel_shape=[2, 2], strides=[2, 2])
    return make_onnx([pool], IMAGE, {"y": (1, 3, 4, 4)})


@pytest.mark.parametrize("bias", [False, True])
def test_a_batch_normalization_goes_into_its_convolution(bias: bool) -> None:
    nodes = [conv("x", "h", bias), batch_norm("h", "y", "bn")]
    before = make_onnx(nodes, IMAGE, OUTPUT, conv_constants("bn", bias=bias))
    after = fold_batch_norm(before)
    assert operators(after) == ["Conv"]
    assert_same_function(before, after)


def test_folding_uses_the_epsilon_of_the_node() -> None:
    nodes = [conv("x", "h"), batch_norm("h", "y", "bn", epsilon=0.5)]
    before = make_onnx(nodes, IMAGE, OUTPUT, conv_constants("bn"))
    assert_same_function(before, fold_batch_norm(before))


def test_two_convolutions_that_share_a_weight_are_folded_apart() -> None:
    nodes = [
        *(conv("x", "h1"), batch_norm("h1", "a", "bn1")),
        *(conv("x", "h2"), batch_norm("h2", "b2", "bn2")),
        node("Add", ["a", "b2"], ["y"]),
    ]
    before = make_onnx(nodes, IMAGE, OUTPUT, conv_constants("bn1", "bn2"))
    after = fold_batch_norm(before)
    assert operators(after) == ["Conv", "Conv", "Add"]
    assert_same_function(before, after)


def test_a_weight_that_is_folded_once_stays_for_who_else_reads_it() -> None:
    nodes = [
        *(conv("x", "h1"), batch_norm("h1", "a", "bn")),
        conv("x", "b2"),
        node("Add", ["a", "b2"], ["y"]),
    ]
    before = make_onnx(nodes, IMAGE, OUTPUT, conv_constants("bn"))
    after = fold_batch_norm(before)
    assert operators(after) == ["Conv", "Conv", "Add"]
    assert_same_function(before, after)


def test_a_convolution_with_two_readers_is_not_folded() -> None:
    nodes = [conv("x", "h"), batch_norm("h", "a", "bn"), node("Add", ["a", "h"], ["y"])]
    before = make_onnx(nodes, IMAGE, OUTPUT, conv_constants("bn"))
    after = fold_batch_norm(before)
    assert operators(after) == ["Conv", "BatchNormalization", "Add"]
    assert_same_function(before, after)


def test_a_convolution_that_is_an_output_too_is_not_folded() -> None:
    nodes = [conv("x", "h"), batch_norm("h", "y", "bn")]
    before = make_onnx(nodes, IMAGE, OUTPUT | {"h": (1, 4, 8, 8)}, conv_constants("bn"))
    after = fold_batch_norm(before)
    assert operators(after) == ["Conv", "BatchNormalization"]
    assert_same_function(before, after)


def test_a_convolution_that_a_branch_of_an_if_reads_is_not_folded() -> None:
    def branch(operator: str) -> onnx.GraphProto:
        output = f"{operator}_out"
        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, (1, 4, 8, 8))
        return helper.make_graph([node(operator, ["h"], [output])], operator, [], [value])

    nodes = [
        *(conv("x", "h"), batch_norm("h", "a", "bn")),
        node("If", ["yes"], ["b2"], then_branch=branch("Relu"), else_branch=branch("Neg")),
        node("Add", ["a", "b2"], ["y"]),
    ]
    before = make_onnx(nodes, IMAGE, OUTPUT, {"yes": np.array(True), **conv_constants("bn")})
    after = fold_batch_norm(before)
    assert operators(after) == operators(before)
    assert_same_function(before, after)


def test_constants_that_only_a_branch_of_an_if_reads_are_kept() -> None:
    def branch(operator: str) -> onnx.GraphProto:
        output = f"{operator}_out"
        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, (1, 3, 8, 8))
        return helper.make_graph([node(operator, ["x", "k"], [output])], operator, [], [value])

    choice = node("If", ["yes"], ["y"], then_branch=branch("Add"), else_branch=branch("Sub"))
    constants = {"yes": np.array(True), "k": np.float32([[[[2.0]]]])}
    before = make_onnx([choice], IMAGE, {"y": (1, 3, 8, 8)}, constants)
    assert_same_function(before, rewrite(before))


def test_a_batch_normalization_of_something_else_is_kept() -> None:
    nodes = [conv("x", "h"), node("Relu", ["h"], ["r"]), batch_norm("r", "y", "bn")]
    before = make_onnx(nodes, IMAGE, OUTPUT, conv_constants("bn"))
    assert operators(fold_batch_norm(before)) == ["Conv", "Relu", "BatchNormalization"]


def test_a_weight_that_is_computed_is_not_folded() -> None:
    nodes = [node("Neg", ["w"], ["v"]), node("Conv", ["x", "v"], ["h"], pads=[1, 1, 1, 1])]
    nodes.append(batch_norm("h", "y", "bn"))
    before = make_onnx(nodes, IMAGE, OUTPUT, conv_constants("bn"))
    assert operators(fold_batch_norm(before)) == ["Neg", "Conv", "BatchNormalization"]


@pytest.mark.parametrize(("terms", "adds"), [(2, 1), (3, 2), (4, 3)])
def test_a_sum_becomes_a_chain_of_adds(terms: int, adds: int) -> None:
    names = ["x", "k", "x", "k"][:terms]
    constants = {"k": np.random.default_rng(2).standard_normal((1, 3, 8, 8), dtype=np.float32)}
    before = make_onnx([node("Sum", names, ["y"])], IMAGE, {"y": (1, 3, 8, 8)}, constants)
    after = sum_to_add(before)
    assert operators(after) == ["Add"] * adds
    assert_same_function(before, after)


def test_a_sum_of_one_stays() -> None:
    before = make_onnx([node("Sum", ["x"], ["y"])], IMAGE, {"y": (1, 3, 8, 8)})
    assert operators(sum_to_add(before)) == ["Sum"]


def test_identities_and_dropouts_in_a_row_disappear() -> None:
    nodes = [
        *(node("Identity", ["x"], ["a"]), node("Dropout", ["a"], ["b"]), node("Relu", ["b"], ["c"])),
        *(node("Identity", ["c"], ["d"]), node("Add", ["d", "a"], ["y"])),
    ]
    before = make_onnx(nodes, IMAGE, {"y": (1, 3, 8, 8)})
    after = drop_identities(before)
    assert operators(after) == ["Relu", "Add"]
    assert_same_function(before, after)


def test_an_identity_that_names_an_output_stays() -> None:
    nodes = [node("Relu", ["x"], ["h"]), node("Identity", ["h"], ["y"])]
    before = make_onnx(nodes, IMAGE, {"y": (1, 3, 8, 8)})
    after = drop_identities(before)
    assert operators(after) == ["Relu", "Identity"]
    assert_same_function(before, after)


def test_indices_of_a_pooling_that_nobody_reads_disappear() -> None:
    before = pooled_with_indices()
    after = drop_unused_outputs(before)
    assert list(after.graph.node[0].output) == ["y"]
    assert_same_function(before, after)


def test_an_output_that_the_operator_must_have_stays_though_nobody_reads_it() -> None:
    halves = [node("Split", ["x"], ["y", "rest"], axis=2)]
    before = make_onnx(halves, IMAGE, {"y": (1, 3, 4, 8)})
    assert list(drop_unused_outputs(before).graph.node[0].output) == ["y", "rest"]


def test_indices_that_are_read_stay() -> None:
    model = pooled_with_indices()
    model.graph.node.append(node("Cast", ["indices"], ["z"], to=TensorProto.FLOAT))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 3, 4, 4)))
    after = drop_unused_outputs(model)
    assert list(after.graph.node[0].output) == ["y", "indices"]
    assert_same_function(model, after)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (4, 3), (2, 3, 5)], ids=str)
def test_a_leaky_relu_becomes_a_prelu_with_a_slope_a_channel(shape: tuple[int, ...]) -> None:
    before = make_onnx([node("LeakyRelu", ["x"], ["y"], alpha=0.25)], {"x": shape}, {"y": shape})
    after = slopes_per_channel(before)
    assert operators(after) == ["PRelu"]
    slopes = numpy_helper.to_array(after.graph.initializer[0])
    assert slopes.shape == (3, *[1] * (len(shape) - 2))
    assert np.all(slopes == 0.25)
    assert_same_function(before, after)


def test_a_leaky_relu_without_alpha_has_the_slope_that_onnx_gives_it() -> None:
    before = make_onnx([node("LeakyRelu", ["x"], ["y"])], IMAGE, {"y": (1, 3, 8, 8)})
    after = slopes_per_channel(before)
    assert operators(after) == ["PRelu"]
    assert_same_function(before, after)


@pytest.mark.parametrize("slope", [np.float32([0.3]), np.full((1, 1, 1), 0.3, "f4"), np.float32(0.3)])
def test_a_prelu_of_one_slope_gets_one_a_channel(slope: np.ndarray) -> None:
    before = make_onnx([node("PRelu", ["x", "a"], ["y"])], IMAGE, {"y": (1, 3, 8, 8)}, {"a": slope})
    after = slopes_per_channel(before)
    assert [list(tensor.dims) for tensor in after.graph.initializer] == [[3, 1, 1]]
    assert_same_function(before, after)


def test_a_slope_that_two_activations_share_is_widened_for_each() -> None:
    nodes = [conv("x", "h"), node("PRelu", ["x", "a"], ["p"]), node("PRelu", ["h", "a"], ["y"])]
    before = make_onnx(
        nodes, IMAGE, OUTPUT | {"p": (1, 3, 8, 8)}, conv_constants() | {"a": np.float32([0.3])}
    )
    after = slopes_per_channel(before)
    assert sorted(list(tensor.dims) for tensor in after.graph.initializer)[:2] == [[3, 1, 1], [4, 1, 1]]
    assert_same_function(before, after)


def test_slopes_that_differ_stay() -> None:
    slopes = np.float32([[[0.1]], [[0.2]], [[0.3]]])
    before = make_onnx([node("PRelu", ["x", "a"], ["y"])], IMAGE, {"y": (1, 3, 8, 8)}, {"a": slopes})
    assert list(slopes_per_channel(before).graph.node) == list(before.graph.node)


def test_a_slope_that_is_computed_stays() -> None:
    nodes = [node("Neg", ["a"], ["b"]), node("PRelu", ["x", "b"], ["y"])]
    before = make_onnx(nodes, IMAGE, {"y": (1, 3, 8, 8)}, {"a": np.float32([0.3])})
    assert list(slopes_per_channel(before).graph.node) == list(before.graph.node)


@pytest.mark.parametrize("shape", [(6,), (1, 1, 5, 6)], ids=str)
def test_a_leaky_relu_of_one_channel_stays(shape: tuple[int, ...]) -> None:
    before = make_onnx([node("LeakyRelu", ["x"], ["y"])], {"x": shape}, {"y": shape})
    assert operators(slopes_per_channel(before)) == ["LeakyRelu"]


@pytest.mark.parametrize("apply", PASSES, ids=lambda apply: apply.__name__)
def test_a_pass_that_finds_nothing_to_do_copies_nothing(
    apply: Callable[[onnx.ModelProto], onnx.ModelProto],
) -> None:
    model = make_onnx([node("Relu", ["x"], ["y"])], IMAGE, {"y": (1, 3, 8, 8)})
    assert apply(model) is model


@pytest.mark.parametrize("apply", [*PASSES, rewrite], ids=lambda apply: apply.__name__)
def test_every_pass_keeps_the_function_of_a_network_and_leaves_its_input_alone(
    apply: Callable[[onnx.ModelProto], onnx.ModelProto],
) -> None:
    before = tiny()
    bytes_before = before.SerializeToString(deterministic=True)
    assert_same_function(before, apply(before))
    assert before.SerializeToString(deterministic=True) == bytes_before


def test_a_rewritten_network_has_no_operator_that_the_passes_remove() -> None:
    assert not {"BatchNormalization", "Sum", "Identity", "Dropout"} & set(operators(rewrite(tiny())))


def test_constants_that_are_no_longer_read_are_dropped() -> None:
    after = rewrite(tiny())
    read = {name for node in after.graph.node for name in node.input}
    assert {tensor.name for tensor in after.graph.initializer} <= read

"""An If of a constant condition becomes its branch, however that is computed and whatever it holds."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.onnx_builders import make_onnx, node, run_onnx
from veltair.compiler.frontend.branches import take_branches
from veltair.compiler.frontend.fix import Choices, fix
from veltair.compiler.frontend.model_error import ModelError

X = np.array([[-1.0, 2.0, 3.0]], np.float32)


def graph(nodes: list[onnx.NodeProto], output: str, **constants: np.ndarray) -> onnx.GraphProto:
    value = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    return helper.make_graph(nodes, output, [], [value], initializer=held)


def scaled(by: float) -> onnx.GraphProto:
    """Of the same names in both branches, as exporters write them."""
    return graph([node("Mul", ["x", "k"], ["made"])], "made", k=np.float32(by))


def choice(condition: str, output: str, yes: onnx.GraphProto, no: onnx.GraphProto) -> onnx.NodeProto:
    return node("If", [condition], [output], then_branch=yes, else_branch=no)


def operators(model: onnx.ModelProto) -> list[str]:
    return [one.op_type for one in model.graph.node]


def test_of_a_computed_condition_the_branch_is_taken_with_its_constants() -> None:
    nodes = [node("Equal", ["rate", "wanted"], ["is"]), choice("is", "y", scaled(2.0), scaled(3.0))]
    constants = {"rate": np.array(8), "wanted": np.array(16)}
    model = make_onnx(nodes, {"x": (1, 3)}, {"y": (1, 3)}, constants)
    found = take_branches(model)
    assert "If" not in operators(found)
    assert np.array_equal(run_onnx(found, X)[0], X * 3)


def test_the_condition_of_a_given_constant_reaches_branches_in_branches() -> None:
    inner = graph([node("Not", ["is"], ["not"]), choice("not", "made", scaled(5.0), scaled(7.0))], "made")
    nodes = [node("Equal", ["rate", "wanted"], ["is"]), choice("is", "y", inner, scaled(3.0))]
    model = make_onnx(
        nodes,
        {"x": (1, 3), "rate": ()},
        {"y": (1, 3)},
        {"wanted": np.array(16)},
        types={"rate": TensorProto.INT64},
    )
    found = fix(model, "net", Choices(constants={"rate": 16})).model
    assert "If" not in operators(found)
    assert np.array_equal(run_onnx(found, X)[0], X * 7)


def test_two_ifs_whose_branches_use_the_same_names_stay_apart() -> None:
    nodes = [
        choice("yes", "one", scaled(2.0), scaled(3.0)),
        choice("no", "two", scaled(5.0), scaled(7.0)),
        node("Add", ["one", "two"], ["y"]),
    ]
    constants = {"yes": np.array(True), "no": np.array(False)}
    found = take_branches(make_onnx(nodes, {"x": (1, 3)}, {"y": (1, 3)}, constants))
    assert np.array_equal(run_onnx(found, X)[0], X * 9)


def test_a_branch_that_passes_on_what_is_outside_does_so() -> None:
    through = graph([], "x")
    model = make_onnx(
        [choice("yes", "y", through, scaled(3.0))], {"x": (1, 3)}, {"y": (1, 3)}, {"yes": np.array(True)}
    )
    assert np.array_equal(run_onnx(take_branches(model), X)[0], X)


def test_an_if_that_the_input_decides_stays() -> None:
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["is"]),
        choice("is", "y", scaled(2.0), scaled(3.0)),
    ]
    model = make_onnx(nodes, {"x": (1, 3)}, {"y": (1, 3)}, {"zero": np.float32(0)})
    assert "If" in operators(take_branches(model))


def test_a_condition_of_several_values_is_named() -> None:
    model = make_onnx(
        [choice("both", "y", scaled(2.0), scaled(3.0))],
        {"x": (1, 3)},
        {"y": (1, 3)},
        {"both": np.array([True, False])},
    )
    with pytest.raises(ModelError, match=r"the condition of node y_node \(If\) cannot be computed"):
        take_branches(model)

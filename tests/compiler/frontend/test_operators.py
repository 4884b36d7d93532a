import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.onnx_builders import make_onnx, node
from tests.support.tiny import tiny
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.frontend.operators import Unsupported, check_operators, unsupported_operators

ROW = {"x": (1, 3)}


def model_of(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    return make_onnx(nodes, ROW, dict.fromkeys(outputs, (1, 3)), domains=["acme", "com.microsoft"])


def branch(operator: str) -> onnx.GraphProto:
    value = helper.make_tensor_value_info("made", TensorProto.FLOAT, (1, 3))
    return helper.make_graph([node(operator, ["x"], ["made"])], "branch", [], [value])


def reasons(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",)) -> list[str]:
    return [one.reason for one in unsupported_operators(model_of(*nodes, outputs=outputs))]


def test_a_network_of_known_operators_has_no_unsupported_one() -> None:
    assert unsupported_operators(tiny()) == ()
    check_operators(tiny(), "tiny")


def test_every_unsupported_node_is_found_in_the_order_of_the_model() -> None:
    model = model_of(
        node("Det", ["x"], ["a"], name="rnn"),
        node("Relu", ["a"], ["b"]),
        node("Scan", ["b"], ["y"], name="scan"),
    )
    assert unsupported_operators(model) == (
        Unsupported("rnn", "Det", "TVM's ONNX importer does not know it"),
        Unsupported("scan", "Scan", "which layers run must not depend on the input"),
    )


def test_the_message_lists_all_nodes_of_all_unsupported_operators_on_one_line() -> None:
    model = model_of(
        node("Det", ["x"], ["a"], name="rnn1"),
        node("Frob", ["a"], ["b"], name="block/frob", domain="acme"),
        node("Det", ["b"], ["y"], name="rnn2"),
    )
    with pytest.raises(ModelError) as caught:
        check_operators(model, "net.onnx")
    assert str(caught.value) == (
        "net.onnx: operator Det of nodes rnn1, rnn2 is not supported: TVM's ONNX importer does not know it; "
        "operator acme.Frob of node block/frob is not supported: custom operator of the domain acme. "
        "Replace it in the export, or end the model before it"
    )


def test_a_custom_operator_with_the_name_of_a_standard_one_is_unsupported() -> None:
    # TVM's importer goes by the name alone and would compute the standard one.
    assert reasons(node("Relu", ["x"], ["y"], domain="acme")) == ["custom operator of the domain acme"]


def test_the_standard_domain_may_be_written_out() -> None:
    assert reasons(node("Relu", ["x"], ["y"], domain="ai.onnx")) == []


def test_operators_of_onnx_runtime_that_tvm_imports_are_supported_and_others_are_not() -> None:
    gelu = node("FastGelu", ["x"], ["a"], domain="com.microsoft")
    pad = node("Pad", ["a"], ["y"], domain="com.microsoft")
    assert reasons(gelu, pad) == ["custom operator of the domain com.microsoft"]


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan"])
def test_control_flow_is_unsupported_though_tvm_imports_some(operator: str) -> None:
    choice = node(operator, ["x"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg"))
    assert reasons(choice) == ["which layers run must not depend on the input"]


@pytest.mark.parametrize("operator", ["NonMaxSuppression", "NonZero", "Unique", "Compress"])
def test_outputs_whose_shape_depends_on_the_input_are_unsupported(operator: str) -> None:
    assert reasons(node(operator, ["x"], ["y"])) == ["the shape of its output depends on the input"]


def test_a_dropout_inside_the_network_is_supported() -> None:
    assert reasons(node("Dropout", ["x"], ["h", "mask"]), node("Relu", ["h"], ["y"])) == []


def test_a_mask_that_was_left_out_is_not_used() -> None:
    # An empty name is an output, or an input, that is not there.
    clip = node("Clip", ["h", "", "x"], ["y"])
    assert reasons(node("Dropout", ["x"], ["h", ""]), clip) == []


def test_a_dropout_that_makes_an_output_is_unsupported() -> None:
    dropout = node("Dropout", ["x"], ["y"])
    assert reasons(dropout) == ["it makes an output of the model, as in training"]


def test_a_dropout_whose_mask_is_used_is_unsupported() -> None:
    nodes = node("Dropout", ["x"], ["h", "mask"]), node("Relu", ["h"], ["y"])
    reader = node("Cast", ["mask"], ["z"], to=TensorProto.FLOAT)
    assert reasons(*nodes, outputs=("y", "mask")) == ["its mask is used, as in training"]
    assert reasons(*nodes, reader, outputs=("y", "z")) == ["its mask is used, as in training"]


def test_constants_in_nodes_are_supported() -> None:
    value = onnx.numpy_helper.from_array(np.ones((1, 3), np.float32))
    assert reasons(node("Constant", [], ["one"], value=value), node("Add", ["x", "one"], ["y"])) == []


def test_a_node_without_a_name_is_named_by_its_output() -> None:
    (found,) = unsupported_operators(model_of(node("Det", ["x"], ["y"], name="")))
    assert found.node == "y"

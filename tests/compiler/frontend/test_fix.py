from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.imports import DOUBLE, FLOAT16, chain, floats, normal, one, proof_of, whole, with_opset
from tests.support.onnx_builders import make_onnx, node
from tests.support.tiny import tiny
from veltair.compiler.frontend.fix import fix
from veltair.compiler.frontend.graph import opset
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.frontend.precision import HALF, uses

IMAGE, MADE = (1, 4, 9, 9), (1, 8, 7, 7)


def operators(model: onnx.ModelProto) -> list[str]:
    return [one.op_type for one in model.graph.node]


def normalization(*names: str, half: bool = False) -> dict[str, np.ndarray]:
    kind = np.float16 if half else np.float32
    values = [normal(8, seed=number) for number in range(3)] + [np.abs(normal(8, seed=4)) + 0.5]
    return {name: value.astype(kind) for name, value in zip(names, values, strict=True)}


# --- constants
def test_what_depends_on_shapes_alone_is_computed_once() -> None:
    # x.view(x.size(0), -1), as PyTorch exports it.
    model = chain(
        ("Shape", "x", "s"),
        ("Gather", "s zero", "b", {"axis": 0}),
        ("Unsqueeze", "b axes", "b1"),
        ("Concat", "b1 rest", "to", {"axis": 0}),
        ("Reshape", "x to", "y"),
        shape=(1, 3, 4),
        made=(1, 12),
        constants={"zero": np.array(0), "axes": whole(0), "rest": whole(-1)},
    )
    found = fix(model, "net").model
    assert operators(found) == ["Reshape"]
    assert [numpy_helper.to_array(one).tolist() for one in found.graph.initializer] == [[1, -1]]


def branch(operator: str) -> onnx.GraphProto:
    value = helper.make_tensor_value_info("made", TensorProto.FLOAT, (1, 3))
    return helper.make_graph([node(operator, ["x"], ["made"])], operator, [], [value])


@pytest.mark.parametrize(("yes", "taken"), [(True, "Relu"), (False, "Exp")])
def test_an_if_of_a_constant_becomes_the_branch_that_is_taken(yes: bool, taken: str) -> None:
    choice = node("If", ["c"], ["y"], then_branch=branch("Relu"), else_branch=branch("Exp"))
    model = make_onnx([choice], {"x": (1, 3)}, {"y": (1, 3)}, {"c": np.array(yes)})
    assert taken in operators(fix(model, "net").model)
    assert "If" not in operators(fix(model, "net").model)


CONSTANTS: list[dict[str, object]] = [
    {"value_int": 1},
    {"value_ints": [1]},
    {"value_float": 1.0},
    {"value_floats": [1.0, 2.0, 3.0]},
    {"value": numpy_helper.from_array(np.float32([[1.0, 2.0, 3.0]]))},
    {
        "sparse_value": helper.make_sparse_tensor(
            numpy_helper.from_array(floats(2.0), "k"), numpy_helper.from_array(whole(1), "i"), [3]
        )
    },
]


@pytest.mark.parametrize("attributes", CONSTANTS, ids=lambda given: next(iter(given)))
def test_a_constant_node_of_any_kind_is_a_constant(attributes: dict[str, object]) -> None:
    nodes = [
        node("Constant", [], ["k"], **attributes),
        node("Cast", ["k"], ["f"], to=TensorProto.FLOAT),
        node("Add", ["x", "f"], ["y"]),
    ]
    model = make_onnx(nodes, {"x": (1, 3)}, {"y": (1, 3)})
    assert operators(fix(model, "net").model) == ["Add"]
    assert proof_of(model).error < 1e-6


def test_a_constant_text_that_nobody_reads_is_dropped() -> None:
    nodes = [node("Constant", [], ["k"], value_string=b"hi"), node("Relu", ["x"], ["y"])]
    assert operators(fix(make_onnx(nodes, {"x": (1, 3)}, {"y": (1, 3)}), "net").model) == ["Relu"]


def test_weights_in_constant_nodes_let_a_normalization_fold() -> None:
    # As PaddlePaddle and caffe2 export; light networks of ONNX have theirs from ConstantOfShape.
    names = ("g", "b", "m", "v")
    nodes = [
        node("Constant", [], ["w"], value=numpy_helper.from_array(normal(8, 4, 3, 3))),
        *(
            node("Constant", [], [name], value=numpy_helper.from_array(value))
            for name, value in normalization(*names).items()
        ),
        node("Conv", ["x", "w"], ["h"]),
        node("BatchNormalization", ["h", *names], ["y"]),
    ]
    model = make_onnx(nodes, {"x": IMAGE}, {"y": MADE})
    found = proof_of(model)
    assert found.error < 1e-5
    assert {"Conv", "BatchNormalization"} == set(operators(fix(model, "net").model))


def test_int8_weights_are_read_as_floats_once() -> None:
    weights = np.random.default_rng(0).integers(-100, 100, (8, 4)).astype(np.int8)
    model = chain(
        ("DequantizeLinear", "k s", "w", {"axis": 1}),
        ("MatMul", "x w", "y"),
        shape=(1, 3, 8),
        made=(1, 3, 4),
        constants={"k": weights, "s": floats(0.1, 0.2, 0.3, 0.4)},
    )
    assert operators(fix(model, "net").model) == ["MatMul"]


def test_metadata_outlive_the_folding() -> None:
    nodes = [node("Shape", ["x"], ["s"]), node("Reshape", ["x", "s"], ["y"])]
    model = make_onnx(nodes, {"x": (1, 3)}, {"y": (1, 3)}, types={"x": 7, "y": 7})
    helper.set_model_props(model, {"range.x": "0 30"})
    assert [(one.key, one.value) for one in fix(model, "net").model.metadata_props] == [("range.x", "0 30")]


# --- precision
def test_what_is_left_keeps_its_order() -> None:
    # ONNX Runtime sorts nodes anew; by the order of layers and inputs shipped candidates are found.
    model = chain(
        ("Relu", "x", "a"),
        ("Gather", "t places", "c", {"axis": 0}),
        ("Exp", "x", "b"),
        ("Mul", "b two", "d"),
        ("Add", "a c", "e"),
        ("Add", "e d", "y"),
        shape=(1, 3),
        made=(1, 3),
        constants={"t": normal(5, 3), "places": np.array([1]), "two": np.float32(2)},
    )
    assert operators(fix(model, "net").model) == ["Relu", "Exp", "Mul", "Add", "Add"]


def half_network() -> onnx.ModelProto:
    nodes = [
        node("Cast", ["x"], ["h"], to=FLOAT16),
        node("Conv", ["h", "w"], ["c"]),
        node("BatchNormalization", ["c", "g", "b", "m", "v"], ["z"]),
        node("PRelu", ["z", "slope"], ["r"]),
        node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
    ]
    constants = {"w": normal(8, 4, 3, 3).astype(np.float16), "slope": np.full((1, 1, 1), 0.1, np.float16)}
    return make_onnx(
        nodes, {"x": IMAGE}, {"y": MADE}, {**constants, **normalization("g", "b", "m", "v", half=True)}
    )


def test_float16_is_computed_in_float32_and_told() -> None:
    found = fix(half_network(), "net")
    assert not uses(found.model, HALF)
    assert "float16 is computed in float32, its inputs and outputs included" in found.notes
    proof = proof_of(half_network())
    # ONNX Runtime may compute in float32 too, with what casts back and forth removed.
    assert proof.error < 1e-5 and proof.half_error is not None and proof.half_error < 1e-2


def test_inputs_and_outputs_of_float16_are_float32_then() -> None:
    model = make_onnx([node("Relu", ["x"], ["y"])], {"x": (1, 3)}, {"y": (1, 3)}, types={"x": 10, "y": 10})
    found = fix(model, "net").model
    assert [value.type.tensor_type.elem_type for value in (*found.graph.input, *found.graph.output)] == [1, 1]


def test_bfloat16_is_refused_with_its_node() -> None:
    model = chain(
        ("Cast", "x", "h", {"to": TensorProto.BFLOAT16}),
        ("Cast", "h", "y", {"to": TensorProto.FLOAT}),
        shape=(1, 8),
        made=(1, 8),
    )
    with pytest.raises(ModelError, match="operator Cast of node h_node is not supported: it makes bfloat16"):
        proof_of(model)


def test_float64_that_onnx_runtime_computes_is_right() -> None:
    model = chain(
        ("Cast", "x", "h", {"to": DOUBLE}),
        ("Mul", "h k", "d"),
        ("Cast", "d", "y", {"to": TensorProto.FLOAT}),
        shape=IMAGE,
        made=IMAGE,
        constants={"k": np.array(3.0)},
    )
    assert proof_of(model).error < 1e-6


# --- versions
OLD: list[tuple[str, Callable[[], onnx.ModelProto]]] = [
    (
        "Upsample 7",
        lambda: one(
            "Upsample", (1, 2, 6, 6), (1, 2, 12, 12), opset=7, mode="nearest", scales=[1.0, 1.0, 2.0, 2.0]
        ),
    ),
    (
        "Upsample 9",
        lambda: one("Upsample", (1, 2, 6, 6), (1, 2, 12, 12), floats(1, 1, 2, 2), opset=9, mode="nearest"),
    ),
    (
        "Upsample 9 linear",
        lambda: one("Upsample", (1, 2, 6, 6), (1, 2, 12, 12), floats(1, 1, 2, 2), opset=9, mode="linear"),
    ),
    (
        "Resize 10",
        lambda: one("Resize", (1, 2, 6, 6), (1, 2, 12, 12), floats(1, 1, 2, 2), opset=10, mode="nearest"),
    ),
    ("Softmax 11", lambda: one("Softmax", (2, 3, 4), (2, 3, 4), opset=11, axis=1)),
    ("Pad 10", lambda: one("Pad", IMAGE, (1, 4, 11, 11), opset=10, pads=[0, 0, 1, 1, 0, 0, 1, 1])),
    ("Clip 6", lambda: one("Clip", (2, 30), (2, 30), opset=10, min=-0.5, max=0.5)),
    ("Squeeze 11", lambda: one("Squeeze", (1, 4, 1), (1, 4), opset=11, axes=[-1])),
    ("Max 8", lambda: one("Max", (2, 3), (2, 3), np.float32(0.1), opset=8)),
    (
        "BatchNormalization 7",
        lambda: one(
            "BatchNormalization",
            (1, 8, 4, 4),
            (1, 8, 4, 4),
            *normalization("g", "b", "m", "v").values(),
            opset=7,
        ),
    ),
    (
        "BatchNormalization 6",
        lambda: one(
            "BatchNormalization",
            (1, 8, 4, 4),
            (1, 8, 4, 4),
            *normalization("g", "b", "m", "v").values(),
            opset=6,
            is_test=1,
        ),
    ),
    ("Add 6", lambda: one("Add", IMAGE, IMAGE, normal(4), opset=6, broadcast=1, axis=1)),
    ("Gemm 6", lambda: one("Gemm", (1, 4), (1, 5), normal(4, 5), normal(5), opset=6, broadcast=1)),
    (
        "Reshape 4",
        lambda: with_opset(chain(("Reshape", "x", "y", {"shape": [1, 324]}), shape=IMAGE, made=(1, 324)), 4),
    ),
    ("Concat 3", lambda: one("Concat", (1, 4), (1, 8), normal(1, 4), opset=3)),
    (
        "Dropout 6",
        lambda: chain(("Dropout", "x", "h", {"is_test": 1}), ("Relu", "h", "y"), shape=(1, 3), made=(1, 3)),
    ),
]


@pytest.mark.parametrize(("name", "make"), OLD, ids=lambda value: value if isinstance(value, str) else "")
def test_operators_of_old_sets_are_right(name: str, make: Callable[[], onnx.ModelProto]) -> None:
    version = int(name.split()[1])
    model = make() if opset(make()) != 17 else with_opset(make(), version)
    assert proof_of(model).error < 1e-5


def test_a_conversion_is_told() -> None:
    model = one("Softmax", (2, 3, 4), (2, 3, 4), opset=11, axis=1)
    assert fix(model, "net").notes == ("operators of opset 11 were converted to opset 13",)


def refused(change: Callable[[onnx.ModelProto], object]) -> str:
    model = tiny()
    change(model)
    with pytest.raises(ModelError) as caught:
        fix(model, "net")
    assert "truncated" not in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_format_that_is_too_new_is_named() -> None:
    assert "net is written in version 99 of the format" in refused(
        lambda model: setattr(model, "ir_version", 99)
    )


def test_an_operator_set_that_is_too_new_is_named_with_what_to_export() -> None:
    message = refused(lambda model: setattr(model.opset_import[0], "version", 99))
    assert message.startswith("net is of opset 99; up to ") and message.endswith("opset 23 or older")


def test_a_model_without_an_operator_set_is_named() -> None:
    assert "net names no operator set" in refused(lambda model: model.ClearField("opset_import"))


def test_nodes_that_are_not_sorted_are_named_without_a_guess() -> None:
    def reverse(model: onnx.ModelProto) -> None:
        nodes = list(model.graph.node)[::-1]
        del model.graph.node[:]
        model.graph.node.extend(nodes)

    assert "net is not a valid ONNX model: Nodes in a graph must be topologically sorted" in refused(reverse)


def test_initialisers_of_an_old_format_need_not_be_inputs() -> None:
    model = one("Conv", IMAGE, (1, 2, 7, 7), normal(2, 4, 3, 3), opset=7)
    model.ir_version = 3
    assert proof_of(model).error < 1e-5


def test_an_initialiser_that_is_listed_as_an_input_is_no_input() -> None:
    model = make_onnx(
        [node("Add", ["x", "k"], ["y"])], {"x": (1, 3), "k": (1, 3)}, {"y": (1, 3)}, {"k": normal(1, 3)}
    )
    assert [value.name for value in fix(model, "net").model.graph.input] == ["x"]


def test_a_format_that_onnx_runtime_does_not_read_yet_is_written_as_an_older_one() -> None:
    model = one("Relu", (1, 3), (1, 3))
    model.ir_version = onnx.IR_VERSION
    assert proof_of(model).error == 0


def test_nodes_of_one_name_get_names_of_their_own() -> None:
    model = chain(
        ("Relu", "x", "a", {"name": "n"}), ("Exp", "a", "y", {"name": "n"}), shape=(1, 3), made=(1, 3)
    )
    assert [one.name for one in fix(model, "net").model.graph.node] == ["n", "n.1"]
    assert proof_of(model).error < 1e-6


@pytest.mark.parametrize("indices", [whole(1, 6), np.array([[0, 1], [1, 2]])], ids=["flat", "by axis"])
def test_a_sparse_initialiser_is_a_dense_one(indices: np.ndarray) -> None:
    model = make_onnx([node("MatMul", ["x", "k"], ["y"])], {"x": (1, 4)}, {"y": (1, 4)})
    values = numpy_helper.from_array(floats(1.0, 2.0), "k")
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(indices, "k_i"), [4, 4])
    )
    (dense,) = fix(model, "net").model.graph.initializer
    found = numpy_helper.to_array(dense)
    assert (found[0, 1], found[1, 2], found.sum()) == (1.0, 2.0, 3.0)


def test_functions_of_the_model_are_written_out() -> None:
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    twice = helper.make_function("local", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    nodes = [helper.make_node("Twice", ["x"], ["t"], domain="local", name="t"), node("Relu", ["t"], ["y"])]
    model = make_onnx(nodes, {"x": (1, 3)}, {"y": (1, 3)}, domains=["local"])
    model.functions.append(twice)
    assert operators(fix(model, "net").model) == ["Add", "Relu"]
    assert proof_of(model).error < 1e-6


def test_a_model_without_an_input_is_refused() -> None:
    model = make_onnx([node("Neg", ["k"], ["y"])], {}, {"y": (1, 3)}, {"k": normal(1, 3)})
    with pytest.raises(ModelError, match="net has no input; models with at least one are supported"):
        fix(model, "net")


@pytest.mark.parametrize("kind", ["DOUBLE", "BOOL", "UINT8"])
def test_an_input_of_another_type_is_named_with_its_type(kind: str) -> None:
    number = TensorProto.DataType.Value(kind)
    model = make_onnx(
        [node("Identity", ["x"], ["y"])], {"x": (1, 3)}, {"y": (1, 3)}, types={"x": number, "y": number}
    )
    with pytest.raises(ModelError, match=f"net: input x is {kind}; export"):
        fix(model, "net")


def test_an_output_whose_shape_the_values_decide_is_named_with_the_node() -> None:
    shaped = node("Reshape", ["k", "x"], ["y"], name="form")
    model = make_onnx([shaped], {"x": (2,)}, {"y": ("n", "m")}, {"k": normal(6)}, types={"x": 7})
    with pytest.raises(ModelError, match=r"the shape of y is not known .*: node form \(Reshape\) makes"):
        fix(model, "net")


def test_what_onnx_runtime_refuses_is_told_in_its_words_on_one_line() -> None:
    model = chain(
        ("Shape", "x", "s"),
        ("Cast", "x", "h", {"to": TensorProto.INT32}),
        ("Gemm", "h k", "c"),
        ("Cast", "c", "y", {"to": TensorProto.FLOAT}),
        shape=(1, 4),
        made=(1, 2),
        constants={"k": np.ones((4, 2), np.int32)},
    )
    with pytest.raises(ModelError, match=r"net: ONNX Runtime refuses the model: .*Gemm") as caught:
        proof_of(model)
    assert "\n" not in str(caught.value) and "ONNXRuntimeError" not in str(caught.value)


def test_float64_that_onnx_runtime_has_no_kernels_for_is_computed_in_float32_and_told() -> None:
    nodes = [
        node("Cast", ["x"], ["h"], to=TensorProto.DOUBLE),
        node("Conv", ["h", "w"], ["c"]),
        node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    model = make_onnx(nodes, {"x": IMAGE}, {"y": MADE}, {"w": normal(8, 4, 3, 3).astype(np.float64)})
    found = fix(model, "net")
    assert not uses(found.model, DOUBLE)
    assert any(note.startswith("float64 is computed in float32") for note in found.notes)
    assert proof_of(model).error < 1e-5


def test_float64_that_has_kernels_stays() -> None:
    nodes = [
        node("Cast", ["x"], ["h"], to=TensorProto.DOUBLE),
        node("Exp", ["h"], ["e"]),
        node("Cast", ["e"], ["y"], to=TensorProto.FLOAT),
    ]
    model = make_onnx(nodes, {"x": (1, 3)}, {"y": (1, 3)})
    assert uses(fix(model, "net").model, DOUBLE)
    assert not fix(model, "net").notes


def test_a_local_response_of_even_size_is_refused_by_its_node() -> None:
    model = make_onnx([node("LRN", ["x"], ["y"], size=4)], {"x": IMAGE}, {"y": IMAGE})
    with pytest.raises(ModelError, match=r"y_node is not supported: its size 4 is even"):
        fix(model, "net")

"""Mutations of valid ONNX models: each is imported, or refused with one error that says why."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.support.fuzz import INPUTS, ODD_TEXTS, cut_or_spoilt, fuzz
from tests.support.tiny import tiny, tiny_words
from veltair.compiler.frontend.importer import import_model
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.frontend.opening import open_model

MODELS = (tiny(), tiny_words())
OPERATORS = (
    "Relu",
    "Add",
    "Conv",
    "MatMul",
    "TopK",
    "Nowhere",
    "",
    "Reshape",
    "Identity",
    "Cast",
    "If",
    "LSTM",
)
ATTRIBUTES = {
    "axis": st.integers(-9, 9),
    "axes": st.lists(st.integers(-4, 4), max_size=3),
    "strides": st.lists(st.integers(-1, 3), max_size=3),
    "pads": st.lists(st.integers(-2, 9), max_size=5),
    "group": st.integers(-1, 20),
    "to": st.integers(-1, 30),
    "auto_pad": st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID", "NOTHING"]),
    "mode": st.sampled_from(["nearest", "constant", "x"]),
    "alpha": st.floats(width=32),
}
DIMENSIONS = st.sampled_from([0, 1, 2, 3, 16, -1, 2**40, "N"])


def others(model: onnx.ModelProto, draw: st.DrawFn) -> None:
    """Change one thing of a model."""
    graph = model.graph
    node = draw(st.sampled_from(list(graph.node)))
    names = [*(name for one in graph.node for name in (*one.input, *one.output)), *ODD_TEXTS[:3]]
    match draw(st.integers(0, 10)):
        case 0:
            node.op_type = draw(st.sampled_from(OPERATORS))
        case 1 if node.input:
            node.input[draw(st.integers(0, len(node.input) - 1))] = draw(st.sampled_from(names))
        case 2:
            node.output[0] = draw(st.sampled_from(names))
        case 3:
            name = draw(st.sampled_from(sorted(ATTRIBUTES)))
            del_attribute(node, name)
            node.attribute.append(helper.make_attribute(name, draw(ATTRIBUTES[name]) or 1))
        case 4:
            graph.node.remove(node)
        case 5:
            graph.node.insert(draw(st.integers(0, len(graph.node))), copy.deepcopy(node))
        case 6:
            tensor = draw(st.sampled_from(list(graph.initializer)))
            tensor.CopyFrom(weights(draw, tensor))
        case 7:
            graph.initializer.remove(draw(st.sampled_from(list(graph.initializer))))
        case 8:
            value = draw(st.sampled_from([*graph.input, *graph.output]))
            value.type.tensor_type.elem_type = draw(st.integers(-1, 25))
        case 9:
            value = draw(st.sampled_from([*graph.input, *graph.output]))
            set_shape(value, draw(st.lists(DIMENSIONS, max_size=5)))
        case _:
            model.opset_import[0].version = draw(st.sampled_from([0, 1, 6, 9, 13, 17, 23, 99]))


def del_attribute(node: onnx.NodeProto, name: str) -> None:
    for one in [one for one in node.attribute if one.name == name]:
        node.attribute.remove(one)


def weights(draw: st.DrawFn, tensor: TensorProto) -> TensorProto:
    """Return weights of another shape, type or value under the same name."""
    array = numpy_helper.to_array(tensor)
    match draw(st.integers(0, 3)):
        case 0:
            array = array.reshape(-1)
        case 1:
            array = array.astype(draw(st.sampled_from([np.float64, np.float16, np.int64, np.bool_])))
        case 2:
            array = np.full_like(array, draw(st.sampled_from([0, 1])))
        case _:
            array = array.reshape(-1)[:0]
    return numpy_helper.from_array(array, tensor.name)


def set_shape(value: onnx.ValueInfoProto, shape: list[Any]) -> None:
    elem_type = value.type.tensor_type.elem_type
    value.CopyFrom(helper.make_tensor_value_info(value.name, elem_type, shape))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    model = copy.deepcopy(draw(st.sampled_from(MODELS)))
    for _ in range(draw(st.integers(1, 2))):
        others(model, draw)
    return model.SerializeToString()


def take(content: bytes, folder: Path) -> None:
    path = folder / "any.onnx"
    path.write_bytes(content)
    try:
        imported = import_model("any", open_model(path), 0.01)
    except ModelError as error:
        assert str(error) and "Traceback" not in str(error)
    else:
        assert imported.model.layers


@INPUTS
def test_a_model_with_another_part_is_imported_or_refused(inputs: int, tmp_path: Path) -> None:
    fuzz(inputs, mutated(), lambda content: take(content, tmp_path))


@INPUTS
def test_a_spoilt_file_is_refused(inputs: int, tmp_path: Path) -> None:
    contents = st.sampled_from([model.SerializeToString() for model in MODELS]).flatmap(cut_or_spoilt)
    fuzz(inputs, contents | st.binary(max_size=100), lambda content: take(content, tmp_path))

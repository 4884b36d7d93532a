from collections.abc import Callable
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.onnx_builders import make_onnx, node
from tests.support.service.hostile_models import HOSTILE, plain
from veltair.compiler.frontend.model_error import ModelError
from veltair.service.keys.builder_keys import BoundsKeys
from veltair.service.models.vetting import check_work, vet

BOUNDS = BoundsKeys(nodes=5, tensor_elements=1_000, activation_mb=0.01, gmacs=1.0, metadata_kb=1.0)


def test_a_plain_model_is_taken() -> None:
    model = plain()
    assert vet(model.SerializeToString(), BOUNDS) == model


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_is_refused_on_one_line_by_what_it_has(name: str) -> None:
    content, said = HOSTILE[name]()
    with pytest.raises(ModelError, match=said) as caught:
        vet(content, BOUNDS)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500


def around(change: Callable[[int], onnx.ModelProto], most: int) -> None:
    vet(change(most).SerializeToString(), BOUNDS)
    with pytest.raises(ModelError, match="bounds"):
        vet(change(most + 1).SerializeToString(), BOUNDS)


def test_nodes_are_counted() -> None:
    def chain(count: int) -> onnx.ModelProto:
        names = ["x", *(f"t{number}" for number in range(count - 1)), "y"]
        nodes = [node("Relu", [a], [b]) for a, b in pairwise(names)]
        return make_onnx(nodes, {"x": (1, 2)}, {"y": (1, 2)})

    around(chain, 5)


def test_elements_of_inputs_constants_and_what_is_made_are_counted() -> None:
    around(lambda size: make_onnx([node("Relu", ["x"], ["y"])], {"x": (1, size)}, {"y": None}), 1_000)
    around(
        lambda size: make_onnx(
            [node("Add", ["x", "k"], ["y"])], {"x": (1, 1)}, {"y": None}, {"k": np.zeros(size, np.float32)}
        ),
        1_000,
    )
    around(
        lambda size: make_onnx(
            [node("Tile", ["x", "k"], ["y"])], {"x": (1, 1)}, {"y": None}, {"k": np.array([1, size])}
        ),
        1_000,
    )


def test_bytes_of_all_that_nodes_make_are_counted() -> None:
    def wide(size: int) -> onnx.ModelProto:
        names = ["x", "a", "b", "c", "y"]
        nodes = [node("Relu", [a], [b]) for a, b in pairwise(names)]
        return make_onnx(nodes, {"x": (1, size)}, {"y": None})

    around(wide, 625)  # four of 4 bytes each


def test_text_about_the_model_is_counted() -> None:
    def documented(size: int) -> onnx.ModelProto:
        model = plain()
        model.producer_name = ""
        model.graph.node[0].doc_string = "x" * (size - 6)
        helper.set_model_props(model, {"abc": "def"})
        return model

    around(documented, 1_000)


def test_work_is_counted() -> None:
    check_work(1_000_000_000, BOUNDS)
    with pytest.raises(ModelError, match=r"1\.1 GMACs; bounds\.gmacs is 1"):
        check_work(1_100_000_000, BOUNDS)


def test_a_constant_tensor_of_an_attribute_is_looked_at_too() -> None:
    value = numpy_helper.from_array(np.zeros(2, np.float32), "k")
    value.data_location = TensorProto.EXTERNAL
    model = make_onnx(
        [node("Constant", [], ["k"], value=value), node("Add", ["x", "k"], ["y"])], {"x": (1, 2)}, {"y": None}
    )
    with pytest.raises(ModelError, match="keeps k in another file"):
        vet(model.SerializeToString(), BOUNDS)

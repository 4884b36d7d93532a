from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.support.onnx_builders import make_onnx, node
from veltair.compiler.footprint.computed_indices import unbounded_buffer
from veltair.compiler.frontend.importer import import_model

LINE = np.arange(16, dtype=np.float32)
ROW, EIGHT = LINE.reshape(1, 16), np.ones(8, np.float32)


def single(
    operator: str, inputs: str, shape: Sequence[int], constants: Mapping[str, Any], **attributes: Any
) -> onnx.ModelProto:
    """Return a model of one node, whose input x is of whole numbers where others are constants."""
    kinds = {"x": TensorProto.INT64} if constants and operator != "Conv" else {}
    one = node(operator, inputs.split(), ["y"], **attributes)
    return make_onnx([one], {"x": shape}, {"y": None}, constants, types=kinds)


def found(model: onnx.ModelProto) -> str:
    functions = import_model("net", model, 1.0).functions().values()
    return "".join(map(unbounded_buffer, functions))


SAFE = {
    "rows that an input names": single("Gather", "k x", (1, 8), {"k": LINE}),
    "a place that an input names": single(
        "OneHot", "x d v", (1, 8), {"d": np.array(4), "v": np.array([0, 1], np.float32)}
    ),
    "a convolution": single(
        "Conv", "x k", (1, 3, 8, 8), {"k": np.ones((4, 3, 3, 3), np.float32)}, pads=[1] * 4
    ),
    "a pooling": single("MaxPool", "x", (1, 3, 8, 8), {}, kernel_shape=[3, 3], pads=[1] * 4),
    "a softmax": single("Softmax", "x", (1, 8), {}),
}
UNSAFE = {
    "elements that an input names": single("GatherElements", "k x", (1, 8), {"k": ROW}, axis=1),
    "parts that an input names": single("GatherND", "k x", (8, 1), {"k": LINE}),
    "writes to elements that an input names": single(
        "ScatterElements", "k x u", (1, 8), {"k": ROW, "u": EIGHT.reshape(1, 8)}, axis=1
    ),
    "writes to parts that an input names": single("ScatterND", "k x u", (8, 1), {"k": LINE, "u": EIGHT}),
}


@pytest.mark.parametrize("name", SAFE)
def test_a_kernel_that_stays_within_its_buffers_is_known_as_such(name: str) -> None:
    assert found(SAFE[name]) == ""


@pytest.mark.parametrize("name", UNSAFE)
def test_a_kernel_that_values_lead_anywhere_is_found(name: str) -> None:
    assert found(UNSAFE[name])

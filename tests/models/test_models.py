from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_builders import run_onnx

from models import mobilenet_v2, resnet50
from models.graph import GraphRecorder
from veltair.compiler.onnx_passes import check_static

MODELS = [resnet50.resnet50, mobilenet_v2.mobilenet_v2]
Make = Callable[..., onnx.ModelProto]


def count_operators(model: onnx.ModelProto, operator: str) -> int:
    return sum(node.op_type == operator for node in model.graph.node)


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_model_gives_finite_logits_of_one_image_that_differ(make: Make) -> None:
    model = make()
    check_static(model, make.__name__)
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    (logits,) = run_onnx(model, image)
    assert logits.shape == (1, 1000)
    # Activations must neither explode nor vanish, or agreement with ONNX Runtime means nothing.
    assert 0.01 < logits.std() < 100


@pytest.mark.parametrize(
    ("make", "parameters"),
    # Without the running statistics of the normalizations, as the published counts are.
    [(resnet50.resnet50, 25_557_032), (mobilenet_v2.mobilenet_v2, 3_504_872)],
    ids=["resnet50", "mobilenet_v2"],
)
def test_a_model_has_the_published_number_of_parameters(make: Make, parameters: int) -> None:
    counted = sum(
        numpy_helper.to_array(tensor).size
        for tensor in make().graph.initializer
        if not tensor.name.endswith((".mean", ".var", ".min", ".max"))
    )
    assert counted == parameters


def test_resnet50_has_53_convolutions_and_16_sums() -> None:
    # 1 stem, 16 blocks of 3 and 4 shortcuts.
    model = resnet50.resnet50()
    assert (count_operators(model, "Conv"), count_operators(model, "Add")) == (53, 16)


def test_resnet50_strides_in_the_3x3_convolutions() -> None:
    for node in resnet50.resnet50().graph.node:
        options = {attribute.name: list(attribute.ints) for attribute in node.attribute}
        if node.op_type == "Conv" and options["strides"] == [2, 2] and "shortcut" not in node.name:
            assert options["kernel_shape"] in ([3, 3], [7, 7]), node.name


def test_mobilenet_v2_has_52_convolutions_17_of_them_depthwise_and_10_sums() -> None:
    # 1 stem, 1 head, 17 blocks: one of 2 convolutions and 16 of 3. Blocks that repeat a width of table 2 add.
    model = mobilenet_v2.mobilenet_v2()
    groups = [
        attribute.i for node in model.graph.node for attribute in node.attribute if attribute.name == "group"
    ]
    assert count_operators(model, "Conv") == 52
    assert sum(group > 1 for group in groups) == 17
    assert count_operators(model, "Add") == 10


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_model_is_the_same_bytes_each_time(make: Make) -> None:
    assert make().SerializeToString(deterministic=True) == make().SerializeToString(deterministic=True)


def test_another_seed_gives_other_weights_of_the_same_shapes() -> None:
    one, other = mobilenet_v2.mobilenet_v2(1), mobilenet_v2.mobilenet_v2(3)
    assert [list(tensor.dims) for tensor in one.graph.initializer] == [
        list(tensor.dims) for tensor in other.graph.initializer
    ]
    assert one.graph.initializer[0].raw_data != other.graph.initializer[0].raw_data


def test_a_recorded_graph_is_checked() -> None:
    graph = GraphRecorder("broken", 0)
    output = graph.node("Add", ["input", "nobody makes this"], "sum")
    with pytest.raises(onnx.checker.ValidationError, match="nobody makes this"):
        graph.model((1, 3), output, (1, 3))


def test_a_recorded_output_of_a_wrong_shape_is_refused() -> None:
    graph = GraphRecorder("wrong", 0)
    output = graph.node("Relu", ["input"], "relu")
    with pytest.raises(onnx.shape_inference.InferenceError):
        graph.model((1, 3), output, (1, 4))

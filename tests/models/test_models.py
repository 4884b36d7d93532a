import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from models.efficientnet_b0 import efficientnet_b0
from models.googlenet import googlenet
from models.graph import GraphRecorder
from models.mobilenet_v2 import mobilenet_v2
from models.resnet50 import resnet50
from models.tiny_yolov2 import tiny_yolov2
from tests.support.onnx_builders import relative_error, run_onnx
from veltair.compiler.frontend.fix import check_static
from veltair.compiler.frontend.graph import runtime_inputs
from veltair.compiler.frontend.rewriting import rewrite

README = Path(__file__).parents[2] / "models" / "README.md"
Make = Callable[..., onnx.ModelProto]
# Neither weights nor biases: statistics of normalizations and bounds of clips.
NO_PARAMETERS = (".mean", ".var", ".min", ".max")


@dataclass(frozen=True)
class Published:
    """What is published of a model (sources: models/README.md), how it compiles, the start of its SHA-256."""

    name: str
    make: Make
    parameters: int
    giga_macs: str
    layers: int
    structures: int
    digest: str


PUBLISHED = (
    Published("ResNet-50", resnet50, 25_557_032, "4.09", 58, 29, "ac9290aa3f20b4cb"),
    Published("MobileNet-V2", mobilenet_v2, 3_504_872, "0.30", 56, 34, "69f90ec1c474e10e"),
    Published("EfficientNet-B0", efficientnet_b0, 5_288_548, "0.39", 101, 63, "8051350f2cad22bd"),
    Published("GoogLeNet", googlenet, 6_624_904, "1.50", 83, 72, "7b461defa35b1d69"),
    Published("Tiny-YOLOv2", tiny_yolov2, 15_861_773, "3.49", 17, 17, "d60cc21dafc84ebd"),
)


def only(*makes: Make) -> pytest.MarkDecorator:
    """Mark a test that is of some of the models."""
    chosen = [known for known in PUBLISHED if known.make in makes]
    return pytest.mark.parametrize("known", chosen, indirect=True, ids=lambda known: known.make.__name__)


# Made and run once for all tests of a model; pytest orders the tests by model.
@pytest.fixture(scope="module", params=PUBLISHED, ids=lambda known: known.make.__name__)
def known(request: pytest.FixtureRequest) -> Published:
    found: Published = request.param
    return found


@pytest.fixture(scope="module")
def model(known: Published) -> onnx.ModelProto:
    return known.make()


@pytest.fixture(scope="module")
def made(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """What every node of the model makes of one image."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = [name for node in watched.graph.node for name in node.output]
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return dict(zip(names, run_onnx(watched, image(model)), strict=True))


def count_operators(model: onnx.ModelProto, operator: str) -> int:
    return sum(node.op_type == operator for node in model.graph.node)


def attribute(node: onnx.NodeProto, name: str) -> Any:
    return next(onnx.helper.get_attribute_value(value) for value in node.attribute if value.name == name)


def image(model: onnx.ModelProto, seed: int = 0) -> NDArray[np.float32]:
    shape = [extent.dim_value for extent in runtime_inputs(model)[0].type.tensor_type.shape.dim]
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: [extent.dim_value for extent in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }


def count_macs(model: onnx.ModelProto) -> int:
    """Return the products of convolutions and dense layers, from the shapes in the graph alone."""
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    made = shapes(model)
    return sum(
        prod(made[node.output[0]]) * prod(weights[node.input[1]][1:])
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm")
    )


def test_activations_of_an_image_neither_explode_nor_vanish(
    model: onnx.ModelProto, made: dict[str, NDArray[np.float32]]
) -> None:
    # Otherwise agreement with ONNX Runtime would mean nothing.
    check_static(model, model.graph.name)
    for name, values in made.items():
        assert np.abs(values).max() < 1000, name
        assert values.std() > 0.01, name


def test_most_of_what_a_rectifier_reads_or_passes_is_alive(
    model: onnx.ModelProto, made: dict[str, NDArray[np.float32]]
) -> None:
    for node in model.graph.node:
        if node.op_type in ("Relu", "Clip", "LeakyRelu"):
            assert 0.3 < (made[node.output[0]] > 0).mean() < 0.8, node.name


def test_outputs_of_two_images_differ_by_more_than_errors_that_are_allowed(model: onnx.ModelProto) -> None:
    (one,), (other,) = (run_onnx(model, image(model, seed)) for seed in (1, 2))
    assert relative_error(one, other) > 0.01


def test_a_model_has_the_published_number_of_parameters(known: Published, model: onnx.ModelProto) -> None:
    counted = sum(
        numpy_helper.to_array(tensor).size
        for tensor in model.graph.initializer
        if not tensor.name.endswith(NO_PARAMETERS)
    )
    assert counted == known.parameters


def test_a_model_takes_the_published_macs_in_all_digits_published(
    known: Published, model: onnx.ModelProto
) -> None:
    assert f"{count_macs(model) / 1e9:.2f}" == known.giga_macs


def test_a_model_is_the_same_bytes_on_every_machine(known: Published, model: onnx.ModelProto) -> None:
    data = model.SerializeToString(deterministic=True)
    assert hashlib.sha256(data).hexdigest().startswith(known.digest)


def test_the_passes_keep_the_function_of_a_model(
    model: onnx.ModelProto, made: dict[str, NDArray[np.float32]]
) -> None:
    after = rewrite(model)
    assert not {"BatchNormalization", "LeakyRelu", "Dropout"} & {node.op_type for node in after.graph.node}
    (found,) = run_onnx(after, image(model))
    assert relative_error(found, made[model.graph.output[0].name]) < 1e-5


@only(efficientnet_b0, googlenet, tiny_yolov2)
def test_a_model_becomes_few_layers_that_hold_all_its_macs(known: Published, model: onnx.ModelProto) -> None:
    # TVM takes seconds to import: only tests that need it pay. test_importer.py has the other two models.
    from veltair.compiler.frontend.importer import import_model  # noqa: PLC0415

    imported = import_model(known.make.__name__, model, 0.01)
    assert (len(imported.calls), len(imported.functions())) == (known.layers, known.structures)
    assert imported.model.macs == count_macs(model)


def test_the_readme_states_the_numbers_that_are_tested_here(known: Published) -> None:
    table = README.read_text().partition("## Size")[2].partition("## QoS")[0]
    (row,) = (line for line in table.splitlines() if line.startswith(f"| {known.name} |"))
    layers, structures, parameters, _, macs = row.split("|")[2:7]
    assert [int(cell.replace(" ", "")) for cell in (layers, structures, parameters)] == [
        known.layers,
        known.structures,
        known.parameters,
    ]
    assert f"{float(macs.replace('G', '')):.2f}" == known.giga_macs


@pytest.mark.long
def test_a_whole_model_agrees_with_onnx_runtime(known: Published, model: onnx.ModelProto) -> None:
    from tests.support.compiler.unscheduled import run_unscheduled  # noqa: PLC0415
    from veltair.compiler.frontend.importer import import_model  # noqa: PLC0415
    from veltair.compiler.search.intrinsics import vectorise_math  # noqa: PLC0415

    vectorise_math()
    (found,) = run_unscheduled(import_model(known.make.__name__, model, 0.01), [image(model)])
    (wanted,) = run_onnx(model, image(model))
    assert relative_error(found, wanted) < 1e-5


@only(resnet50)
def test_resnet50_has_53_convolutions_and_16_sums(model: onnx.ModelProto) -> None:
    # 1 stem, 16 blocks of 3 and 4 shortcuts.
    assert (count_operators(model, "Conv"), count_operators(model, "Add")) == (53, 16)


@only(resnet50)
def test_resnet50_strides_in_the_3x3_convolutions(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Conv" and attribute(node, "strides") == [2, 2] and "shortcut" not in node.name:
            assert attribute(node, "kernel_shape") in ([3, 3], [7, 7]), node.name


@only(mobilenet_v2)
def test_mobilenet_v2_has_52_convolutions_17_of_them_depthwise_and_10_sums(model: onnx.ModelProto) -> None:
    # 1 stem, 1 head, 17 blocks: one of 2 convolutions and 16 of 3. Blocks that repeat a width of table 2 add.
    groups = [attribute(node, "group") for node in model.graph.node if node.op_type == "Conv"]
    assert len(groups) == 52
    assert sum(group > 1 for group in groups) == 17
    assert count_operators(model, "Add") == 10


@only(efficientnet_b0)
def test_efficientnet_b0_has_81_convolutions_16_of_them_depthwise_and_9_sums(model: onnx.ModelProto) -> None:
    # 1 stem, 1 head, 16 blocks: one of 2 convolutions and 15 of 3, and 2 more in each for the gate.
    groups = [attribute(node, "group") for node in model.graph.node if node.op_type == "Conv"]
    assert len(groups) == 81
    assert sum(group > 1 for group in groups) == 16
    assert count_operators(model, "Add") == 9


@only(efficientnet_b0)
def test_efficientnet_b0_squeezes_to_a_quarter_of_what_a_block_reads(model: onnx.ModelProto) -> None:
    # Not of what it expands to: the code of the authors, which torchvision follows.
    squeezed = [
        tensor.dims[0] for tensor in model.graph.initializer if tensor.name.endswith("squeeze.reduce.weight")
    ]
    assert squeezed == [8, 4, 6, 6, 10, 10, 20, 20, 20, 28, 28, 28, 48, 48, 48, 48]


@only(efficientnet_b0)
def test_gates_of_efficientnet_b0_differ_between_channels(made: dict[str, NDArray[np.float32]]) -> None:
    gates = [values for name, values in made.items() if name.endswith("gate")]
    assert len(gates) == 16
    assert all(np.ptp(gate) > 0.3 for gate in gates)


@only(googlenet)
def test_googlenet_has_57_convolutions_and_9_modules_of_4_branches(model: onnx.ModelProto) -> None:
    # 3 before the modules, 6 in each.
    assert count_operators(model, "Conv") == 57
    assert [len(node.input) for node in model.graph.node if node.op_type == "Concat"] == [4] * 9


@only(googlenet)
def test_googlenet_halves_sizes_rounding_up(model: onnx.ModelProto) -> None:
    sizes = [shapes(model)[name][2] for name in ("stem1.conv", "pool1", "pool2", "pool3b", "pool4e")]
    assert sizes == [112, 56, 28, 14, 7]


@only(tiny_yolov2)
def test_tiny_yolov2_has_9_convolutions_and_ends_in_25_numbers_for_5_anchors(model: onnx.ModelProto) -> None:
    assert count_operators(model, "Conv") == 9
    assert shapes(model)["boxes"] == [1, 125, 13, 13]


@only(tiny_yolov2)
def test_the_last_pooling_of_tiny_yolov2_pads_behind_only_and_keeps_the_size(model: onnx.ModelProto) -> None:
    pools = [node for node in model.graph.node if node.op_type == "MaxPool"]
    assert [attribute(node, "strides")[0] for node in pools] == [2, 2, 2, 2, 2, 1]
    assert [attribute(node, "pads") for node in pools] == [[0, 0, 0, 0]] * 5 + [[0, 0, 1, 1]]
    assert shapes(model)["pool6"] == [1, 512, 13, 13]


def test_another_seed_gives_other_weights_of_the_same_shapes() -> None:
    one, other = mobilenet_v2(1), mobilenet_v2(3)
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


def test_a_recorded_swish_is_x_times_its_sigmoid() -> None:
    graph = GraphRecorder("swish", 0)
    model = graph.model((1, 3), graph.swish("input", "swish"), (1, 3))
    (found,) = run_onnx(model, np.float32([[-2, 0, 3]]))
    assert found[0] == pytest.approx([-2 / (1 + np.e**2), 0, 3 / (1 + np.e**-3)], rel=1e-6)


@pytest.mark.parametrize(("padding", "size"), [(None, 8), (0, 6), (2, 10)])
def test_a_recorded_convolution_with_bias_has_the_padding_that_it_is_given(
    padding: int | None, size: int
) -> None:
    graph = GraphRecorder("conv", 0)
    output = graph.biased_conv("input", "conv", (3, 4), kernel=3, padding=padding)
    graph.model((1, 3, 8, 8), output, (1, 4, size, size))


def test_normalizations_have_the_epsilon_of_their_graph() -> None:
    graph = GraphRecorder("norm", 0, epsilon=0.25)
    graph.conv("input", "conv", (3, 4), kernel=1)
    assert attribute(graph.nodes[-1], "epsilon") == 0.25

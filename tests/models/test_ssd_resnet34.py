import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.ssd_resnet34 import Size, default_boxes, feature_sizes, ssd_resnet34
from tests.support.compiler.unscheduled import run_unscheduled
from tests.support.onnx_builders import relative_error, run_onnx
from veltair.compiler.frontend.importer import ImportedModel, import_model

# The smallest picture, so that ONNX Runtime answers in a second; with few channels TVM's plain loops do too.
SMALL_PICTURE = Size(image=385)
SMALL = Size(image=385, width=4, blocks=(1, 1, 1))

# By hand, from the reference: convolutions that are equal, rows of their output, channels in and out, kernel.
BACKBONE = [
    (1, 600, 3, 64, 7),
    (6, 300, 64, 64, 3),
    *[(1, 150, 64, 128, 3), (7, 150, 128, 128, 3), (1, 150, 64, 128, 1)],
    *[(1, 150, 128, 256, 3), (11, 150, 256, 256, 3), (1, 150, 128, 256, 1)],
]
EXTRAS = [
    *[(1, 150, 256, 256, 1), (1, 75, 256, 512, 3)],
    *[(1, 75, 512, 256, 1), (1, 38, 256, 512, 3)],
    *[(1, 38, 512, 128, 1), (1, 19, 128, 256, 3)],
    *[(1, 19, 256, 128, 1), (1, 9, 128, 256, 3)],
    *[(1, 9, 256, 128, 1), (1, 7, 128, 256, 3)],
]
# 4 deltas and 81 classes for each of 4 or 6 boxes a place.
HEADS = [
    (1, rows, inner, boxes * values, 3)
    for rows, inner, boxes in [
        (50, 256, 4),
        (25, 512, 6),
        (13, 512, 6),
        (7, 256, 6),
        (3, 256, 4),
        (3, 256, 4),
    ]
    for values in (4, 81)
]


@pytest.fixture(scope="module")
def whole() -> onnx.ModelProto:
    return ssd_resnet34()


@pytest.fixture(scope="module")
def small() -> onnx.ModelProto:
    return ssd_resnet34(size=SMALL)


@pytest.fixture(scope="module")
def small_imported(small: onnx.ModelProto) -> ImportedModel:
    return import_model("ssd_resnet34", small, 0.1)


def picture(size: Size, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((1, 3, size.image, size.image), dtype=np.float32)


def counted_parameters(model: onnx.ModelProto, *endings: str) -> int:
    tensors = [tensor for tensor in model.graph.initializer if tensor.name.endswith(endings)]
    return sum(numpy_helper.to_array(tensor).size for tensor in tensors)


def counted_macs(model: onnx.ModelProto) -> int:
    """Return the products of all convolutions, from inferred shapes."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    rows = {value.name: value.type.tensor_type.shape.dim[2].dim_value for value in inferred.value_info}
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return sum(
        rows[node.output[0]] ** 2 * int(np.prod(weights[node.input[1]]))
        for node in model.graph.node
        if node.op_type == "Conv"
    )


def exposed(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """Return a copy of a model with inner tensors as outputs, after its own."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return copy


def test_the_heads_make_maps_of_50_25_13_7_3_and_3_rows() -> None:
    assert feature_sizes(1200) == (50, 25, 13, 7, 3, 3)


def test_there_are_15130_anchors_of_4_6_6_6_4_and_4_shapes_a_place() -> None:
    counts = [4 * 2500, 6 * 625, 6 * 169, 6 * 49, 4 * 9, 4 * 9]
    assert len(default_boxes(1200)) == sum(counts) == 15130


def test_the_first_anchors_are_two_squares_a_wide_and_a_high_box() -> None:
    # Sides 84 and 180 of 1200 pixels; the second square is sqrt(0.07 x 0.15), the rest 0.07 x and / sqrt(2).
    assert default_boxes(1200)[:4].tolist() == [
        pytest.approx([0.01, 0.01, 0.07, 0.07]),
        pytest.approx([0.01, 0.01, 0.102470, 0.102470], abs=1e-6),
        pytest.approx([0.01, 0.01, 0.098995, 0.049497], abs=1e-6),
        pytest.approx([0.01, 0.01, 0.049497, 0.098995], abs=1e-6),
    ]


def test_anchors_go_along_the_row_and_then_to_the_next_row() -> None:
    boxes = default_boxes(1200)
    assert boxes[4].tolist() == pytest.approx([0.03, 0.01, 0.07, 0.07])
    assert boxes[50 * 4].tolist() == pytest.approx([0.01, 0.03, 0.07, 0.07])


def test_a_map_of_six_shapes_has_those_of_ratio_2_and_3() -> None:
    # The second map: 180 pixels of 1200, and 25 rows. The third ratio is 0.15 x and / sqrt(3).
    boxes = default_boxes(1200)[10000:10006]
    assert boxes[:, :2].tolist() == [pytest.approx([0.02, 0.02])] * 6
    assert boxes[4:, 2:].tolist() == [
        pytest.approx([0.259808, 0.086603], abs=1e-6),
        pytest.approx([0.086603, 0.259808], abs=1e-6),
    ]


def test_boxes_wider_than_the_picture_are_clipped() -> None:
    # The last map: 1044 pixels of 1200, next 1260; 0.87 x sqrt(2) is 1.23.
    assert default_boxes(1200)[-4:, 2:].tolist() == [
        pytest.approx([0.87, 0.87]),
        pytest.approx([0.955772, 0.955772], abs=1e-6),
        pytest.approx([1.0, 0.615183], abs=1e-6),
        pytest.approx([0.615183, 1.0], abs=1e-6),
    ]


def test_the_network_has_the_macs_of_the_formulas_and_of_mlperf(whole: onnx.ModelProto) -> None:
    by_hand = sum(n * rows**2 * i * o * k**2 for n, rows, i, o, k in BACKBONE + EXTRAS + HEADS)
    assert counted_macs(whole) == by_hand == 216_415_931_904
    # MLPerf's paper (Reddi et al., ISCA 2020, table I): 433 giga-operations, two a MAC.
    assert 2 * by_hand == pytest.approx(433e9, rel=1e-3)


def test_the_network_has_the_parameters_of_the_formulas(whole: onnx.ModelProto) -> None:
    weights = sum(n * i * o * k**2 for n, _, i, o, k in BACKBONE + EXTRAS + HEADS)
    shifts = sum(n * o for n, _, _, o, _ in BACKBONE)
    biases = sum(n * o for n, _, _, o, _ in EXTRAS + HEADS)
    found = counted_parameters(whole, ".weight", ".bias", ".gamma", ".beta")
    assert found == weights + biases + 2 * shifts == 19_972_534


def test_folded_the_network_has_the_parameters_that_open_model_zoo_counts(whole: onnx.ModelProto) -> None:
    # 20.058 million: a bias for each normalization, and three constants of two numbers an anchor.
    decoding = counted_parameters(whole, "decode.step", "decode.centre", "decode.half")
    assert decoding == 3 * 15130 * 2
    folded = counted_parameters(whole, ".weight", ".bias", ".beta") + decoding
    assert folded / 1e6 == pytest.approx(20.058, abs=5e-4)


def test_the_stage_with_256_channels_keeps_the_size_of_the_one_before(whole: onnx.ModelProto) -> None:
    strides = {
        node.name: attribute.ints[0]
        for node in whole.graph.node
        for attribute in node.attribute
        if attribute.name == "strides"
    }
    halving = [name for name, stride in strides.items() if stride == 2 and name.startswith("stage")]
    assert halving == ["stage2.block0.first.conv", "stage2.block0.shortcut.conv"]


def test_the_outputs_are_boxes_and_scores_of_every_anchor(whole: onnx.ModelProto) -> None:
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in whole.graph.output
    }
    assert shapes == {"boxes": [1, 15130, 4], "scores": [1, 15130, 81]}


def test_boxes_are_the_anchors_moved_and_stretched_by_the_deltas(small: onnx.ModelProto) -> None:
    boxes, _, deltas = run_onnx(exposed(small, "loc"), picture(SMALL))
    for anchor, delta, box in zip(default_boxes(SMALL.image), deltas[0], boxes[0], strict=True):
        x, y, width, height = map(float, anchor)
        x, y = x + 0.1 * delta[0] * width, y + 0.1 * delta[1] * height
        width, height = width * np.exp(0.2 * delta[2]), height * np.exp(0.2 * delta[3])
        corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        assert box == pytest.approx(corners, abs=1e-5)


def test_the_numbers_of_a_place_and_shape_are_next_to_each_other(small: onnx.ModelProto) -> None:
    # Map 2 has 9 rows here and 6 shapes; row 3, column 5, shape 1 of its 81 classes.
    *_, logits, head = run_onnx(exposed(small, "conf", "conf1"), picture(SMALL))
    first = 17 * 17 * 4
    assert logits[0, first + (3 * 9 + 5) * 6 + 1].tolist() == head[0, 81:162, 3, 5].tolist()


def test_random_weights_neither_saturate_the_softmax_nor_blow_up_the_boxes() -> None:
    boxes, scores, deltas = run_onnx(exposed(ssd_resnet34(size=SMALL_PICTURE), "loc"), picture(SMALL_PICTURE))
    assert scores.sum(axis=2) == pytest.approx(1, abs=1e-5)
    # Were one class certain, or all equally likely, a wrong logit would hardly change a score.
    best = scores.max(axis=2)
    assert 4 / 81 < np.median(best) < 0.5 and best.max() < 0.99
    assert len(np.unique(scores.argmax(axis=2))) > 20
    assert 0.2 < deltas.std() < 3
    assert np.abs(boxes).max() < 10


def test_every_convolution_is_fused_with_what_follows_it(small_imported: ImportedModel) -> None:
    layers = [(layer.structure.rsplit("-", 1)[0], layer.macs > 0) for layer in small_imported.model.layers]
    products = [kind for kind, has_macs in layers if has_macs]
    # One block a stage here, of which the last two widen their input in a convolution; then 5 x 2 extras.
    blocks = ["conv2d_add_relu", "conv2d_add_add_relu"]
    widening = ["conv2d_add_relu", "conv2d_add", "conv2d_add_add_relu"]
    assert products[:19] == ["conv2d_add_relu", *blocks, *widening, *widening, *["conv2d_add_relu"] * 10]
    heads = products[19:]
    assert len(heads) == 12 and all(kind.startswith("conv2d_add") for kind in heads)
    others = [kind for kind, has_macs in layers if not has_macs]
    assert [kind.split("_")[0] for kind in others] == [
        "transpose",
        "max",
        "reshape",
        "reshape",
        "softmax",
    ]


def test_the_decoding_of_all_boxes_is_one_layer(small_imported: ImportedModel) -> None:
    boxes, scores = small_imported.outputs
    kind = small_imported.model.layers[boxes.layer].structure
    assert kind.count("exp") == 1 and kind.count("concatenate") == 2
    assert scores.layer == len(small_imported.calls) - 1


def test_the_imported_network_agrees_with_onnx_runtime(
    small: onnx.ModelProto, small_imported: ImportedModel
) -> None:
    sample = picture(SMALL, seed=3)
    found, wanted = run_unscheduled(small_imported, [sample]), run_onnx(small, sample)
    assert [output.shape for output in found] == [output.shape for output in wanted]
    assert max(map(relative_error, found, wanted)) < 1e-5


def test_a_picture_without_a_pixel_on_the_last_map_is_refused() -> None:
    assert feature_sizes(385)[-1] == 1
    with pytest.raises(ValueError, match="image is 384; give 385 or more, or the last map has no pixel"):
        Size(image=384)


@pytest.mark.parametrize("options", [{"width": 0}, {"blocks": (3, 0, 6)}])
def test_a_network_without_channels_or_blocks_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="give 1 or more of each"):
        Size(**options)

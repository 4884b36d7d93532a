import pytest

from veltair.compiler.build.build import LayerPlan, ModelPlan
from veltair.compiler.build.constants import ConstantPlan
from veltair.compiler.frontend.samples import Input
from veltair.evaluation.benchmarks.layer_operators import Shape, node_operator, plan_operators


def our_name(
    kinds: str, data: list[Shape], constants: list[Shape], output: Shape, macs: int, padded: bool = False
) -> str:
    """Return the name of the operator of a plan's only layer."""
    inputs = tuple(Input(f"input{number}", shape) for number, shape in enumerate(data))
    places = (
        *(("input", number, 0) for number in range(len(data))),
        *(("constant", number, 0) for number in range(len(constants))),
    )
    layer = LayerPlan("000", f"{kinds}-0123456789abcdef", macs, places, (output,), ("float32",))
    kept = tuple(ConstantPlan(0, shape, "float32") for shape in constants)
    (operator,) = plan_operators(ModelPlan("made up", inputs, (layer,), {}, (), kept))
    return (operator.padded if padded else operator).name


# Layers as models have them: their name, data, constants, output and multiply-accumulates.
LAYERS = [
    (
        ("conv2d_add_relu", [(1, 56, 56, 128)], [(3, 3, 128, 128), (1, 1, 1, 128)], (1, 28, 28, 128)),
        28 * 28 * 128 * 9 * 128,
        "3x3 56x56x128 → 28x28x128",
    ),
    (
        ("conv2d_add_add", [(1, 14, 14, 576), (1, 14, 14, 96)], [(1, 1, 576, 96)], (1, 14, 14, 96)),
        14 * 14 * 576 * 96,
        "1x1 14x14x576 → 96",
    ),
    (
        ("conv2d_add_maximum_minimum", [(1, 56, 56, 144)], [(3, 3, 1, 144)], (1, 28, 28, 144)),
        28 * 28 * 144 * 9,
        "depthwise 3x3 56x56x144 → 28x28x144",
    ),
    (
        ("conv2d_add", [(1, 14, 14, 64)], [(3, 3, 16, 64)], (1, 14, 14, 64)),
        14 * 14 * 64 * 9 * 16,
        "grouped 3x3 14x14x64 → 64",
    ),
    (
        # The answer in NCHW.
        ("conv2d_add_transpose", [(1, 13, 13, 1024)], [(1, 1, 1024, 125)], (1, 125, 13, 13)),
        13 * 13 * 1024 * 125,
        "1x1 13x13x1024 → 125",
    ),
    (
        # A gate of one pixel, and the image that it is multiplied with.
        (
            "conv2d_add_tir_sigmoid_multiply",
            [(1, 1, 1, 8), (1, 112, 112, 32)],
            [(1, 1, 8, 32)],
            (1, 112, 112, 32),
        ),
        8 * 32,
        "1x1 1x1x8 → 32",
    ),
    (("matmul_add", [(1, 1280)], [(1280, 1000), (1000,)], (1, 1000)), 1280 * 1000, "matmul 1x1280x1000"),
    (
        # Into 16 heads of width 64, and out of them.
        ("matmul_add", [(1, 384, 1024)], [(1, 16, 1024, 64), (1, 16, 1, 64)], (1, 16, 384, 64)),
        384 * 1024 * 1024,
        "matmul 384x1024x1024",
    ),
    (
        ("einsum_add_add", [(1, 16, 384, 64), (1, 384, 1024)], [(16, 64, 1024), (1024,)], (1, 384, 1024)),
        384 * 1024 * 1024,
        "matmul 384x1024x1024",
    ),
    (
        ("matmul_multiply_add", [(1, 16, 384, 64), (1, 16, 64, 384)], [], (1, 16, 384, 384)),
        16 * 384 * 64 * 384,
        "batched matmul 16x384x64x384",
    ),
    (("softmax", [(1, 16, 384, 384)], [], (1, 16, 384, 384)), 0, "softmax"),
    (("layer_norm", [(1, 384, 1024)], [(1024,), (1024,)], (1, 384, 1024)), 384 * 1024, "layer norm"),
    (("mean", [(1, 7, 7, 1280)], [], (1, 1, 1, 1280)), 0, "average pool"),
    (("max_pool2d", [(1, 112, 112, 64)], [], (1, 56, 56, 64)), 0, "max pool"),
    (("less_add_where_take_take_add", [(1, 384)], [(30522, 1024)], (1, 384, 1024)), 0, "gather"),
    (("reshape_reshape_concatenate", [(1, 3, 3, 16), (1, 3, 3, 16)], [], (1, 72, 4)), 0, "concatenate"),
    (("transpose_reshape", [(1, 1, 1, 1280)], [], (1, 1280)), 0, "layout"),
    (("expand_dims_cast_subtract_multiply", [(1, 384)], [], (1, 1, 1, 384)), 0, "elementwise"),
    # What nothing is known of keeps its name.
    (("conv1d_add", [(1, 8, 16)], [(16, 16, 3)], (1, 8, 16)), 8 * 16 * 16 * 3, "conv1d_add"),
]


@pytest.mark.parametrize(("layer", "macs", "name"), LAYERS, ids=[name for _, _, name in LAYERS])
def test_a_layer_of_ours_is_named_by_kind_and_sizes(
    layer: tuple[str, list[Shape], list[Shape], Shape], macs: int, name: str
) -> None:
    assert our_name(*layer, macs) == name


NODES = [
    ("Conv", [(1, 128, 56, 56), (128, 128, 3, 3), (128,)], (1, 128, 28, 28), "3x3 56x56x128 → 28x28x128"),
    (
        "Conv",
        [(1, 144, 56, 56), (144, 1, 5, 5), (144,)],
        (1, 144, 28, 28),
        "depthwise 5x5 56x56x144 → 28x28x144",
    ),
    ("Conv", [(1, 64, 14, 14), (64, 16, 3, 3)], (1, 64, 14, 14), "grouped 3x3 14x14x64 → 64"),
    # Weights that were packed before are no inputs; a Gemm and a MatMul tell enough without.
    ("Conv", [(1, 64, 14, 14), (64,)], (1, 64, 14, 14), "Conv"),
    ("Gemm", [(384, 1024), (4096,)], (384, 4096), "matmul 384x1024x4096"),
    ("MatMul", [(1, 384, 1024)], (1, 384, 2), "matmul 384x1024x2"),
    ("MatMul", [(2, 384, 1024), (1024, 8)], (2, 384, 8), "matmul 768x1024x8"),
    ("FusedMatMul", [(1, 16, 384, 64), (1, 16, 64, 384)], (1, 16, 384, 384), "batched matmul 16x384x64x384"),
    ("ReorderOutput", [(1, 128, 13, 13)], (1, 125, 13, 13), "layout"),
    ("Mul", [(1, 32, 112, 112), (1, 32, 1, 1)], (1, 32, 112, 112), "elementwise"),
    ("SkipLayerNormalization", [(1, 384, 1024)] * 2, (1, 384, 1024), "layer norm"),
    ("QuickGelu", [(1, 32, 112, 112)], (1, 32, 112, 112), "QuickGelu"),
]


@pytest.mark.parametrize(("op_type", "inputs", "output", "name"), NODES)
def test_a_node_of_onnx_runtime_is_named_as_the_layer_that_computes_the_same(
    op_type: str, inputs: list[Shape], output: Shape, name: str
) -> None:
    assert node_operator(op_type, inputs, [output]).name == name


def test_a_layer_is_matched_by_the_channels_that_onnx_runtime_pads_it_to() -> None:
    node = node_operator("Conv", [(1, 96, 56, 56), (32, 96, 1, 1), (32,)], [(1, 32, 56, 56)])
    layer = ("conv2d_add", [(1, 56, 56, 96)], [(1, 1, 96, 24)], (1, 56, 56, 24))
    assert our_name(*layer, 56 * 56 * 96 * 24) == "1x1 56x56x96 → 24"
    assert our_name(*layer, 56 * 56 * 96 * 24, padded=True) == node.padded.name == "1x1 56x56x96 → 32"


def test_a_depthwise_convolution_stays_one_when_it_is_padded() -> None:
    node = node_operator("Conv", [(1, 24, 14, 14), (24, 1, 3, 3)], [(1, 24, 14, 14)])
    assert node.padded.name == "depthwise 3x3 14x14x32 → 32"


def test_channels_that_are_read_are_padded_too() -> None:
    node = node_operator("Conv", [(1, 32, 56, 56), (144, 32, 1, 1)], [(1, 144, 56, 56)])
    layer = ("conv2d_add", [(1, 56, 56, 24)], [(1, 1, 24, 144)], (1, 56, 56, 144))
    assert our_name(*layer, 56 * 56 * 24 * 144, padded=True) == node.padded.name == "1x1 56x56x32 → 144"

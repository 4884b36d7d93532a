from typing import Any

import numpy as np
import onnx
import pytest

from tests.support.imports import floats, one, proof_of, whole
from tests.support.onnx_builders import Shape
from veltair.compiler.frontend.fix import fix
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.frontend.resizing import resizes

IMAGE = (1, 2, 6, 5)
NOTHING = np.zeros(0, np.float32)


def resized(
    made: Shape,
    *,
    scales: Any = None,
    sizes: Any = None,
    roi: Any = None,
    shape: Shape = IMAGE,
    opset: int = 18,
    **options: Any,
) -> onnx.ModelProto:
    given = [roi, None if scales is None else floats(*scales), None if sizes is None else whole(*sizes)]
    return one("Resize", shape, made, *given, opset=opset, **options)


RESIZES: dict[str, tuple[Shape, dict[str, Any]]] = {
    "nearest doubled": ((1, 2, 12, 10), {"scales": (1, 1, 2, 2)}),
    "nearest by one and a half": ((1, 2, 9, 7), {"scales": (1, 1, 1.5, 1.5)}),
    "nearest down by an odd scale": ((1, 2, 3, 3), {"scales": (1, 1, 0.6, 0.7)}),
    "linear down by an odd scale": ((1, 2, 3, 3), {"scales": (1, 1, 0.6, 0.7), "mode": "linear"}),
    "linear up by an odd scale": ((1, 2, 8, 6), {"scales": (1, 1, 1.4, 1.3), "mode": "linear"}),
    "linear to sizes": ((1, 2, 11, 13), {"sizes": (1, 2, 11, 13), "mode": "linear"}),
    "cubic doubled": ((1, 2, 12, 10), {"scales": (1, 1, 2, 2), "mode": "cubic"}),
    "cubic of another coefficient": (
        (1, 2, 12, 10),
        {"scales": (1, 1, 2, 2), "mode": "cubic", "cubic_coeff_a": -0.5},
    ),
    "cubic without what lies outside": (
        (1, 2, 12, 10),
        {"scales": (1, 1, 2, 2), "mode": "cubic", "exclude_outside": 1},
    ),
    "linear with antialiasing": ((1, 2, 3, 3), {"sizes": (1, 2, 3, 3), "mode": "linear", "antialias": 1}),
    "cubic with antialiasing": ((1, 2, 3, 2), {"sizes": (1, 2, 3, 2), "mode": "cubic", "antialias": 1}),
    "antialiasing that has nothing to do": (
        (1, 2, 12, 10),
        {"scales": (1, 1, 2, 2), "mode": "linear", "antialias": 1},
    ),
    "axes": ((1, 2, 12, 10), {"scales": (2, 2), "axes": [2, 3], "mode": "linear"}),
    "axes in another order": ((1, 2, 12, 15), {"scales": (3, 2), "axes": [3, 2], "mode": "linear"}),
    "negative axes": ((1, 2, 12, 10), {"sizes": (12, 10), "axes": [-2, -1]}),
    "not larger than": (
        (1, 2, 12, 10),
        {"sizes": (12, 20), "axes": [2, 3], "keep_aspect_ratio_policy": "not_larger", "mode": "linear"},
    ),
    "not smaller than": (
        (1, 2, 12, 10),
        {"sizes": (9, 10), "axes": [2, 3], "keep_aspect_ratio_policy": "not_smaller", "mode": "linear"},
    ),
    "empty scales beside sizes": ((1, 2, 12, 10), {"scales": (), "sizes": (1, 2, 12, 10), "mode": "linear"}),
    "channels last": (
        (1, 12, 10, 4),
        {"scales": (1, 2, 2, 1), "shape": (1, 6, 5, 4), "coordinate_transformation_mode": "asymmetric"},
    ),
    "channels last, linear": (
        (1, 12, 10, 4),
        {"scales": (1, 2, 2, 1), "shape": (1, 6, 5, 4), "mode": "linear"},
    ),
    "channels": ((1, 4, 6, 5), {"scales": (1, 2, 1, 1)}),
    "one dimension": ((1, 2, 12), {"scales": (1, 1, 2), "shape": (1, 2, 6), "mode": "linear"}),
    "a matrix": ((4, 9), {"scales": (2, 1.5), "shape": (2, 6), "mode": "linear"}),
    "three dimensions": (
        (1, 2, 6, 8, 6),
        {"scales": (1, 1, 2, 2, 2), "shape": (1, 2, 3, 4, 3), "mode": "linear"},
    ),
    "to one row": ((1, 2, 1, 1), {"sizes": (1, 2, 1, 1), "mode": "linear"}),
    "a crop": (
        (1, 2, 3, 3),
        {
            "sizes": (1, 2, 3, 3),
            "roi": floats(0, 0, 0.2, 0.2, 1, 1, 0.8, 0.8),
            "mode": "linear",
            "coordinate_transformation_mode": "tf_crop_and_resize",
        },
    ),
    "a crop beyond the image": (
        (1, 2, 4, 4),
        {
            "sizes": (1, 2, 4, 4),
            "roi": floats(0, 0, -0.5, 0.4, 1, 1, 0.8, 1.6),
            "mode": "linear",
            "coordinate_transformation_mode": "tf_crop_and_resize",
            "extrapolation_value": 7.0,
        },
    ),
    "opset 11 with an empty region": ((1, 2, 12, 10), {"scales": (1, 1, 2, 2), "roi": NOTHING, "opset": 11}),
}
COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


@pytest.mark.parametrize("name", RESIZES)
def test_a_resize_is_right(name: str) -> None:
    made, options = RESIZES[name]
    assert proof_of(resized(made, **options)).error < 1e-5


def test_a_resize_to_itself_is_nothing() -> None:
    with pytest.raises(ModelError, match="net has no layers: its outputs are its inputs"):
        proof_of(resized(IMAGE, scales=(1, 1, 1, 1), mode="linear"))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_all_ways_to_find_a_place_are_right(mode: str, coordinates: str) -> None:
    for made, scales in (((1, 2, 12, 10), (1, 1, 2, 2)), ((1, 2, 4, 6), (1, 1, 0.7, 1.3))):
        model = resized(made, scales=scales, mode=mode, coordinate_transformation_mode=coordinates)
        assert proof_of(model).error < 1e-5


@pytest.mark.parametrize("nearest", NEAREST)
def test_all_ways_to_round_are_right(nearest: str) -> None:
    for made, scales in (((1, 2, 12, 10), (1, 1, 2, 2)), ((1, 2, 3, 2), (1, 1, 0.5, 0.5))):
        assert proof_of(resized(made, scales=scales, nearest_mode=nearest)).error < 1e-6


def test_the_length_is_exact_where_the_mode_is_symmetric() -> None:
    model = resized(
        (1, 2, 4, 6),
        scales=(1, 1, 0.7, 1.3),
        opset=19,
        mode="linear",
        coordinate_transformation_mode="half_pixel_symmetric",
    )
    assert proof_of(model).error < 1e-5


def operators(model: onnx.ModelProto) -> set[str]:
    return {one.op_type for one in resizes(fix(model, "net").model).graph.node}


def test_what_tvm_has_right_stays_a_resize_that_fuses_in_any_layout() -> None:
    yolo = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    assert operators(resized((1, 2, 12, 10), scales=(1, 1, 2, 2), **yolo)) == {"Resize"}
    assert operators(resized((1, 2, 12, 10), scales=(1, 1, 2, 2), mode="linear")) == {"Resize"}


def test_a_fractional_scale_is_not_the_ratio_of_the_sizes() -> None:
    assert "Resize" not in operators(resized((1, 2, 4, 6), scales=(1, 1, 0.7, 1.3), mode="linear"))


def test_sizes_that_the_input_decides_are_refused_with_the_node() -> None:
    nodes = [
        onnx.helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        onnx.helper.make_node("Cast", ["m"], ["i"], to=onnx.TensorProto.INT64),
        onnx.helper.make_node("Reshape", ["i", "one"], ["s"]),
        onnx.helper.make_node("Tile", ["s", "four"], ["sizes"]),
        onnx.helper.make_node("Resize", ["x", "", "", "sizes"], ["r"], name="grow"),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [value("x", 1, IMAGE)],
        [value("r", 1, (1, 2, 12, 10))],
        [onnx.numpy_helper.from_array(whole(1), "one"), onnx.numpy_helper.from_array(whole(4), "four")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    with pytest.raises(ModelError, match=r"net: node grow \(Resize\) takes its sizes from the input"):
        proof_of(model)

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from models.mobilenet_v2 import mobilenet_v2
from models.resnet50 import resnet50
from tests.support.onnx_builders import make_onnx, node
from tests.support.tiny import tiny_words
from veltair.compiler.frontend import fix as fix_module
from veltair.compiler.frontend import importer
from veltair.compiler.frontend.importer import ImportedModel, Source, import_model
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.frontend.samples import Input

ROOT = Path(__file__).parents[3]
ROW = {"x": (1, 3)}


def import_nodes(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",), **options: Any) -> ImportedModel:
    return import_model("small", make_onnx(nodes, ROW, dict.fromkeys(outputs, (1, 3)), **options), 0.01)


@pytest.fixture(scope="module")
def resnet50_imported() -> ImportedModel:
    return import_model("resnet50", resnet50(), 0.015)


@pytest.fixture(scope="module")
def mobilenet_v2_imported() -> ImportedModel:
    return import_model("mobilenet_v2", mobilenet_v2(), 0.010)


def test_resnet50_becomes_58_layers_of_29_structures(resnet50_imported: ImportedModel) -> None:
    layers = resnet50_imported.model.layers
    assert (len(layers), len(resnet50_imported.functions())) == (58, 29)


def test_resnet50_takes_4_1_giga_macs(resnet50_imported: ImportedModel) -> None:
    # The published 4.09 GMACs of version 1.5: 53 convolutions and the dense layer of 2048 x 1000.
    assert resnet50_imported.model.macs == 4_089_184_256


def test_mobilenet_v2_becomes_56_layers_of_34_structures(mobilenet_v2_imported: ImportedModel) -> None:
    layers = mobilenet_v2_imported.model.layers
    assert (len(layers), len(mobilenet_v2_imported.functions())) == (56, 34)


def test_mobilenet_v2_takes_0_3_giga_macs(mobilenet_v2_imported: ImportedModel) -> None:
    # The published 300 million (table 4 of the paper).
    assert mobilenet_v2_imported.model.macs == 300_774_272


def test_equal_layers_share_a_structure(resnet50_imported: ImportedModel) -> None:
    # Stage 3 has 6 blocks: 5 reduce 1024 channels to 256 at 14 x 14, and all but the strided 3x3 are equal.
    calls = zip(resnet50_imported.model.layers, resnet50_imported.calls, strict=True)
    repeats = Counter(layer.structure for layer, call in calls if call.outputs == ((1, 14, 14, 256),))
    assert sorted(repeats.values()) == [1, 5, 5]


def test_the_tiny_network_has_six_layers_with_their_operators_fused(tiny_imported: ImportedModel) -> None:
    kinds = [layer.structure.rsplit("-", 1)[0] for layer in tiny_imported.model.layers]
    assert kinds == [
        "transpose",
        "conv2d_add_maximum_minimum",
        "conv2d_add_add_relu",
        "mean",
        "transpose_reshape",
        "matmul_add",
    ]


def test_macs_are_those_of_the_formulas(tiny_imported: ImportedModel) -> None:
    # Convolutions: 8 x 8 x 16 outputs of 3 x 3 x 3 and of 3 x 3 x 16 products; dense: 16 x 10.
    macs = [layer.macs for layer in tiny_imported.model.layers]
    assert macs == [0, 8 * 8 * 16 * 27, 8 * 8 * 16 * 144, 0, 0, 160]


def test_layers_name_their_inputs(tiny_imported: ImportedModel) -> None:
    sources = [
        [source for source in call.inputs if isinstance(source, Source)] for call in tiny_imported.calls
    ]
    # The second convolution reads the first one's output twice (also to add it), but has it once.
    numbers = [[source.layer for source in group] for group in sources]
    assert numbers == [[-1], [0], [1], [2], [3], [4]]
    assert tiny_imported.outputs == (Source(5),)
    assert tiny_imported.inputs == (Input("input", (1, 3, 16, 16)),)


def test_layers_are_numbered_and_named(tiny_imported: ImportedModel) -> None:
    names = [layer.name for layer in tiny_imported.model.layers]
    assert names[:2] == ["000-transpose", "001-conv2d_add_maximum_minimum"]


def test_structure_names_do_not_depend_on_the_run(tiny_imported: ImportedModel) -> None:
    program = (
        "from tests.support.tiny import tiny\nfrom veltair.compiler.frontend.importer import import_model\n"
        "print(*import_model('other', tiny(seed=7), 1.0).functions(), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    # Nor on the weights: another seed has the same structures.
    assert done.stdout.split() == list(tiny_imported.functions())


def test_layers_of_other_shapes_have_other_structures() -> None:
    def structure(width: int) -> str:
        model = make_onnx([node("Relu", ["x"], ["y"])], {"x": (1, width)}, {"y": (1, width)})
        return import_model("small", model, 0.01).model.layers[0].structure

    assert structure(3) != structure(4)


def test_two_outputs_are_found() -> None:
    model = import_nodes(
        node("Relu", ["x"], ["y"]), node("Softmax", ["y"], ["z"], axis=1), outputs=("y", "z")
    )
    assert model.outputs == (Source(0), Source(len(model.calls) - 1))


def test_an_output_may_be_the_input() -> None:
    nodes = node("Relu", ["x"], ["y"]), node("Identity", ["x"], ["z"])
    assert import_nodes(*nodes, outputs=("y", "z")).outputs == (Source(0), Source(-1))


def test_an_output_that_is_a_constant_is_refused() -> None:
    nodes = node("Relu", ["x"], ["y"]), node("Relu", ["k"], ["z"])
    with pytest.raises(ModelError, match="small: an output is a constant"):
        import_nodes(*nodes, outputs=("y", "z"), constants={"k": np.ones((1, 3), np.float32)})


def test_an_identity_at_the_end_is_no_layer() -> None:
    model = import_nodes(node("Relu", ["x"], ["h"]), node("Identity", ["h"], ["y"]))
    assert (len(model.calls), model.outputs) == (1, (Source(0),))


def test_an_unsupported_operator_is_named_with_its_node() -> None:
    frob = node("Frob", ["x"], ["y"], name="block3/frob", domain="acme")
    with pytest.raises(ModelError, match=r"small: operator acme\.Frob of node block3/frob is not supported"):
        import_nodes(frob, domains=["acme"])


def test_an_unsupported_operator_without_a_name_is_named_by_its_output() -> None:
    frob = node("Frob", ["x"], ["y"], name="", domain="acme")
    with pytest.raises(ModelError, match=r"Frob of node y is not supported"):
        import_nodes(frob, domains=["acme"])


def test_an_operator_that_onnx_does_not_know_is_named_with_its_node() -> None:
    with pytest.raises(ModelError, match=r"small: operator Frob of node y_node is not supported"):
        import_nodes(node("Frob", ["x"], ["y"]))


def test_a_model_that_onnx_does_not_allow_is_named_with_its_node() -> None:
    with pytest.raises(ModelError, match=r"small is not a valid ONNX model.*y_node OpType: Concat"):
        import_nodes(node("Concat", ["x"], ["y"]))


def test_a_node_that_the_importer_stumbles_over_is_named() -> None:
    # ONNX allows the attribute to lack, for it does not know the domain; TVM asks for it.
    attention = node("Attention", ["x", "w", "b"], ["y"], domain="com.microsoft")
    constants = {"w": np.ones((3, 9), np.float32), "b": np.ones(9, np.float32)}
    with pytest.raises(
        ModelError, match=r"small: node y_node \(Attention; inputs 1x3, 3x9, 9\) cannot be compiled"
    ):
        import_nodes(attention, constants=constants, domains=["com.microsoft"])


def test_a_model_that_only_passes_its_input_on_is_refused() -> None:
    with pytest.raises(ModelError, match="small has no layers: its outputs are its inputs"):
        import_nodes(node("Identity", ["x"], ["y"]))


def test_an_open_dimension_is_refused() -> None:
    model = make_onnx([node("Relu", ["x"], ["y"])], {"x": (1, "n")}, {"y": (1, "n")})
    with pytest.raises(ModelError, match=r"small: dimensions of 1 of 1 inputs are open: x is 1xn"):
        import_model("small", model, 0.01)


def test_what_does_not_become_a_layer_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (importer, fix_module):
        monkeypatch.setattr(room, "check_operators", lambda model, name: None)
    top = node("TopK", ["x", "k"], ["y", "places"], name="top")
    with pytest.raises(ModelError) as caught:
        import_nodes(top, node("Relu", ["y"], ["z"]), outputs=("z",), constants={"k": np.array([3])})
    text = str(caught.value)
    assert text.startswith("small: node top (TopK; inputs 1x3, int64 1) cannot be compiled")
    assert "\n" not in text and "R." not in text and text.endswith("or end the model before it")


def test_a_layer_may_make_integers() -> None:
    nodes = [node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)]
    model = import_model("small", make_onnx(nodes, ROW, {"y": (1,)}, types={"y": TensorProto.INT64}), 0.01)
    assert [(call.outputs, call.dtypes) for call in model.calls] == [(((1,),), ("int64",))]


def test_inputs_are_numbered_in_the_order_of_the_model() -> None:
    model = import_model("words", tiny_words(), 1.0)
    assert [value.name for value in model.inputs] == ["input", "ids", "mask"]
    (first, *_) = model.calls
    sources = [source for source in first.inputs if isinstance(source, Source)]
    assert {source for source in sources if source.layer < 0} == {Source(-1, n) for n in (0, 1, 2)}


def test_a_qos_of_zero_is_refused() -> None:
    model = make_onnx([node("Relu", ["x"], ["y"])], ROW, {"y": (1, 3)})
    with pytest.raises(ValueError, match="qos_s is 0"):
        import_model("small", model, 0)


def test_blocks_of_a_structure_have_the_same_names_wherever_the_layer_stands() -> None:
    mean = node("ReduceMean", ["x"], "m", axes=[1], keepdims=1)
    late = (node("ReduceMax", ["x"], "a", axes=[1], keepdims=1), node("Add", ["x", "a"], "b"))
    first = import_nodes(mean, node("Add", ["x", "m"], "y")).functions()
    later = import_nodes(
        *late, node("ReduceMean", ["b"], "m", axes=[1], keepdims=1), node("Add", ["b", "m"], "y")
    ).functions()
    shared = set(first) & set(later)
    assert shared
    for structure in shared:
        assert first[structure].script() == later[structure].script()

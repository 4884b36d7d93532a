import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.onnx_builders import Shape, make_onnx, node, run_onnx
from tests.support.tiny import tiny
from veltair.compiler.frontend.fix import Choices, fix
from veltair.compiler.frontend.fixed_inputs import Shapes, Values
from veltair.compiler.frontend.graph import dimensions
from veltair.compiler.frontend.model_error import ModelError


def network(**inputs: Shape) -> onnx.ModelProto:
    """Return a model that takes the ReLU of each of its inputs."""
    nodes = [node("Relu", [name], [f"{name}.out"]) for name in inputs]
    return make_onnx(nodes, inputs, {f"{name}.out": shape for name, shape in inputs.items()})


def shapes_of(model: onnx.ModelProto) -> list[tuple[int, ...] | None]:
    return [dimensions(value) for value in (*model.graph.input, *model.graph.output)]


def fixed(
    model: onnx.ModelProto, shapes: Shapes | None = None, constants: Values | None = None
) -> onnx.ModelProto:
    return fix(model, "net", Choices(shapes or {}, constants or {})).model


def test_a_model_of_fixed_shapes_is_taken_as_it_is() -> None:
    model = network(x=(2, 3))
    found = fix(model, "net")
    assert found.model is model and found.reference is model and found.notes == ()


@pytest.mark.parametrize("size", ["batch", "N", "batch_size", None, "unk__123", "?", "s0"])
def test_a_batch_that_alone_is_open_becomes_1_and_is_told(size: str | None) -> None:
    found = fix(network(x=(size, 3, 8, 8)), "net")
    assert shapes_of(found.model) == [(1, 3, 8, 8)] * 2
    assert found.notes == ("the batch was open; it is 1 now: x 1x3x8x8",)


@pytest.mark.parametrize("size", ["batch", 1])
def test_several_queries_at_once_are_the_first_dimension_of_all_that_goes_in_and_out(size: str | int) -> None:
    model = network(x=(size, 3, 8, 8), z=(size, 4))
    found = fix(model, "net", Choices(queries=4))
    assert shapes_of(found.model) == [(4, 3, 8, 8), (4, 4)] * 2
    assert found.notes[-1] == "it serves 4 queries at once"
    assert shapes_of(fix(model, "net").model) == [(1, 3, 8, 8), (1, 4)] * 2


def test_queries_that_cannot_be_told_apart_are_not_served_at_once() -> None:
    with pytest.raises(ModelError, match=r"input z is 2x4, whose first dimension is no batch of 1"):
        fix(network(x=(1, 3), z=(2, 4)), "net", Choices(queries=4))
    kept = make_onnx([node("ReduceMean", ["x"], ["y"], axes=[0], keepdims=1)], {"x": (1, 3)}, {"y": (1, 3)})
    with pytest.raises(ModelError, match=r"output y is \(1, 3\) for 4 queries at once"):
        fix(kept, "net", Choices(queries=4))


def test_each_of_several_queries_gets_the_answer_that_it_gets_alone() -> None:
    model = tiny()
    together = fix(model, "net", Choices(queries=3)).model
    values = np.random.default_rng(1).standard_normal((3, 3, 16, 16), dtype=np.float32)
    (answers,) = run_onnx(together, values)
    alone = [run_onnx(model, values[one : one + 1])[0][0] for one in range(3)]
    assert np.allclose(answers, alone, atol=1e-5)


def test_a_batch_of_a_name_is_one_wherever_it_stands() -> None:
    assert shapes_of(fixed(network(x=("batch", 3), state=(2, "batch", 4))))[:2] == [(1, 3), (2, 1, 4)]


def test_a_batch_that_each_input_names_its_own_way_is_one() -> None:
    assert shapes_of(fixed(network(x=("a_dim_0", 3), z=("b_dim_0", 4))))[:2] == [(1, 3), (1, 4)]


@pytest.mark.parametrize("shape", [("length",), (1, "width"), ("batch", 3, "height", "width")], ids=str)
def test_any_other_open_dimension_is_named_with_all_others_and_an_option_to_copy(shape: Shape) -> None:
    with pytest.raises(ModelError) as caught:
        fix(network(x=shape, z=(1, 4), w=(1, "width")), "net")
    text = str(caught.value)
    assert text.startswith("net: dimensions of 2 of 3 inputs are open: x is ")
    assert "w is 1xwidth" in text and "z is" not in text
    assert "--shape x=" in text and " --shape w=1,WIDTH" in text
    assert "`models.<name>.shapes: {x: [" in text and "\n" not in text


def test_the_option_holds_the_sizes_that_are_known_and_a_batch_of_1() -> None:
    with pytest.raises(ModelError, match=r"--shape 'input:0'=1,3,HEIGHT,WIDTH or `models"):
        fix(network(**{"input:0": ("batch", 3, "height", "width")}), "net")


def test_a_shape_that_is_given_fixes_what_is_open_and_all_that_has_its_name() -> None:
    model = network(x=("batch", "length"), mask=("batch", "length"))
    assert shapes_of(fixed(model, {"x": (2, 7)})) == [(2, 7)] * 4


def test_with_the_other_dimensions_given_the_batch_is_1() -> None:
    model = network(x=(1, 3, "height", "width"), z=("batch", 4))
    assert shapes_of(fixed(model, {"x": (1, 3, 8, 9)}))[:2] == [(1, 3, 8, 9), (1, 4)]


def test_an_input_without_a_shape_can_be_given_one() -> None:
    model = network(x=(1, 3))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match=r"x is of unknown shape\. Fix them with --shape x=SIZES"):
        fix(model, "net")
    assert shapes_of(fixed(model, {"x": (1, 3)}))[0] == (1, 3)


def test_an_output_without_a_shape_gets_the_one_that_follows() -> None:
    model = network(x=(1, 3))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert shapes_of(fix(model, "net").model) == [(1, 3), (1, 3)]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"y": (1, 3)}, "--shape y: there is no input y; it has x, z"),
        ({"x": (1, 3)}, "--shape x=1,3 has 2 dimensions, but the model says batchx3xsize"),
        ({"x": (1, 4, 5)}, "--shape x=1,4,5: dimension 1 is 3 in the model, which says batchx3xsize"),
        ({"x": (1, 3, 4), "z": (1, 5)}, "--shape z=1,5: size is 5 here and 4 elsewhere; give one size"),
        ({"x": (1, 3, 0)}, "--shape x=1,3,0: give sizes of 1 or more"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(shapes: Shapes, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        fix(network(x=("batch", 3, "size"), z=("batch", "size")), "net", Choices(shapes))
    assert message in str(caught.value)


def rate() -> onnx.ModelProto:
    """Return a model that multiplies its input by another, which is one whole number."""
    nodes = [node("Cast", ["sr"], ["f"], to=TensorProto.FLOAT), node("Mul", ["x", "f"], ["y"])]
    return make_onnx(nodes, {"x": (1, 3), "sr": ()}, {"y": (1, 3)}, types={"sr": TensorProto.INT64})


def test_an_input_of_one_value_becomes_a_constant_of_its_type() -> None:
    found = fix(rate(), "net", Choices(constants={"sr": 16000}))
    assert [value.name for value in found.model.graph.input] == ["x"]
    assert "input sr is the constant 16000" in found.notes
    (constant,) = found.model.graph.initializer
    assert numpy_helper.to_array(constant) == 16000.0


def test_a_constant_fills_the_shape_of_its_input_and_a_list_an_open_one() -> None:
    model = make_onnx(
        [node("Add", ["x", "a"], ["h"]), node("Add", ["h", "b"], ["y"])],
        {"x": (1, 3), "a": (1, 3), "b": ("n",)},
        {"y": (1, 3)},
    )
    found = fixed(model, {}, {"a": 2.5, "b": [1, 2, 3]})
    values = {one.name: numpy_helper.to_array(one).tolist() for one in found.graph.initializer}
    assert values == {"a": [[2.5, 2.5, 2.5]], "b": [1.0, 2.0, 3.0]}


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"rate": 1}, "--constant rate: there is no input rate; it has x, sr"),
        (
            {"sr": 0.5},
            "--constant sr=0.5 does not fit an input of INT64 a scalar: values of its type are whole",
        ),
        ({"sr": [1, 2]}, "--constant sr=[1, 2] does not fit an input of INT64 a scalar"),
    ],
)
def test_a_constant_that_does_not_fit_is_refused(constants: Values, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        fix(rate(), "net", Choices(constants=constants))
    assert message in str(caught.value)


def test_at_least_one_input_must_be_left() -> None:
    with pytest.raises(ModelError, match="net has no input left"):
        fix(network(x=(1, 3)), "net", Choices(constants={"x": 1.0}))


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (
            helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [1, 3])),
            "is a sequence, not a tensor",
        ),
        (
            helper.make_optional_type_proto(helper.make_tensor_type_proto(1, [1, 3])),
            "is an optional, not a tensor",
        ),
    ],
    ids=["sequence", "optional"],
)
def test_an_input_that_is_no_tensor_is_named_by_what_it_is(kind: onnx.TypeProto, word: str) -> None:
    model = network(x=(1, 3))
    model.graph.input[0].type.CopyFrom(kind)
    with pytest.raises(ModelError, match=f"net: input x {word}"):
        fix(model, "net")


def test_a_dimension_of_0_is_named_as_such() -> None:
    with pytest.raises(ModelError, match="net: dimension 0 of x is 0; a query has at least one value"):
        fix(network(x=(0, 3)), "net")


def test_the_model_that_was_given_stays_as_it_was() -> None:
    model = network(x=("batch", 3))
    before = model.SerializeToString(deterministic=True)
    fix(model, "net")
    assert model.SerializeToString(deterministic=True) == before

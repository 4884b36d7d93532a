from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.support.onnx_builders import make_onnx, node
from tests.support.tiny import tiny, tiny_words
from veltair.compiler.frontend.model_error import ModelError
from veltair.compiler.frontend.samples import Input, random_samples, read_inputs, relative_error

WORDS = Input("words", (1, 384), "int64", 0, 30521)


def token_model(metadata: dict[str, str]) -> onnx.ModelProto:
    """Return a model of an int32 input `t`, of this metadata."""
    cast = node("Cast", ["t"], ["y"], to=TensorProto.FLOAT)
    model = make_onnx([cast], {"t": (1, 3)}, {"y": (1, 3)}, types={"t": TensorProto.INT32})
    helper.set_model_props(model, metadata)
    return model


def test_inputs_are_read_in_the_order_of_the_model() -> None:
    assert read_inputs(tiny_words(), "tiny") == (
        Input("input", (1, 4, 8), "float32"),
        Input("ids", (1, 4), "int64", 0, 6),
        Input("mask", (1, 4), "int64", 0, 1),
    )


def test_integers_are_0_or_1_if_the_metadata_is_silent() -> None:
    assert read_inputs(token_model({}), "m") == (Input("t", (1, 3), "int32", 0, 1),)


def test_the_range_of_an_integer_input_is_read_from_the_metadata() -> None:
    model = token_model({"range.other": "0 2", "range.t": "-5 7"})
    assert read_inputs(model, "m") == (Input("t", (1, 3), "int32", -5, 7),)


@pytest.mark.parametrize("text", ["", "7", "0 1 2", "a b", "0,9", "3 2"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(
        ModelError, match=rf'm: metadata range\.t is "{text}"; write the lowest and the highest'
    ):
        read_inputs(token_model({"range.t": text}), "m")


@given(
    st.builds(
        lambda shape, dtype, ends: Input("x", tuple(shape), dtype, *sorted(ends)),
        st.lists(st.integers(1, 5), max_size=3),
        st.sampled_from(["int32", "int64"]),
        st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1)),
    ),
    st.integers(0, 9),
)
def test_integer_samples_have_the_shape_and_dtype_and_lie_in_the_range(value: Input, seed: int) -> None:
    (sample,) = random_samples([value], seed)
    assert (sample.shape, str(sample.dtype)) == (value.shape, value.dtype)
    assert ((sample >= value.low) & (sample <= value.high)).all()


def test_integer_samples_take_both_ends_of_their_range() -> None:
    (sample,) = random_samples([Input("x", (1000,), "int64", 3, 5)], 0)
    assert set(sample.tolist()) == {3, 4, 5}


def test_float_samples_are_standard_normal() -> None:
    (sample,) = random_samples([Input("x", (100, 100))], 0)
    assert (sample.shape, sample.dtype) == ((100, 100), np.float32)
    assert (sample.mean(), sample.std()) == pytest.approx((0, 1), abs=0.02)


def test_samples_depend_on_the_seed_alone() -> None:
    def bytes_of(seed: Any) -> list[bytes]:
        return [sample.tobytes() for sample in random_samples([Input("x", (2, 3)), WORDS], seed)]

    assert bytes_of(5) == bytes_of(5) != bytes_of(6)
    assert bytes_of([5, 1]) != bytes_of([5, 2])


def test_a_model_with_one_image_is_given_the_numbers_of_the_seed() -> None:
    (sample,) = random_samples(read_inputs(tiny(), "tiny"), 3)
    wanted = np.random.default_rng(3).standard_normal((1, 3, 16, 16), dtype=np.float32)
    assert np.array_equal(sample, wanted)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float64"}, "input x is float64; give one of float32, int32, int64"),
        ({"shape": (1, 0)}, r"input x: shape \(1, 0\) has an extent below 1"),
        ({"dtype": "int64", "low": 2, "high": 1}, r"input x: \[2, 1\] is empty; give low <= high"),
    ],
)
def test_an_impossible_input_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Input(**{"name": "x", "shape": (1, 3), **options})


RIGHT = np.array([4.0, -2.0], np.float32)


@pytest.mark.parametrize(
    ("values", "right", "error"),
    [
        (RIGHT, RIGHT, 0),
        (RIGHT + np.float32(1), RIGHT, 0.25),
        (RIGHT.reshape(1, 2), RIGHT, 0),
        (np.array([4, np.nan], np.float32), RIGHT, np.inf),
        (RIGHT, np.array([4, np.inf], np.float32), np.inf),
        (np.zeros(2, np.int64), np.zeros(2, np.int64), 0),
        (np.array([0, 1]), np.zeros(2, np.int64), np.inf),
        (np.array([7, 5]), np.array([7, 10]), 0.5),
        (np.array([True, True]), np.array([True, False]), 1),
        (np.array([1, 2], np.uint8), np.array([2, 2], np.uint8), 0.5),
    ],
)
def test_an_answer_is_off_by_its_largest_difference_over_the_largest_right_value(
    values: Any, right: Any, error: float
) -> None:
    assert relative_error(values, right) == error

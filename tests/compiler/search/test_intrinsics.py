import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import te, topi
from tvm.ir import IRModule
from tvm.s_tir import Schedule
from tvm.tirx import build

from veltair.compiler.search.intrinsics import vectorise_math
from veltair.compiler.search.target import GENERIC_X86, cpu_target

Array = NDArray[Any]
erf = np.vectorize(math.erf)


def kernel(function: Callable[[Any], Any], length: int, dtype: str = "float32") -> Any:
    """Return a kernel that applies a function to each element, eight at a time."""
    vectorise_math()
    x = te.placeholder((length,), dtype, name="x")
    schedule = Schedule(te.create_prim_func([x, function(x)]))
    (block,) = schedule.get_child_blocks(schedule.get_sblock("root"))
    (loop,) = schedule.get_loops(block)
    schedule.vectorize(schedule.split(loop, [None, 8])[1])
    return build(IRModule({"main": schedule.mod["main"]}), target=cpu_target(1, GENERIC_X86))


def apply(function: Callable[[Any], Any], values: Array) -> Array:
    padded = np.resize(values, -(-len(values) // 8) * 8)
    source = tvm.runtime.tensor(padded)
    result = tvm.runtime.empty(padded.shape, str(padded.dtype))
    kernel(function, len(padded), str(padded.dtype))["main"](source, result)
    made: Array = result.numpy()[: len(values)]
    return made


def relative_error(found: Array, wanted: Array) -> float:
    return float((np.abs(found - wanted) / np.abs(wanted)).max())


def test_exp_is_right_to_the_last_digits_where_its_result_is_a_normal_number() -> None:
    x = np.linspace(-87, 88.37, 1 << 18, dtype=np.float32)
    assert relative_error(apply(topi.exp, x), np.exp(x.astype(np.float64))) < 1e-7


def test_erf_is_right_to_the_last_digits() -> None:
    x = np.linspace(-8, 8, 1 << 18, dtype=np.float32)
    assert relative_error(apply(topi.erf, x), erf(x.astype(np.float64))) < 6e-7


def test_exp_of_far_below_zero_is_zero_as_masks_need_it() -> None:
    assert apply(topi.exp, np.float32([-88.4, -100, -1e4, -np.inf])).tolist() == [0, 0, 0, 0]


def test_exp_of_a_large_number_is_large_and_finite() -> None:
    found = apply(topi.exp, np.float32([88.4, 1e4, np.inf]))
    assert np.isfinite(found).all()
    assert (found > 2.4e38).all()


def test_exp_of_zero_is_one() -> None:
    assert apply(topi.exp, np.float32([0, -0.0])).tolist() == [1, 1]


def test_erf_of_a_large_number_is_one() -> None:
    x = np.float32([4, 1e10, np.inf])
    assert apply(topi.erf, x) == pytest.approx([1, 1, 1], abs=6e-7)


@pytest.mark.parametrize("function", [topi.exp, topi.erf, topi.sigmoid], ids=["exp", "erf", "sigmoid"])
def test_what_is_not_a_number_stays_so(function: Callable[[Any], Any]) -> None:
    assert np.isnan(apply(function, np.float32([np.nan, 1]))).tolist() == [True, False]


def test_sigmoid_stays_between_zero_and_one_but_for_the_last_digit() -> None:
    found = apply(topi.sigmoid, np.float32([-np.inf, -1e4, -16, 0, 16, 1e4, np.inf]))
    assert found == pytest.approx([0, 0, 0, 0.5, 1, 1, 1], abs=2e-7)
    assert found.min() >= 0


def test_sigmoid_and_tanh_are_right_everywhere() -> None:
    x = np.linspace(-120, 120, 1 << 16, dtype=np.float32)
    wide = x.astype(np.float64)
    assert np.abs(apply(topi.sigmoid, x) - 1 / (1 + np.exp(-wide))).max() < 2e-7
    assert np.abs(apply(topi.tanh, x) - np.tanh(wide)).max() < 2e-7


@pytest.mark.parametrize(
    ("function", "library"),
    [(topi.exp, "expf"), (topi.erf, "erff"), (topi.sigmoid, "expf"), (topi.tanh, "expf")],
    ids=["exp", "erf", "sigmoid", "tanh"],
)
def test_a_kernel_multiplies_vectors_and_calls_no_library(
    function: Callable[[Any], Any], library: str
) -> None:
    assembly = kernel(function, 64).inspect_source("asm")
    assert library not in assembly
    assert "vfmadd" in assembly
    assert "ymm" in assembly


@pytest.mark.parametrize(
    ("function", "numpy_function"),
    [(topi.exp, np.exp), (topi.erf, erf), (topi.sigmoid, lambda x: 1 / (1 + np.exp(-x)))],
)
def test_double_precision_keeps_its_own_functions(
    function: Callable[[Any], Any], numpy_function: Callable[[Array], Array]
) -> None:
    x = np.linspace(-5, 5, 64)
    assert relative_error(apply(function, x), numpy_function(x)) < 1e-15

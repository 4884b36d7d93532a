"""Vector code for the functions that LLVM would call a scalar library function for, element by element."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from tvm import tirx
from tvm.tirx.op import register_intrin_lowering

PRIORITY = 20  # TVM's own lowerings have 10
# exp(r) = 1 + r + r^2 P(r) for |r| <= ln(2) / 2: P of Cephes' expf (Moshier, 1989), highest power first.
EXP_SERIES = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
# ln(2) in two parts, the first with so few digits that whole multiples of it are exact.
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
LOG2_E = 1.44269504088896341
EXP_END = 88.37626  # exp(x) is more than float32 holds soon behind it
EXPONENT_BIAS, FRACTION_BITS = 127.0, 23
# sigmoid(x) = 1/2 + x P(x^2) / Q(x^2) for |x| <= SIGMOID_END, where it is 0 or 1 up to 2e-7: least squares,
# weighted again and again by the error until its maxima are even (3e-9). Highest power first.
SIGMOID_END = 16.0
SIGMOID_UPPER = (1.47087053e-11, 8.50514716e-08, 5.56898735e-05, 8.39886723e-03, 0.249999992)
SIGMOID_LOWER = (3.30219637e-09, 5.31120704e-06, 1.63349997e-03, 0.116928771, 1.0)
# erf(x) = x P(2 x^2 / ERF_END^2 - 1) for |x| <= ERF_END, where float32's erf is 1 up to its last digits. The
# polynomial interpolates erf(x) / x at the 14 Chebyshev points; highest power first.
ERF_END = 3.7
ERF_SERIES = (
    *(
        -0.00174792372,
        0.00408042977,
        -0.00293628456,
        0.00480419554,
        -0.0149412975,
        0.0255725442,
        -0.0357859026,
    ),
    *(0.051277591, -0.0705402154, 0.0906657734, -0.112634767, 0.140786499, -0.190468041, 0.382137562),
)


@cache
def vectorise_math() -> None:
    """Make kernels that this process builds from now on compute exp, erf and sigmoid in vector registers.

    That is for float32; tanh and softmax are made of exp. exp(x) is within 1e-7, relative, for
    -87 <= x <= 88.37; below that range it falls to 0, above it stays at exp(88.37), which is finite. erf(x)
    is within 6e-7, relative, sigmoid(x) within 2e-7, absolute. What is not a number stays so.
    """
    register_intrin_lowering("tirx.exp", "llvm", f=_lower_exp, level=PRIORITY)
    register_intrin_lowering("tirx.erf", "llvm", f=_lower_erf, level=PRIORITY)
    register_intrin_lowering("tirx.sigmoid", "llvm", f=_lower_sigmoid, level=PRIORITY)


def _lower_exp(call: Any) -> Any:
    dtype = _dtype(call)
    if not dtype.startswith("float32"):
        return tirx.call_llvm_pure_intrin(dtype, "llvm.exp", call.args[0])
    x, power, rest = (tirx.Var(name, dtype) for name in ("x", "power", "rest"))
    small = _series(EXP_SERIES, rest) * (rest * rest) + rest + _constant(1.0, dtype)
    remainder = (x - power * _constant(LN2_HIGH, dtype)) - power * _constant(LN2_LOW, dtype)
    whole = tirx.floor(x * _constant(LOG2_E, dtype) + _constant(0.5, dtype))
    result = tirx.Let(rest, remainder, small * _power_of_two(power))
    return tirx.Let(x, _clip(call.args[0], EXP_END), tirx.Let(power, whole, result))


def _lower_erf(call: Any) -> Any:
    dtype = _dtype(call)
    if not dtype.startswith("float32"):
        return tirx.call_pure_extern(dtype, "erf", call.args[0])
    x, square = (tirx.Var(name, dtype) for name in ("x", "square"))
    scaled = x * x * _constant(2 / ERF_END**2, dtype) - _constant(1.0, dtype)
    result = tirx.Let(square, scaled, _series(ERF_SERIES, square) * x)
    return tirx.Let(x, _clip(call.args[0], ERF_END), result)


def _lower_sigmoid(call: Any) -> Any:
    dtype, value = _dtype(call), call.args[0]
    if not dtype.startswith("float32"):
        return _constant(1.0, dtype) / (_constant(1.0, dtype) + tirx.exp(-value))
    x, square = (tirx.Var(name, dtype) for name in ("x", "square"))
    quotient = _series(SIGMOID_UPPER, square) * x / _series(SIGMOID_LOWER, square)
    result = tirx.Let(square, x * x, quotient + _constant(0.5, dtype))
    return tirx.Let(x, _clip(value, SIGMOID_END), result)


def _power_of_two(power: Any) -> Any:
    """Return 2^power for whole numbers from -127 (which gives 0) to 127: float32's exponent bits, written."""
    integers = _dtype(power).replace("float", "int")
    exponent = tirx.Cast(integers, power + _constant(EXPONENT_BIAS, _dtype(power)))
    return tirx.reinterpret(_dtype(power), exponent << tirx.const(FRACTION_BITS, integers))


def _series(coefficients: Sequence[float], x: Any) -> Any:
    total = _constant(coefficients[0], _dtype(x))
    for coefficient in coefficients[1:]:
        total = total * x + _constant(coefficient, _dtype(x))
    return total


def _clip(x: Any, end: float) -> Any:
    # The second operand is what comes back where one is not a number.
    upper = tirx.Min(_constant(end, _dtype(x)), x)
    return tirx.Max(_constant(-end, _dtype(x)), upper)


def _constant(value: float, dtype: str) -> Any:
    return tirx.const(value, dtype)


def _dtype(expression: Any) -> str:
    return str(expression.ty.dtype)

"""Converters of our own for operators that TVM's importer has not, or has in a form that does not fuse.

Each returns the Relax expression of a node of ONNX. TVM's own make of Max, Min and Mean a stack of their
inputs and a reduction, and of Clip kernels of 32-bit bounds.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

Converter = Callable[[Any, Sequence[Any], Mapping[str, Any]], Any]


def _maximum(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    return reduce(
        lambda left, right: builder.normalize(relax.op.maximum(left, right)), _of_one_rank(builder, inputs)
    )


def _minimum(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    return reduce(
        lambda left, right: builder.normalize(relax.op.minimum(left, right)), _of_one_rank(builder, inputs)
    )


def _mean(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    total = reduce(
        lambda left, right: builder.normalize(relax.op.add(left, right)), _of_one_rank(builder, inputs)
    )
    return relax.op.multiply(total, relax.const(np.float32(1 / len(inputs)), str(total.ty.dtype)))


def _clip(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    """Return maximum and minimum, which fuse; their bounds have the type and rank of the data."""
    value = inputs[0]
    lower = _bound(inputs, 1, attributes.get("min"), value)
    upper = _bound(inputs, 2, attributes.get("max"), value)
    for bound, operator in ((lower, relax.op.maximum), (upper, relax.op.minimum)):
        if bound is not None:
            value = builder.normalize(operator(value, bound))
    return value


def _bound(inputs: Sequence[Any], place: int, attribute: float | None, value: Any) -> Any:
    bound = inputs[place] if len(inputs) > place else None
    dtype = str(value.ty.dtype)
    rank = len(value.ty.shape)
    if bound is None:
        return None if attribute is None else relax.const(np.full([1] * rank, attribute, dtype), dtype)
    if not isinstance(bound, tvm.ir.GenericConst):
        return bound
    array = bound.value.numpy()
    if array.dtype.kind == "f" and np.isnan(array).all():
        return None  # ONNX Runtime takes it for no bound
    return _const(array.reshape([1] * (rank - array.ndim) + list(array.shape)))


def _of_one_rank(builder: Any, inputs: Sequence[Any]) -> list[Any]:
    """Return the inputs with dimensions of 1 in front, for ConvertLayout transposes around lower ranks."""
    rank = max(len(one.ty.shape) for one in inputs)
    return [_with_rank(builder, one, rank) for one in inputs]


def _with_rank(builder: Any, value: Any, rank: int) -> Any:
    missing = rank - len(value.ty.shape)
    if not missing:
        return value
    if isinstance(value, tvm.ir.GenericConst):
        array = value.value.numpy()
        return _const(array.reshape([1] * missing + list(array.shape)))
    return builder.normalize(relax.op.expand_dims(value, list(range(missing))))


def _const(array: NDArray[Any]) -> Any:
    # Without its type it makes 32-bit integers of 64-bit ones.
    return relax.const(array, str(array.dtype))


CONVERTERS: dict[str, Converter] = {"Clip": _clip, "Max": _maximum, "Mean": _mean, "Min": _minimum}

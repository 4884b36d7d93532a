"""What a model is given and answers: named inputs, random samples of them, and how far an answer is off."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from veltair.compiler.frontend.fix import INPUT_TYPES
from veltair.compiler.frontend.graph import runtime_inputs
from veltair.compiler.frontend.model_error import ModelError

# One array for each input of a model, in its order.
Samples = tuple[NDArray[Any], ...]
RANGE_KEY = "range."


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a model: float32, int32 or int64. Its integers lie in [low, high], both included."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    low: int = 0
    high: int = 1

    def __post_init__(self) -> None:
        if self.dtype not in INPUT_TYPES.values():
            known = ", ".join(INPUT_TYPES.values())
            raise ValueError(f"input {self.name} is {self.dtype}; give one of {known}")
        if any(extent < 1 for extent in self.shape):
            raise ValueError(f"input {self.name}: shape {self.shape} has an extent below 1")
        if self.low > self.high:
            raise ValueError(f"input {self.name}: [{self.low}, {self.high}] is empty; give low <= high")

    def sample(self, random: np.random.Generator) -> NDArray[Any]:
        """Return values of its shape and dtype: standard normal floats, or integers uniform in its range."""
        if self.dtype == "float32":
            return random.standard_normal(self.shape, dtype=np.float32)
        return random.integers(self.low, self.high, self.shape, dtype=np.dtype(self.dtype), endpoint=True)


def read_inputs(model: onnx.ModelProto, name: str) -> tuple[Input, ...]:
    """Return the inputs of a model that `check_static` passed, in their order.

    The range of an integer input is what the model's metadata says under `range.INPUT`, as "LOW HIGH"; 0 to 1
    if it says nothing. Raises ModelError if that is no range.
    """
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return tuple(_read_input(value, metadata, name) for value in runtime_inputs(model))


def _read_input(value: onnx.ValueInfoProto, metadata: Mapping[str, str], name: str) -> Input:
    tensor = value.type.tensor_type
    shape = tuple(dimension.dim_value for dimension in tensor.shape.dim)
    key = f"{RANGE_KEY}{value.name}"
    text = metadata.get(key, "0 1")
    try:
        low, high = map(int, text.split())
        return Input(value.name, shape, INPUT_TYPES[tensor.elem_type], low, high)
    except ValueError as error:
        raise ModelError(
            f'{name}: metadata {key} is "{text}"; write the lowest and the highest value, as in "0 30521"'
        ) from error


def random_samples(inputs: Iterable[Input], seed: int | Sequence[int]) -> Samples:
    """Return an array for each input; equal seeds give equal arrays."""
    random = np.random.default_rng(seed)
    return tuple(value.sample(random) for value in inputs)


def relative_error(values: NDArray[Any], right: NDArray[Any]) -> float:
    """Return the largest difference over the largest right value, of arrays that hold equally many.

    Values that are equal count as such, infinities too, and so do two that are no numbers. It is infinite
    where one is finite and the other not, and where only zeros are right but others came.
    """
    values, right = (
        (array if array.dtype.kind == "f" else array.astype(np.float64)) for array in (values, right)
    )
    if values.size != right.size:
        return float("inf")
    values = values.reshape(right.shape)
    same = (values == right) | (np.isnan(values) & np.isnan(right))
    if same.all():
        return 0.0
    if not (np.isfinite(values[~same]).all() and np.isfinite(right[~same]).all()):
        return float("inf")
    finite = np.abs(right[np.isfinite(right)])
    difference, largest = float(np.abs(values[~same] - right[~same]).max()), float(finite.max())
    return difference / largest if largest else float("inf")

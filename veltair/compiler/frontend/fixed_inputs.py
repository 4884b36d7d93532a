"""Give a model's inputs the shapes, and some of them the values, that a user chooses."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from veltair.compiler.frontend.graph import copied, runtime_inputs, tensor
from veltair.compiler.frontend.model_error import ModelError

# A value for an input: a number, or a list of numbers.
Value = float | int | bool | Sequence[float | int | bool]
Shapes = Mapping[str, Sequence[int]]
Values = Mapping[str, Value]
# What an exporter calls a dimension of which every model has one: how many queries go together.
BATCH_NAMES = {"bs", "bsz", "batch", "batchsize", "batch_size", "batchdim", "batch_dim"}


def fix_inputs(
    model: onnx.ModelProto, name: str, shapes: Shapes, given: Values, queries: int = 1
) -> tuple[onnx.ModelProto, list[str]]:
    """Return the model with all dimensions of its inputs fixed, and what was decided, a line each.

    `shapes` are the shapes of inputs, `given` the values of those that shall be constants. Where a batch
    alone is open it becomes 1. Several `queries` at once become the first dimension of the others, which is 1
    then. Raises ModelError that names what is open, or what was given and does not fit.
    """
    inputs = {value.name: value for value in runtime_inputs(model)}
    _check_kinds(inputs, name)
    _check_names(inputs, name, {"shape": shapes, "constant": given})
    if not (shapes or given or queries > 1 or any(map(_open_axes, inputs.values()))):
        return model, []
    model = copied(model)
    notes = _set_constants(model, name, given)
    fixed = {value.name: value for value in runtime_inputs(model)}
    sizes: dict[str, int] = {}
    for one, shape in shapes.items():
        if one in fixed:
            _set_shape(fixed[one], name, shape, sizes)
    for value in fixed.values():
        for axis in _open_axes(value) if value.type.tensor_type.HasField("shape") else []:
            dimension = value.type.tensor_type.shape.dim[axis]
            if size := sizes.get(_symbol(dimension)):
                _set(dimension, size)
    left = [value for value in fixed.values() if _open_axes(value)]
    if left and _is_batch_alone(left):
        for value in left:
            for axis in _open_axes(value):
                _set(value.type.tensor_type.shape.dim[axis], 1)
        named = ", ".join(f"{value.name} {_text(value)}" for value in left)
        notes.append(f"the batch was open; it is 1 now: {named}")
    elif left:
        raise _open(name, list(fixed.values()), left)
    if queries > 1:
        notes.append(f"it serves {queries} queries at once")
        for value in fixed.values():
            _set_batch(value, name, queries)
    _forget_shapes(model, all_of_them=queries > 1)
    return model, notes


def _set_batch(value: onnx.ValueInfoProto, name: str, queries: int) -> None:
    dims = value.type.tensor_type.shape.dim
    if not dims or dims[0].dim_value != 1:
        raise ModelError(
            f"{name}: input {value.name} is {_text(value)}, whose first dimension is no batch of 1; models "
            "whose queries cannot be told apart serve one at a time (`built_batches` empty)"
        )
    _set(dims[0], queries)


def _check_names(
    inputs: Mapping[str, onnx.ValueInfoProto], name: str, options: Mapping[str, Mapping[str, object]]
) -> None:
    for option, wanted in options.items():
        for one in wanted:
            if one not in inputs:
                raise ModelError(
                    f"{name}: --{option} {one}: there is no input {one}; it has {', '.join(inputs)}"
                )


def _check_kinds(inputs: Mapping[str, onnx.ValueInfoProto], name: str) -> None:
    for value in inputs.values():
        kind = value.type.WhichOneof("value") or "tensor_type"
        if kind != "tensor_type":
            word = kind.removesuffix("_type").replace("_", " ")
            article = "an" if word[0] in "aeiou" else "a"
            raise ModelError(
                f"{name}: input {value.name} is {article} {word}, not a tensor; export the model with "
                "inputs of float32, int32 or int64"
            )


def _open_axes(value: onnx.ValueInfoProto) -> list[int]:
    if not value.type.tensor_type.HasField("shape"):
        return [-1]
    dims = value.type.tensor_type.shape.dim
    return [axis for axis, one in enumerate(dims) if not one.HasField("dim_value") or one.dim_value < 0]


def _symbol(dimension: onnx.TensorShapeProto.Dimension) -> str:
    """Return the name that open dimensions of one size share; empty where each stands for itself."""
    name = str(dimension.dim_param)
    return "" if name in ("?", "-1") or name.startswith("unk__") else name


def _set(dimension: onnx.TensorShapeProto.Dimension, size: int) -> None:
    dimension.ClearField("dim_param")
    dimension.dim_value = size


def _set_constants(model: onnx.ModelProto, name: str, given: Values) -> list[str]:
    notes = []
    kept = []
    for value in model.graph.input:
        if value.name not in given:
            kept.append(value)
            continue
        kind = value.type.tensor_type.elem_type
        try:
            array = np.asarray(given[value.name]).astype(
                helper.tensor_dtype_to_np_dtype(kind), casting="unsafe"
            )
            if not np.array_equal(array, np.asarray(given[value.name])) and array.dtype.kind in "iub":
                raise ValueError("values of its type are whole")
            dims = value.type.tensor_type.shape.dim
            if value.type.tensor_type.HasField("shape"):
                shape = [one.dim_value if one.dim_value > 0 else 1 for one in dims]
                open_ones = _open_axes(value)
                if array.ndim == len(shape):
                    shape = [array.shape[i] if i in open_ones else extent for i, extent in enumerate(shape)]
                array = np.broadcast_to(array, shape)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{name}: --constant {value.name}={given[value.name]} does not fit an input of "
                f"{onnx.TensorProto.DataType.Name(kind)} {_text(value)}: {error}"
            ) from error
        model.graph.initializer.append(tensor(value.name, array))
        notes.append(f"input {value.name} is the constant {given[value.name]}")
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return notes


def _set_shape(value: onnx.ValueInfoProto, name: str, shape: Sequence[int], sizes: dict[str, int]) -> None:
    tensor_type = value.type.tensor_type
    wanted = f"{name}: --shape {value.name}={','.join(map(str, shape))}"
    if any(extent < 1 for extent in shape):
        raise ModelError(f"{wanted}: give sizes of 1 or more")
    if not tensor_type.HasField("shape"):
        for extent in shape:
            tensor_type.shape.dim.add().dim_value = extent
        if not shape:
            tensor_type.shape.SetInParent()
        return
    dims, said = tensor_type.shape.dim, _text(value)
    if len(dims) != len(shape):
        raise ModelError(f"{wanted} has {len(shape)} dimensions, but the model says {said}")
    for axis, (dimension, extent) in enumerate(zip(dims, shape, strict=True)):
        if axis not in _open_axes(value):
            if dimension.dim_value != extent:
                raise ModelError(
                    f"{wanted}: dimension {axis} is {dimension.dim_value} in the model, which says "
                    f"{said}; only open dimensions can be given"
                )
            continue
        symbol = _symbol(dimension)
        if symbol and sizes.setdefault(symbol, extent) != extent:
            raise ModelError(
                f"{wanted}: {symbol} is {extent} here and {sizes[symbol]} elsewhere; give one size"
            )
        _set(dimension, extent)


def _is_batch_alone(left: Sequence[onnx.ValueInfoProto]) -> bool:
    """Tell whether what is open can only be a batch: the first dimension, or one of its name."""
    symbols = set()
    for value in left:
        for axis in _open_axes(value):
            if axis == -1:
                return False
            symbol = _symbol(value.type.tensor_type.shape.dim[axis])
            symbols.add(symbol)
            by_name = symbol.lower() in BATCH_NAMES
            first = axis == 0 and len(value.type.tensor_type.shape.dim) > 1
            if not (by_name or first):
                return False
    # Some exporters give each input a name for its batch of its own; others none.
    named = {symbol for symbol in symbols if symbol}
    return len(named) <= 1 or all(_open_axes(value) == [0] for value in left)


def _open(
    name: str, inputs: Sequence[onnx.ValueInfoProto], left: Sequence[onnx.ValueInfoProto]
) -> ModelError:
    options = " ".join(f"--shape {_quoted(value.name)}={_example(value)}" for value in left)
    keys = ", ".join(f"{_quoted(value.name)}: [{_example(value).replace(',', ', ')}]" for value in left)
    listed = ", ".join(f"{value.name} is {_text(value)}" for value in left)
    return ModelError(
        f"{name}: dimensions of {len(left)} of {len(inputs)} inputs are open: {listed}. Fix them with "
        f"{options} or `models.<name>.shapes: {{{keys}}}`, a number for each name"
    )


def _quoted(text: str) -> str:
    return f"'{text}'" if any(letter in text for letter in " :[]{}&*?|#'\"$;()<>") else text


def _example(value: onnx.ValueInfoProto) -> str:
    if not value.type.tensor_type.HasField("shape"):
        return "SIZES"
    dims = value.type.tensor_type.shape.dim
    opened = _open_axes(value)
    texts = []
    for axis, one in enumerate(dims):
        name = _symbol(one)
        batch = name.lower() in BATCH_NAMES or (axis == 0 and len(dims) > 1)
        texts.append(str(one.dim_value) if axis not in opened else "1" if batch else (name.upper() or "N"))
    return ",".join(text.replace(" ", "") for text in texts)


def _text(value: onnx.ValueInfoProto) -> str:
    """Return a shape as the model says it."""
    if not value.type.tensor_type.HasField("shape"):
        return "of unknown shape"
    dims = value.type.tensor_type.shape.dim
    return "x".join(
        str(one.dim_value) if one.HasField("dim_value") else one.dim_param or "?" for one in dims
    ) or ("a scalar")


def _forget_shapes(model: onnx.ModelProto, all_of_them: bool) -> None:
    """Take away what is said of shapes that follow from the inputs': of outputs the open ones, or all."""
    del model.graph.value_info[:]
    for value in model.graph.output:
        if value.type.WhichOneof("value") in (None, "tensor_type") and (
            all_of_them
            or any(
                not one.HasField("dim_value") or one.dim_value < 0 for one in value.type.tensor_type.shape.dim
            )
        ):
            value.type.tensor_type.ClearField("shape")

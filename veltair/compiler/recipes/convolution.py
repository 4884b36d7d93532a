"""A layer's function -> its convolution, dense or depthwise, and what follows it, element by element."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir.expr import Call, TensorLoad
from tvm.sym import Analyzer

from veltair.compiler.recipes.ending import Ending, read_ending
from veltair.compiler.recipes.expressions import equal, is_float32, leaves, product_of
from veltair.compiler.recipes.sizes import Convolution

# Kernel, stride, dilation, and whether the convolution is depthwise.
Sizes = tuple[tuple[int, int], tuple[int, int], tuple[int, int], bool]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A convolution in a function: its sizes, and the numbers of the parameters that it reads and writes."""

    convolution: Convolution
    function: Any
    data: int
    weights: int
    ending: Ending


def read_layer(function: Any) -> Layer | None:
    """Return the convolution of a layer; None if it has none that a recipe computes.

    It has one if it is one convolution of float32 in NHWC, dense or depthwise, of an argument that is at most
    padded with zeros, followed by operations on single elements.
    """
    blocks = list(leaves(function.body))
    sums = [block for block in blocks if block.init is not None]
    if len(sums) != 1 or not is_float32(blocks):
        return None
    (main,) = sums
    found = _read_main(main)
    if found is None:
        return None
    data, weights, sizes = found
    parameters = list(function.params)
    before = blocks[: blocks.index(main)]
    source, pads = _read_source(data, before)
    ending = read_ending(function, main, blocks[len(before) + 1 :])
    if source not in parameters or weights not in parameters or ending is None:
        return None
    batch, height, width, channels = map(int, source.ty.shape)
    _, out_height, out_width, out_channels = map(int, main.body.buffer.ty.shape)
    counts = (batch, height, width, channels, out_height, out_width, out_channels)
    places = (parameters.index(source), parameters.index(weights))
    kernel, stride, dilation, is_depthwise = sizes
    convolution = Convolution(*counts, *pads, kernel, stride, dilation, is_depthwise)
    return Layer(convolution, function, *places, ending)


def _read_main(block: Any) -> tuple[Any, Any, Sizes] | None:
    """Return data, weights and sizes of a block that is a convolution; None if it is none that is known."""
    axes = [axis.var for axis in block.iter_vars]
    extents = [int(axis.dom.extent) for axis in block.iter_vars]
    reduced = [int(axis.iter_type) == 2 for axis in block.iter_vars]
    factors = product_of(block) if reduced == [False] * 4 + [True] * 3 else None
    if factors is None:
        return None
    image, row, column, channel, down, right, depth = axes
    data, weights = factors
    if len(data.indices) != 4 or not equal(weights.indices, (down, right, depth, channel)):
        return None
    if not equal(block.body.indices, axes[:4]):
        return None
    steps = [_steps(data.indices[1], row, down), _steps(data.indices[2], column, right)]
    if None in steps or not equal(data.indices[:1], (image,)):
        return None
    channels = int(data.source.ty.shape[-1])
    is_dense = extents[6] == channels and equal(data.indices[3:], (depth,))
    is_depthwise = extents[6] == 1 and extents[3] == channels and equal(data.indices[3:], (channel + depth,))
    if not is_dense and not is_depthwise:
        return None
    (stride_down, dilation_down), (stride_right, dilation_right) = (step for step in steps if step)
    strides, dilations = (stride_down, stride_right), (dilation_down, dilation_right)
    return data.source, weights.source, ((extents[4], extents[5]), strides, dilations, not is_dense)


def _steps(index: Any, output: Any, kernel: Any) -> tuple[int, int] | None:
    """Return stride and dilation of an index: output x stride + kernel x dilation; None if it is not that."""
    found = []
    for values in ((0, 0), (1, 0), (0, 1)):
        analyzer = Analyzer()
        for variable, value in zip((output, kernel), values, strict=True):
            analyzer.bind(variable, tirx.IntImm("int64", value))
        at = analyzer.simplify(index)
        if not isinstance(at, tirx.IntImm):
            return None
        found.append(int(at))
    zero, stride, dilation = found
    fits = zero == 0 and stride >= 1 and dilation >= 1
    return (stride, dilation) if fits and equal([index], [output * stride + kernel * dilation]) else None


def _read_source(data: Any, before: Sequence[Any]) -> tuple[Any, tuple[int, int]]:
    """Return what the data are padded from, and the rows above and columns left; (None, …) if not padded."""
    if not before:
        return data, (0, 0)
    block = before[-1]
    if len(before) > 1 or not block.body.buffer.same_as(data):
        return None, (0, 0)
    value, axes = block.body.value, [axis.var for axis in block.iter_vars]
    if isinstance(value, TensorLoad) and equal(value.indices, axes):
        return value.source, (0, 0)
    if isinstance(value, Call) and str(value.op.name) == "prim.if_then_else":
        inside, load, outside = value.args
        zero = isinstance(outside, tirx.FloatImm) and float(outside) == 0.0
        pads = _shifts(load, axes) if zero and isinstance(load, TensorLoad) else None
        if pads and _is_border(inside, axes, pads, load.source.ty.shape, data.ty.shape):
            return load.source, pads
    return None, (0, 0)


def _shifts(load: Any, axes: Sequence[Any]) -> tuple[int, int] | None:
    """Return by how many rows and columns indices lie before the axes; None if they differ in other ways."""
    analyzer = Analyzer()
    shifts = [analyzer.simplify(axis - at) for axis, at in zip(axes, load.indices, strict=True)]
    if not all(isinstance(shift, tirx.IntImm) for shift in shifts):
        return None
    image, top, left, channel = map(int, shifts)
    return (top, left) if image == channel == 0 else None


def _is_border(inside: Any, axes: Sequence[Any], pads: Sequence[int], shape: Any, padded: Any) -> bool:
    """Tell whether a condition holds inside an image and not beside it, tried at each of its edges."""
    first = [pads[0], pads[1]]
    for axis in (0, 1):
        size, extent = int(shape[1 + axis]), int(padded[1 + axis])
        edges = {
            pads[axis] - 1: False,
            pads[axis]: True,
            pads[axis] + size - 1: True,
            pads[axis] + size: False,
        }
        for place, wanted in edges.items():
            if not 0 <= place < extent:
                continue
            at = [*first]
            at[axis] = place
            analyzer = Analyzer()
            for variable, value in zip(axes[1:3], at, strict=True):
                analyzer.bind(variable, tirx.IntImm("int64", value))
            found = analyzer.simplify(inside)
            if not isinstance(found, tirx.IntImm) or bool(int(found)) != wanted:
                return False
    return True

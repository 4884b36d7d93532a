"""The kernel of a depthwise plan, as TIR: each input is read once for all sums of its tile."""

from collections.abc import Sequence
from math import ceil
from typing import Any

from tvm import tirx
from tvm.ir import IRModule
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T  # noqa: N812 - as TVM's own scripts call it

from veltair.compiler.recipes.convolution import Layer
from veltair.compiler.recipes.depthwise_plan import DepthwisePlan
from veltair.compiler.recipes.statements import arguments_of, zeros


def make_kernel(layer: Layer, plan: DepthwisePlan) -> IRModule:
    """Return a module whose "main" computes a layer by a plan. Raises RecipeError if it does not fit."""
    plan.check_fits(layer.convolution)
    return _Kernel(layer, plan).module()


class _Kernel:
    """Builds one kernel."""

    def __init__(self, layer: Layer, plan: DepthwisePlan) -> None:
        self._layer, self._plan, self._sizes = layer, plan, layer.convolution
        sizes = self._sizes
        self._lines = sizes.batch * sizes.out_height
        self._pixels = min(plan.pixels, sizes.out_width)
        self._line_tiles = ceil(sizes.out_width / self._pixels)
        self._blocks = ceil(self._lines / plan.lines)
        self._groups = ceil(sizes.channels / plan.channels)
        # Rows and columns of the data that a tile reads.
        self._high = (sizes.kernel[0] - 1) * sizes.dilation[0] + 1
        self._wide = (self._pixels - 1) * sizes.stride[1] + (sizes.kernel[1] - 1) * sizes.dilation[1] + 1

    def module(self) -> IRModule:
        plan = self._plan
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"tirx.noalias": True})
            self._arguments = arguments_of(self._layer.function)
            with T.sblock("root"), T.parallel(self._groups * self._blocks) as number:
                group, block = number // self._blocks, number % self._blocks
                vectors = plan.channels // plan.lanes
                if plan.order == "channels":
                    with T.grid(plan.lines, self._line_tiles, vectors) as (line, tile, vector):
                        self._tile(group, block * plan.lines + line, tile, vector)
                else:
                    with T.grid(vectors, plan.lines, self._line_tiles) as (vector, line, tile):
                        self._tile(group, block * plan.lines + line, tile, vector)
        return IRModule({"main": builder.get().with_attr("global_symbol", "main")})

    def _tile(self, group: Any, line: Any, tile: Any, vector: Any) -> None:
        plan, sizes = self._plan, self._sizes
        # What reaches past the last line, pixel or channel repeats the last one.
        line = tirx.min(line, self._lines - 1)
        pixel = tirx.min(tile * self._pixels, sizes.out_width - self._pixels)
        channel = tirx.min(group * plan.channels + vector * plan.lanes, sizes.channels - plan.lanes)
        image, row = line // sizes.out_height, line % sizes.out_height
        top, left = row * sizes.stride[0] - sizes.top, pixel * sizes.stride[1] - sizes.left
        channels = slice(channel, channel + plan.lanes)
        data, weights = self._arguments[self._layer.data], self._arguments[self._layer.weights]
        with T.sblock("tile"):
            span = (image, row, slice(pixel, pixel + self._pixels), channels)
            ending = [self._read(number, index) for number, index in self._layer.ending.reads(span)]
            T.reads(
                data[image, top : top + self._high, left : left + self._wide, channels],
                weights[0 : sizes.kernel[0], 0 : sizes.kernel[1], 0, channels],
                *ending,
            )
            T.writes(self._arguments[-1][span])
            place = [T.bind(one) for one in (image, row, pixel, top, left)]
            at = tirx.Ramp(T.bind(channel), 1, plan.lanes)
            inside = self._inside(*place[3:])
            if not inside:
                self._sums(place, at, checked=False)
                return
            with T.If(tirx.all(*inside)):
                with T.Then():
                    self._sums(place, at, checked=False)
                with T.Else():
                    self._sums(place, at, checked=True)

    def _inside(self, top: Any, left: Any) -> list[Any]:
        """Return the conditions that a tile reads no border; none if no tile does."""
        sizes = self._sizes
        rows, columns = sizes.reach
        conditions = []
        for at, pad, reach, size, extent in (
            (top, sizes.top, rows, self._high, sizes.height),
            (left, sizes.left, columns, self._wide, sizes.width),
        ):
            if pad:
                conditions.append(at >= 0)
            if reach - pad > extent:
                conditions.append(at <= extent - size)
        return conditions

    def _sums(self, place: Sequence[Any], at: Any, checked: bool) -> None:
        sizes, weights = self._sizes, self._arguments[self._layer.weights]
        image, row, pixel, top, left = place
        sums: list[Any] = [zeros(self._plan.lanes)] * self._pixels
        for down in range(sizes.kernel[0]):
            read = top + down * sizes.dilation[0]
            values: dict[int, Any] = {}
            for right in range(sizes.kernel[1]):
                weight = T.bind(weights[down, right, 0, at])
                for number in range(self._pixels):
                    column = number * sizes.stride[1] + right * sizes.dilation[1]
                    if column not in values:
                        values[column] = T.bind(self._value(image, read, left + column, at, checked))
                    sums[number] = T.bind(sums[number] + values[column] * weight)
        for number, value in enumerate(sums):
            index = [image, row, pixel + number, at]
            ended = self._layer.ending.value(value, index, self._read, T.bind)
            T.buffer_store(self._arguments[-1], ended, index)

    def _value(self, image: Any, row: Any, column: Any, at: Any, checked: bool) -> Any:
        sizes = self._sizes
        value = self._arguments[self._layer.data][image, row, column, at]
        if not checked:
            return value
        inside = tirx.all(row >= 0, row < sizes.height, column >= 0, column < sizes.width)
        return tirx.if_then_else(inside, value, zeros(self._plan.lanes))

    def _read(self, number: int, index: Sequence[Any]) -> Any:
        return self._arguments[number][tuple(index)]

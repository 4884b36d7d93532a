"""The kernel of a direct plan, as TIR: sums in registers over the whole kernel, and the layer's ending."""

from collections.abc import Sequence
from math import ceil
from typing import Any

from tvm import tirx
from tvm.ir import IRModule
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T  # noqa: N812 - as TVM's own scripts call it

from veltair.compiler.footprint.nest import PREPACKED
from veltair.compiler.recipes.convolution import Layer
from veltair.compiler.recipes.direct_plan import DirectPlan, is_one_line, lines_of
from veltair.compiler.recipes.statements import (
    Sums,
    Where,
    arguments_of,
    channels_at,
    prefetch,
    widest,
    zeros,
)

UNROLLED = 4  # steps of a sum in a row
# A row of the kernel of few channels is unrolled whole.
UNROLLED_ROW = 32
# Copied pixels lie this far apart beside their channels, or many of them would meet in few sets of the L1.
SKEW = 16


def make_kernel(layer: Layer, plan: DirectPlan) -> IRModule:
    """Return a module whose "main" computes a layer by a plan. Raises RecipeError if it does not fit."""
    plan.check_fits(layer.convolution)
    return _Kernel(layer, plan).module()


class _Kernel:
    """Builds one kernel: sizes first, then the statements in the order in which they run."""

    def __init__(self, layer: Layer, plan: DirectPlan) -> None:
        self._layer, self._plan, self._sizes = layer, plan, layer.convolution
        sizes = self._sizes
        self._lines, self._pixels = lines_of(sizes, plan.scheme)
        # A tile cannot be longer than a line.
        self._rows = min(plan.rows, self._pixels)
        self._line_tiles = ceil(self._pixels / self._rows)
        self._tiles = self._lines * self._line_tiles
        self._blocks = ceil(self._tiles / plan.block)
        self._groups = ceil(sizes.out_channels / plan.columns)
        self._panels = plan.columns // plan.panel
        self._is_flat = is_one_line(sizes, plan.scheme)
        self._copy: Any = None

    def module(self) -> IRModule:
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"tirx.noalias": True, "layout_free_buffers": [self._layer.weights]})
            self._arguments = arguments_of(self._layer.function)
            with T.sblock("root"):
                sizes, plan = self._sizes, self._plan
                shape = (self._groups, self._panels, *sizes.kernel, sizes.channels, plan.panel)
                self._packed = T.sblock_alloc_buffer(shape, "float32")
                self._pack()
                if plan.scheme == "copied":
                    self._copy_data()
                self._multiply()
        return IRModule({"main": builder.get().with_attr("global_symbol", "main")})

    def _pack(self) -> None:
        """Lay the weights out in the order in which the products read them."""
        plan, sizes = self._plan, self._sizes
        weights = self._arguments[self._layer.weights]
        grid = T.grid(self._groups, self._panels, *sizes.kernel, sizes.channels)
        with grid as (group, panel, down, right, channel), T.sblock("pack"):
            T.reads(weights[down, right, channel, 0 : sizes.out_channels])
            T.writes(self._packed[group, panel, down, right, channel, 0 : plan.panel])
            T.sblock_attr({PREPACKED: True})
            with T.serial(plan.vectors) as vector:
                # Columns past the last one repeat it: what comes of them is dropped.
                column = group * plan.columns + panel * plan.panel + vector * plan.lanes
                at = tirx.Ramp(tirx.min(column, sizes.out_channels - plan.lanes), 1, plan.lanes)
                place = [group, panel, down, right, channel, tirx.Ramp(vector * plan.lanes, 1, plan.lanes)]
                T.buffer_store(self._packed, weights[down, right, channel, at], place)

    def _copy_data(self) -> None:
        """Copy what the products read: single pixels for a kernel of one, else the data with their border."""
        sizes = self._sizes
        self._stride = sizes.channels + SKEW
        is_single = sizes.kernel == (1, 1)
        rows, columns = (sizes.out_height, sizes.out_width) if is_single else sizes.reach
        steps = sizes.stride if is_single else (1, 1)
        self._copied_rows, self._copied_columns = rows, columns
        self._copy = T.sblock_alloc_buffer([sizes.batch * rows * columns * self._stride], "float32")
        data, lanes = self._arguments[self._layer.data], widest(sizes.channels, self._plan.lanes)
        with T.parallel(sizes.batch * rows) as line:
            image, down = line // rows, line % rows * steps[0] - sizes.top
            with T.sblock("copy"):
                start = line * columns * self._stride
                T.reads(data[image, down, 0 : sizes.width, 0 : sizes.channels])
                T.writes(self._copy[start : start + columns * self._stride])
                with T.serial(columns) as column, T.serial(sizes.channels // lanes) as vector:
                    right = column * steps[1] - sizes.left
                    value = data[image, down, right, channels_at(vector * lanes, lanes)]
                    if sizes.is_padded:
                        inside = tirx.all(down >= 0, down < sizes.height, right >= 0, right < sizes.width)
                        value = tirx.if_then_else(inside, value, zeros(lanes))
                    at = start + column * self._stride + vector * lanes
                    T.buffer_store(self._copy, value, [channels_at(at, lanes)])

    def _multiply(self) -> None:
        plan, sizes = self._plan, self._sizes
        with T.parallel(self._groups * self._blocks) as number:
            group, block = number // self._blocks, number % self._blocks
            with T.grid(self._panels, plan.block) as (panel, step):
                # The last block may reach past the last tile, and the last tile of a line past its end: what
                # is computed twice is the same.
                tile = tirx.min(block * plan.block + step, self._tiles - 1)
                line = tile // self._line_tiles
                pixel = tirx.min(tile % self._line_tiles * self._rows, self._pixels - self._rows)
                with T.sblock("multiply"):
                    first = group * plan.columns + panel * plan.panel
                    span = self._span(line, pixel, slice(first, first + plan.panel))
                    ending = [self._read(one, index) for one, index in self._layer.ending.reads(span)]
                    weights = self._packed[
                        group,
                        panel,
                        0 : sizes.kernel[0],
                        0 : sizes.kernel[1],
                        0 : sizes.channels,
                        0 : plan.panel,
                    ]
                    T.reads(self._source(line, pixel), weights, *ending)
                    T.writes(self._arguments[-1][span])
                    self._multiply_tile(group, panel, T.bind(line), T.bind(pixel))

    def _multiply_tile(self, group: Any, panel: Any, line: Any, pixel: Any) -> None:
        plan, sizes = self._plan, self._sizes
        self._prefetch(group * plan.columns + panel * plan.panel, line, pixel)
        sums = Sums(self._rows, plan.vectors, plan.lanes)
        vectors = [tirx.Ramp(first, 1, plan.lanes) for first in range(0, plan.panel, plan.lanes)]

        def add(down: Any, right: Any, channel: Any) -> None:
            values = [self._value(line, pixel + row, down, right, channel) for row in range(self._rows)]
            sums.add(values, [self._packed[group, panel, down, right, channel, one] for one in vectors])

        with T.serial(sizes.kernel[0]) as down:
            if sizes.kernel[1] * sizes.channels <= UNROLLED_ROW:
                for right in range(sizes.kernel[1]):
                    for channel in range(sizes.channels):
                        add(down, right, channel)
            else:
                unrolled = max(step for step in (1, 2, UNROLLED) if sizes.channels % step == 0)
                with T.serial(sizes.kernel[1]) as right, T.serial(sizes.channels // unrolled) as steps:
                    for step in range(unrolled):
                        add(down, right, steps * unrolled + step)
        for row in range(self._rows):
            self._finish(sums.vectors(row), group * plan.columns + panel * plan.panel, line, pixel + row)

    def _prefetch(self, first: Any, line: Any, pixel: Any) -> None:
        """Let what the layer's ending reads and writes come while the products are summed."""
        image, down, right = self._place(line, pixel)
        for row in range(self._rows):
            index = (image, down, right + row, first)
            for number, at in self._layer.ending.reads(index):
                if len(at) == len(index) and at[2] is index[2]:
                    prefetch(self._arguments[number][tuple(at)], self._plan.panel, False)
            prefetch(self._arguments[-1][index], self._plan.panel, True)

    def _finish(self, values: Sequence[Any], first: Any, line: Any, pixel: Any) -> None:
        """End the layer for a pixel's sums and write them."""
        plan, sizes = self._plan, self._sizes
        image, down, right = self._place(line, pixel)
        is_cut = sizes.out_channels % plan.columns > 0
        for vector, value in enumerate(values):
            channel = first + vector * plan.lanes
            with Where(*([channel < sizes.out_channels] if is_cut else [])):
                index = [image, down, right, tirx.Ramp(channel, 1, plan.lanes)]
                T.buffer_store(
                    self._arguments[-1], self._layer.ending.value(value, index, self._read, T.bind), index
                )

    def _place(self, line: Any, pixel: Any) -> tuple[Any, Any, Any]:
        """Return image, row and column of an output; rows follow each other, so that a line may be all."""
        if self._is_flat:
            return 0, 0, pixel
        return line // self._sizes.out_height, line % self._sizes.out_height, pixel

    def _span(self, line: Any, pixel: Any, channels: Any) -> tuple[Any, Any, Any, Any]:
        """Return the box of a tile's outputs."""
        sizes = self._sizes
        if not self._is_flat:
            image, down, right = self._place(line, pixel)
            return image, down, slice(right, right + self._rows), channels
        size = sizes.out_height * sizes.out_width
        down = pixel % size // sizes.out_width
        count = min(sizes.out_height, (self._rows - 2) // sizes.out_width + 2 if self._rows > 1 else 1)
        return pixel // size, slice(down, down + count), slice(0, sizes.out_width), channels

    def _source(self, line: Any, pixel: Any) -> Any:
        """Return the box of what a tile reads of the data, or of their copy."""
        sizes, kernel = self._sizes, self._sizes.kernel
        if self._plan.scheme == "copied":
            start = self._copy_index(line, pixel, 0, 0, 0)
            stop = self._copy_index(
                line, pixel + self._rows - 1, kernel[0] - 1, kernel[1] - 1, sizes.channels
            )
            return self._copy[start:stop]
        data = self._arguments[self._layer.data]
        image, rows, columns, _ = self._span(line, pixel, slice(0, 1))
        if self._is_flat:
            return data[image, rows, columns, 0 : sizes.channels]
        down, right = rows * sizes.stride[0], pixel * sizes.stride[1]
        high = (kernel[0] - 1) * sizes.dilation[0] + 1
        wide = (self._rows - 1) * sizes.stride[1] + (kernel[1] - 1) * sizes.dilation[1] + 1
        return data[image, down : down + high, right : right + wide, 0 : sizes.channels]

    def _value(self, line: Any, pixel: Any, down: Any, right: Any, channel: Any) -> Any:
        """Return the input of an output's pixel at a place of the kernel."""
        sizes = self._sizes
        if self._plan.scheme == "copied":
            return self._copy[self._copy_index(line, pixel, down, right, channel)]
        data = self._arguments[self._layer.data]
        if self._is_flat:
            return data[0, 0, pixel, channel]
        image, row, column = self._place(line, pixel)
        row = row * sizes.stride[0] + down * sizes.dilation[0]
        column = column * sizes.stride[1] + right * sizes.dilation[1]
        return data[image, row, column, channel]

    def _copy_index(self, line: Any, pixel: Any, down: Any, right: Any, channel: Any) -> Any:
        sizes = self._sizes
        if self._is_flat:
            return pixel * self._stride + channel
        image, row, column = self._place(line, pixel)
        row = row * sizes.stride[0] + down * sizes.dilation[0]
        column = column * sizes.stride[1] + right * sizes.dilation[1]
        return ((image * self._copied_rows + row) * self._copied_columns + column) * self._stride + channel

    def _read(self, number: int, index: Sequence[Any]) -> Any:
        return self._arguments[number][tuple(index)]

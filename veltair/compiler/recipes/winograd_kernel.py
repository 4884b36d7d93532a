"""The kernel of a Winograd plan, as TIR: transforms, products in registers, and the layer's ending."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, prod
from typing import Any

from tvm import tirx
from tvm.ir import IRModule
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T  # noqa: N812 - as TVM's own scripts call it

from veltair.compiler.footprint.nest import PREPACKED
from veltair.compiler.recipes.convolution import Layer
from veltair.compiler.recipes.statements import Sums, Where, arguments_of, widest, zeros
from veltair.compiler.recipes.transforms import (
    KERNEL,
    inputs_of,
    transform_input,
    transform_output,
    transform_weight,
)
from veltair.compiler.recipes.winograd_plan import WinogradPlan, tiles_of

UNROLLED = 4  # steps of a sum in a row
# Channels that one share of the transform of all tiles handles: enough to be worth a call.
TRANSFORMED_CHANNELS = 64
# Rows of transformed tiles lie this far apart beside their channels, or all would meet in few sets of the L1.
SKEW = 16


def make_kernel(layer: Layer, plan: WinogradPlan) -> IRModule:
    """Return a module whose "main" computes a layer by a plan. Raises RecipeError if it does not fit."""
    plan.check_fits(layer.convolution)
    return _Kernel(layer, plan).module()


class _Kernel:
    """Builds one kernel: sizes first, then the statements in the order in which they run."""

    def __init__(self, layer: Layer, plan: WinogradPlan) -> None:
        self._layer, self._plan, self._sizes = layer, plan, layer.convolution
        sizes = self._sizes
        self._side = inputs_of(plan.tile)
        self._tiles = tiles_of(sizes, plan.tile)
        self._count = prod(self._tiles)
        self._blocks = ceil(self._count / plan.block)
        self._groups = ceil(sizes.out_channels / plan.columns)
        self._in_lanes = widest(sizes.channels, plan.lanes)
        self._out_lanes = widest(sizes.out_channels, plan.lanes)
        self._unrolled = max(step for step in (1, 2, UNROLLED) if sizes.channels % step == 0)

    def module(self) -> IRModule:
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            self._function()
        return IRModule({"main": builder.get().with_attr("global_symbol", "main")})

    def _function(self) -> None:
        T.func_name("main")
        T.func_attr({"tirx.noalias": True, "layout_free_buffers": [self._layer.weights]})
        self._arguments = arguments_of(self._layer.function)
        with T.sblock("root"):
            plan, sizes = self._plan, self._sizes
            panels = plan.columns // plan.panel
            shape = (self._groups, plan.products, panels, sizes.channels, plan.panel)
            self._packed = T.sblock_alloc_buffer(shape, "float32")
            self._pack()
            {"fused": self._fused, "phases": self._phases}[plan.scheme]()

    def _pack(self) -> None:
        """Transform the weights, once, into the order in which the products read them."""
        plan, sizes, lanes = self._plan, self._sizes, self._out_lanes
        weights = self._arguments[self._layer.weights]
        panels = plan.columns // plan.panel
        grid = T.grid(self._groups, panels, sizes.channels)
        with grid as (group, panel, channel), T.sblock("pack"):
            T.reads(weights[0:KERNEL, 0:KERNEL, channel, 0 : sizes.out_channels])
            T.writes(self._packed[group, 0 : plan.products, panel, channel, 0 : plan.panel])
            T.sblock_attr({PREPACKED: True})
            with T.serial(plan.panel // lanes) as vector:
                # Columns past the last one repeat it: what comes of them is dropped.
                column = group * plan.columns + panel * plan.panel + vector * lanes
                at = tirx.Ramp(tirx.min(column, sizes.out_channels - lanes), 1, lanes)
                side = range(KERNEL)
                given = [[T.bind(weights[down, right, channel, at]) for right in side] for down in side]
                made = transform_weight(plan.tile, given)
                for number, value in enumerate(one for row in made for one in row):
                    place = [group, number, panel, channel, tirx.Ramp(vector * lanes, 1, lanes)]
                    T.buffer_store(self._packed, value, place)

    def _fused(self) -> None:
        plan = self._plan
        with T.parallel(self._blocks) as block, T.sblock("share"):
            place = self._transformed(plan.block)
            sums = T.sblock_alloc_buffer([plan.products, plan.block, plan.columns], "float32")
            with T.serial(plan.block) as tile:
                self._transform(place, block * plan.block + tile, tile, 0, self._sizes.channels)
            with T.serial(self._groups) as group:
                self._multiply(place, 0, sums, group)
                self._finish(sums, block, group)

    def _phases(self) -> None:
        plan, channels = self._plan, self._sizes.channels
        rows = self._blocks * plan.block
        place = self._transformed(rows)
        share = _share(channels, self._in_lanes)
        shares = channels // share
        with T.parallel(rows * shares) as number:
            self._transform(place, number // shares, number // shares, number % shares * share, share)
        with T.parallel(self._groups * self._blocks) as number, T.sblock("share"):
            sums = T.sblock_alloc_buffer([plan.products, plan.block, plan.columns], "float32")
            group, block = number // self._blocks, number % self._blocks
            self._multiply(place, block * plan.block, sums, group)
            self._finish(sums, block, group)

    def _transformed(self, rows: int) -> "_Transformed":
        """Declare the buffer of so many transformed tiles."""
        stride = self._sizes.channels + SKEW
        return _Transformed(T.sblock_alloc_buffer([self._plan.products, rows * stride], "float32"), stride)

    def _transform(self, place: "_Transformed", tile: Any, row: Any, first: Any, channels: int) -> None:
        """Transform a tile's inputs of some channels into a row of each of its products."""
        data, lanes, side = self._arguments[self._layer.data], self._in_lanes, self._side
        # The last block may reach past the last tile: it repeats that one, and drops what comes of it.
        image, down, right = self._corner(tirx.min(tile, self._count - 1))
        top, left = down - self._sizes.top, right - self._sizes.left
        with T.sblock("transform"):
            T.reads(data[image, top : top + side, left : left + side, first : first + channels])
            start = place.index(row, first)
            T.writes(place.buffer[0 : self._plan.products, start : start + channels])
            at_image, at_top, at_left = T.bind(image), T.bind(top), T.bind(left)
            inside = self._inside(at_top, at_left)
            branch: Callable[..., None] = partial(
                self._transform_vectors, place, row, (at_image, at_top, at_left), first, channels // lanes
            )
            if inside is None:
                branch(checked=False)
                return
            with T.If(inside):
                with T.Then():
                    branch(checked=False)
                with T.Else():
                    branch(checked=True)

    def _inside(self, top: Any, left: Any) -> Any:
        """Return the condition that a tile reads no border; None if none does."""
        sizes, plan = self._sizes, self._plan
        _, downs, rights = self._tiles
        conditions = []
        for at, pad, tiles, extent in (
            (top, sizes.top, downs, sizes.height),
            (left, sizes.left, rights, sizes.width),
        ):
            if pad:
                conditions.append(at >= 0)
            if (tiles - 1) * plan.tile - pad + self._side > extent:
                conditions.append(at <= extent - self._side)
        return tirx.all(*conditions) if conditions else None

    def _transform_vectors(
        self, place: "_Transformed", row: Any, corner: Sequence[Any], first: Any, count: int, checked: bool
    ) -> None:
        data, lanes, sizes = self._arguments[self._layer.data], self._in_lanes, self._sizes
        image, top, left = corner

        def read(down: int, right: int, channel: Any) -> Any:
            value = data[image, top + down, left + right, tirx.Ramp(channel, 1, lanes)]
            if not checked:
                return value
            rows = tirx.all(top + down >= 0, top + down < sizes.height)
            columns = tirx.all(left + right >= 0, left + right < sizes.width)
            return tirx.if_then_else(tirx.all(rows, columns), value, zeros(lanes))

        with T.serial(count) as vector:
            channel = first + vector * lanes
            side = range(self._side)
            given = [[T.bind(read(down, right, channel)) for right in side] for down in side]
            made = transform_input(self._plan.tile, given)
            for number, value in enumerate(one for line in made for one in line):
                at = tirx.Ramp(place.index(row, channel), 1, lanes)
                T.buffer_store(place.buffer, value, [number, at])

    def _multiply(self, place: "_Transformed", first: Any, sums: Any, group: Any) -> None:
        """Multiply a block of transformed tiles by the weights of a group of columns."""
        plan = self._plan
        panels = plan.columns // plan.panel
        with T.grid(plan.products, panels, plan.block // plan.rows) as (number, panel, step):
            channels, row = self._sizes.channels, first + step * plan.rows
            with T.sblock("multiply"):
                start, stop = place.index(row, 0), place.index(row + plan.rows - 1, channels)
                T.reads(
                    place.buffer[number, start:stop],
                    self._packed[group, number, panel, 0:channels, 0 : plan.panel],
                )
                T.writes(
                    sums[
                        number,
                        step * plan.rows : (step + 1) * plan.rows,
                        panel * plan.panel : (panel + 1) * plan.panel,
                    ]
                )
                self._multiply_rows(place, row, (group, number, panel), sums, step)

    def _multiply_rows(
        self, place: "_Transformed", row: Any, at: tuple[Any, Any, Any], sums: Any, step: Any
    ) -> None:
        plan, lanes = self._plan, self._plan.lanes
        group, number, panel = at
        registers = Sums(plan.rows, plan.vectors, lanes)
        with T.serial(self._sizes.channels // self._unrolled) as steps:
            for unrolled in range(self._unrolled):
                channel = steps * self._unrolled + unrolled
                values = [
                    place.buffer[number, place.index(row + index, channel)] for index in range(plan.rows)
                ]
                vectors = [tirx.Ramp(first, 1, lanes) for first in range(0, plan.panel, lanes)]
                registers.add(values, [self._packed[group, number, panel, channel, one] for one in vectors])
        for index in range(plan.rows):
            for vector, value in enumerate(registers.vectors(index)):
                at = tirx.Ramp(panel * plan.panel + vector * lanes, 1, lanes)
                T.buffer_store(sums, value, [number, step * plan.rows + index, at])

    def _finish(self, sums: Any, block: Any, group: Any) -> None:
        """Transform a block's sums back into outputs, and end the layer."""
        plan, sizes, lanes = self._plan, self._sizes, self._out_lanes
        output = self._arguments[-1]
        with T.serial(plan.block) as row:
            tile = block * plan.block + row
            image, down, right = self._corner(tirx.min(tile, self._count - 1))
            first, count = group * plan.columns, min(plan.columns, sizes.out_channels)
            span = (
                image,
                slice(down, down + plan.tile),
                slice(right, right + plan.tile),
                slice(first, first + count),
            )
            with T.sblock("finish"):
                ending = [self._read(number, index) for number, index in self._layer.ending.reads(span)]
                T.reads(sums[0 : plan.products, row, 0 : plan.columns], *ending)
                T.writes(output[span])
                corner = [T.bind(one) for one in (image, down, right)]
                conditions = [tile < self._count] if self._count % plan.block else []
                with Where(*conditions), T.serial(plan.columns // lanes) as vector:
                    channel = group * plan.columns + vector * lanes
                    padded = sizes.out_channels % plan.columns
                    with Where(*([channel < sizes.out_channels] if padded else [])):
                        self._finish_vector(sums, row, vector * lanes, corner, channel)

    def _finish_vector(self, sums: Any, row: Any, column: Any, corner: Sequence[Any], channel: Any) -> None:
        plan, sizes, lanes = self._plan, self._sizes, self._out_lanes
        image, down, right = corner
        at, side = tirx.Ramp(column, 1, lanes), range(self._side)
        given = [[T.bind(sums[i * self._side + j, row, at]) for j in side] for i in side]
        made = transform_output(plan.tile, given)
        # Only the last rows and columns of tiles may reach past the output.
        rest_down, rest_right = sizes.out_height % plan.tile, sizes.out_width % plan.tile
        for i, line in enumerate(made):
            with Where(*([down + i < sizes.out_height] if rest_down and i >= rest_down else [])):
                for j, value in enumerate(line):
                    with Where(*([right + j < sizes.out_width] if rest_right and j >= rest_right else [])):
                        index = [image, down + i, right + j, tirx.Ramp(channel, 1, lanes)]
                        ended = self._layer.ending.value(value, index, self._read, T.bind)
                        T.buffer_store(self._arguments[-1], ended, index)

    def _read(self, number: int, index: Sequence[Any]) -> Any:
        return self._arguments[number][tuple(index)]

    def _corner(self, tile: Any) -> tuple[Any, Any, Any]:
        """Return the image of a tile, and the first row and column of its outputs."""
        _, downs, rights = self._tiles
        size = self._plan.tile
        return tile // (downs * rights), tile // rights % downs * size, tile % rights * size


@dataclass(frozen=True, slots=True)
class _Transformed:
    """Transformed tiles: for each product the rows of channels of all of them, in one dimension.

    Were rows a dimension, TVM would leave out what lies between them.
    """

    buffer: Any
    stride: int

    def index(self, row: Any, channel: Any) -> Any:
        """Return where a value lies among those of a product."""
        return row * self.stride + channel


def _share(channels: int, lanes: int) -> int:
    """Return how many channels a share of the transform handles: whole registers that divide them."""
    return min(
        (share for share in range(lanes, channels + 1, lanes) if channels % share == 0),
        key=lambda share: abs(share - TRANSFORMED_CHANNELS),
    )

"""The kernel of a product's plan, as TIR: sums in registers over the depth or a part of it, and an ending."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from tvm import tirx
from tvm.ir import IRModule
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T  # noqa: N812 - as TVM's own scripts call it

from veltair.compiler.footprint.nest import PREPACKED
from veltair.compiler.recipes.product import Product
from veltair.compiler.recipes.product_plan import ProductPlan
from veltair.compiler.recipes.statements import Sums, Where, arguments_of, zeros

UNROLLED = 4  # steps of a sum in a row


def make_kernel(product: Product, plan: ProductPlan) -> IRModule:
    """Return a module whose "main" computes a layer by a plan. Raises RecipeError if it does not fit."""
    plan.check_fits(product.sizes, can_wait=len(product.reduced) == 1)
    return _Kernel(product, plan).module()


class _Kernel:
    """Builds one kernel: sizes first, then the statements in the order in which they run."""

    def __init__(self, product: Product, plan: ProductPlan) -> None:
        self._product, self._plan, self._sizes = product, plan, product.sizes
        sizes = self._sizes
        self._rows = min(plan.rows, sizes.rows)
        self._tiles = ceil(sizes.rows / self._rows)
        self._block = plan.block // plan.rows
        self._blocks = ceil(self._tiles / self._block)
        self._groups = ceil(sizes.columns / plan.columns)
        self._panels = plan.columns // plan.panel
        self._row, self._column = product.spatial[product.row].var, product.spatial[-1].var
        *outer, self._steps = map(product.extent, product.reduced)
        self._outer = tuple(outer)
        self._waits = plan.depth < sizes.depth
        length = plan.depth if self._waits else self._steps
        self._unrolled = max(step for step in (1, 2, UNROLLED) if length % step == 0)
        # Of the axes that count pairs, the weights have these.
        self._weight_pairs = [
            axis for axis in product.pairs if any(at.same_as(axis.var) for at in product.weights_index)
        ]

    def module(self) -> IRModule:
        product = self._product
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("main")
            free = [product.weights] if product.is_packed else []
            T.func_attr({"tirx.noalias": True, "layout_free_buffers": free})
            self._arguments = arguments_of(product.ending.function)
            with T.sblock("root"):
                if product.is_packed:
                    self._pack()
                self._multiply()
        return IRModule({"main": builder.get().with_attr("global_symbol", "main")})

    def _pack(self) -> None:
        """Lay the weights out in the order in which the products read them."""
        plan, product, sizes = self._plan, self._product, self._sizes
        counts = [product.extent(axis) for axis in self._weight_pairs]
        depths = (*self._outer, self._steps)
        shape = (*counts, self._groups, self._panels, *depths, plan.panel)
        self._packed = T.sblock_alloc_buffer(shape, "float32")
        with T.grid(*shape[:-1]) as loops, T.sblock("pack"):
            pairs, (group, panel), depth = (
                loops[: len(counts)],
                loops[len(counts) : len(counts) + 2],
                loops[len(counts) + 2 :],
            )
            axes = dict(zip([axis.var for axis in self._weight_pairs], pairs, strict=True))
            axes |= dict(zip([axis.var for axis in product.reduced], depth, strict=True))
            weights = self._arguments[product.weights]
            T.reads(
                weights[self._index(product.weights_index, {**axes, self._column: slice(0, sizes.columns)})]
            )
            T.writes(self._packed[(*loops, slice(0, plan.panel))])
            T.sblock_attr({PREPACKED: True})
            with T.serial(plan.vectors) as vector:
                # Columns past the last one repeat it: what comes of them is dropped.
                first = group * plan.columns + panel * plan.panel + vector * plan.lanes
                at = tirx.Ramp(tirx.min(first, sizes.columns - plan.lanes), 1, plan.lanes)
                value = weights[self._index(product.weights_index, {**axes, self._column: at})]
                place = tirx.Ramp(vector * plan.lanes, 1, plan.lanes)
                T.buffer_store(self._packed, value, [*loops, place])

    def _multiply(self) -> None:
        plan, sizes = self._plan, self._sizes
        with T.parallel(sizes.pairs * self._groups * self._blocks) as number, T.sblock("share"):
            pairs = self._pair(number // (self._groups * self._blocks))
            group, block = number // self._blocks % self._groups, number % self._blocks
            if not self._waits:
                with T.grid(self._panels, self._block) as (panel, step):
                    self._tile(pairs, _Place(group, block, panel, step))
                return
            self._waiting = T.sblock_alloc_buffer([plan.block, plan.columns], "float32")
            with T.grid(sizes.depth // plan.depth, self._panels, self._block) as (part, panel, step):
                self._part(pairs, _Place(group, block, panel, step), part)
            with T.grid(self._panels, self._block) as (panel, step):
                self._end(pairs, _Place(group, block, panel, step))

    def _pair(self, pair: Any) -> dict[Any, Any]:
        """Return the axes of a pair's number."""
        found = {}
        for axis in reversed(self._product.pairs):
            extent = self._product.extent(axis)
            found[axis.var] = pair % extent if extent > 1 else 0
            pair = pair // extent
        return found

    def _tile(self, pairs: dict[Any, Any], place: "_Place") -> None:
        """Sum the products of a tile over the whole depth, and end the layer for it."""
        plan, product = self._plan, self._product
        first, column = self._first(place), self._column_of(place)
        with T.sblock("multiply"):
            T.reads(*self._sources(pairs, place, first, self._depths()), *self._endings(pairs, first, column))
            T.writes(self._arguments[-1][self._output(pairs, first, column)])
            row = T.bind(first)
            sums = Sums(self._rows, plan.vectors, plan.lanes)
            with _Loops(self._outer) as outer, T.serial(self._steps // self._unrolled) as steps:
                axes = dict(zip([axis.var for axis in product.reduced[:-1]], outer, strict=True))
                self._add(sums, pairs | axes, place, row, steps)
            for index in range(self._rows):
                for vector, value in enumerate(sums.vectors(index)):
                    self._finish(value, pairs, row + index, column + vector * plan.lanes)

    def _part(self, pairs: dict[Any, Any], place: "_Place", part: Any) -> None:
        """Sum the products of a tile over a part of the depth, and let the sums wait in memory."""
        plan = self._plan
        first, start = self._first(place), part * plan.depth
        waiting = self._waiting_at(place)
        with T.sblock("multiply"):
            depths = [slice(start, start + plan.depth)]
            T.reads(*self._sources(pairs, place, first, depths), self._waiting[waiting])
            T.writes(self._waiting[waiting])
            row = T.bind(first)
            sums = Sums(self._rows, plan.vectors, plan.lanes)
            with T.serial(plan.depth // self._unrolled) as steps:
                self._add(sums, pairs, place, row, part * (plan.depth // self._unrolled) + steps)
            for index in range(self._rows):
                for vector, value in enumerate(sums.vectors(index)):
                    at = (waiting[0].start + index, self._lanes(waiting[1].start + vector * plan.lanes))
                    earlier = tirx.if_then_else(part > 0, self._waiting[at], zeros(plan.lanes))
                    T.buffer_store(self._waiting, earlier + value, list(at))

    def _end(self, pairs: dict[Any, Any], place: "_Place") -> None:
        """End the layer for the sums of a tile that wait in memory."""
        plan = self._plan
        first, column = self._first(place), self._column_of(place)
        waiting = self._waiting_at(place)
        with T.sblock("end"):
            T.reads(self._waiting[waiting], *self._endings(pairs, first, column))
            T.writes(self._arguments[-1][self._output(pairs, first, column)])
            row = T.bind(first)
            with T.serial(self._rows) as index:
                for vector in range(plan.vectors):
                    lanes = self._lanes(waiting[1].start + vector * plan.lanes)
                    value = self._waiting[waiting[0].start + index, lanes]
                    self._finish(value, pairs, row + index, column + vector * plan.lanes)

    def _add(self, sums: Sums, axes: dict[Any, Any], place: "_Place", row: Any, steps: Any) -> None:
        """Add some steps of the depth to the sums of a tile."""
        product = self._product
        data = self._arguments[product.data]
        for unrolled in range(self._unrolled):
            at = axes | {product.reduced[-1].var: steps * self._unrolled + unrolled}
            values = [
                data[self._index(product.data_index, at | {self._row: row + index})]
                for index in range(self._rows)
            ]
            sums.add(values, [self._weight(at, place, vector) for vector in range(self._plan.vectors)])

    def _weight(self, axes: dict[Any, Any], place: "_Place", vector: Any) -> Any:
        """Return a vector of weights at a step of the depth."""
        plan, product = self._plan, self._product
        lanes = self._lanes(vector * plan.lanes)
        if product.is_packed:
            depth = [axes[axis.var] for axis in product.reduced]
            pairs = [axes[axis.var] for axis in self._weight_pairs]
            return self._packed[(*pairs, place.group, place.panel, *depth, lanes)]
        # Columns past the last one repeat it: what comes of them is dropped.
        first = tirx.min(self._column_of(place) + vector * plan.lanes, self._sizes.columns - plan.lanes)
        index = self._index(product.weights_index, axes | {self._column: self._lanes(first)})
        return self._arguments[product.weights][index]

    def _finish(self, value: Any, pairs: dict[Any, Any], row: Any, column: Any) -> None:
        """End the layer for a vector of sums."""
        is_cut = self._sizes.columns % self._plan.columns > 0
        with Where(*([column < self._sizes.columns] if is_cut else [])):
            index = self._spatial(pairs | {self._row: row, self._column: self._lanes(column)})
            ended = self._product.ending.value(value, index, self._read, T.bind)
            T.buffer_store(self._arguments[-1], ended, index)

    def _sources(
        self, pairs: dict[Any, Any], place: "_Place", first: Any, depths: Sequence[Any]
    ) -> tuple[Any, Any]:
        """Return the boxes of data and weights that a tile reads."""
        product, plan = self._product, self._plan
        axes = pairs | {self._row: slice(first, first + self._rows)}
        axes |= dict(zip([axis.var for axis in product.reduced], depths, strict=True))
        data = self._arguments[product.data][self._index(product.data_index, axes)]
        if product.is_packed:
            numbers = [pairs[axis.var] for axis in self._weight_pairs]
            box = (*numbers, place.group, place.panel, *depths, slice(0, plan.panel))
            return data, self._packed[box]
        column = self._column_of(place)
        axes |= {self._column: slice(column, column + plan.panel)}
        return data, self._arguments[product.weights][self._index(product.weights_index, axes)]

    def _depths(self) -> list[Any]:
        return [slice(0, self._product.extent(axis)) for axis in self._product.reduced]

    def _endings(self, pairs: dict[Any, Any], first: Any, column: Any) -> list[Any]:
        span = self._output(pairs, first, column)
        return [self._read(number, index) for number, index in self._product.ending.reads(span)]

    def _output(self, pairs: dict[Any, Any], first: Any, column: Any) -> tuple[Any, ...]:
        rows, columns = slice(first, first + self._rows), slice(column, column + self._plan.panel)
        return self._spatial(pairs | {self._row: rows, self._column: columns})

    def _spatial(self, axes: dict[Any, Any]) -> tuple[Any, ...]:
        return tuple(axes[axis.var] for axis in self._product.spatial)

    def _first(self, place: "_Place") -> Any:
        """Return the first row of a tile. What reaches past the last tile or row computes the last again."""
        tile = tirx.min(place.block * self._block + place.step, self._tiles - 1)
        return tirx.min(tile * self._rows, self._sizes.rows - self._rows)

    def _column_of(self, place: "_Place") -> Any:
        return place.group * self._plan.columns + place.panel * self._plan.panel

    def _waiting_at(self, place: "_Place") -> tuple[slice, slice]:
        row, column = place.step * self._rows, place.panel * self._plan.panel
        return slice(row, row + self._rows), slice(column, column + self._plan.panel)

    def _lanes(self, first: Any) -> Any:
        return tirx.Ramp(first, 1, self._plan.lanes)

    def _index(self, index: Sequence[Any], axes: dict[Any, Any]) -> tuple[Any, ...]:
        return tuple(axes.get(at, at) for at in index)

    def _read(self, number: int, index: Sequence[Any]) -> Any:
        return self._arguments[number][tuple(index)]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tile is: its group of columns and block of rows, and in these its panel and step."""

    group: Any
    block: Any
    panel: Any
    step: Any


class _Loops:
    """A context of serial loops, of none too; it gives their variables."""

    def __init__(self, extents: Sequence[int]) -> None:
        self._frames = [T.serial(extent) for extent in extents]

    def __enter__(self) -> list[Any]:
        return [one.__enter__() for one in self._frames]

    def __exit__(self, *error: Any) -> None:
        for one in reversed(self._frames):
            one.__exit__(*error)

"""A layer's function -> its product of matrices, maybe of many pairs, and what follows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx

from veltair.compiler.recipes.ending import Ending, read_ending
from veltair.compiler.recipes.expressions import equal, is_float32, leaves, product_of
from veltair.compiler.recipes.sizes import Matrices


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A product of matrices in a function.

    `spatial` and `reduced` are the axes of its sums: pairs, rows and columns; and the depth, innermost last.
    `row` is the place of the rows among `spatial`; the columns are the last. `data` and `weights` are numbers
    of parameters with the axes, or constants, of their indices. `is_packed`: the weights are constants, whose
    layout is free.
    """

    spatial: tuple[Any, ...]
    reduced: tuple[Any, ...]
    row: int
    data: int
    data_index: tuple[Any, ...]
    weights: int
    weights_index: tuple[Any, ...]
    is_packed: bool
    ending: Ending

    def extent(self, axis: Any) -> int:
        """Return the extent of an axis."""
        return int(axis.dom.extent)

    @property
    def pairs(self) -> tuple[Any, ...]:
        """The axes that count pairs of matrices."""
        return tuple(axis for place, axis in enumerate(self.spatial[:-1]) if place != self.row)

    @property
    def sizes(self) -> Matrices:
        """How large it is."""
        counts = (prod(map(self.extent, axes)) for axes in (self.pairs, self.reduced))
        pairs, depth = counts
        return Matrices(pairs, self.extent(self.spatial[self.row]), self.extent(self.spatial[-1]), depth)


def read_product(function: Any) -> Product | None:
    """Return the product of matrices of a layer; None if it has none that a recipe computes.

    It has one if it is one product of float32, of arguments as they are, followed by operations on single
    elements. Columns and depth lie innermost in the weights and the data.
    """
    blocks = list(leaves(function.body))
    if not blocks or blocks[0].init is None or any(block.init is not None for block in blocks[1:]):
        return None
    main = blocks[0]
    kinds = [int(axis.iter_type) for axis in main.iter_vars]
    factors = product_of(main) if is_float32(blocks) and kinds == sorted(kinds) else None
    if factors is None:
        return None
    ending = read_ending(function, main, blocks[1:])
    spatial = tuple(axis for axis in main.iter_vars if int(axis.iter_type) == 0)
    reduced = tuple(axis for axis in main.iter_vars if int(axis.iter_type) == 2)
    if ending is None or len(spatial) < 2 or not reduced:
        return None
    if not equal(main.body.indices, [axis.var for axis in spatial]):
        return None
    column = spatial[-1].var
    data, weights = sorted(factors, key=lambda load: _has(load.indices, column))
    return _placed(function, spatial, reduced, data, weights, ending)


def _placed(
    function: Any, spatial: tuple[Any, ...], reduced: tuple[Any, ...], data: Any, weights: Any, ending: Ending
) -> Product | None:
    """Return the product of two loads; None where their indices are not those of matrices."""
    column, parameters = spatial[-1].var, list(function.params)
    if data.source not in parameters or weights.source not in parameters:
        return None
    known = [axis.var for axis in (*spatial, *reduced)]
    plain = all(
        isinstance(at, tirx.IntImm) or any(at.same_as(axis) for axis in known)
        for at in (*data.indices, *weights.indices)
    )
    rows = [
        place
        for place, axis in enumerate(spatial[:-1])
        if _has(data.indices, axis.var) and not _has(weights.indices, axis.var)
    ]
    depths = all(_has(load.indices, axis.var) for load in (data, weights) for axis in reduced)
    diagonal = _has(weights.indices[:-1], column)  # its columns are no vector
    if not plain or not rows or not depths or diagonal or _has(data.indices, column):
        return None
    # An Einsum has its axes in the order of their letters.
    reduced = tuple(sorted(reduced, key=lambda axis: _place(data.indices, axis.var)))
    if not weights.indices[-1].same_as(column) or not data.indices[-1].same_as(reduced[-1].var):
        return None
    number = parameters.index(weights.source)
    return Product(
        spatial, reduced, rows[-1], parameters.index(data.source), tuple(data.indices), number,
        tuple(weights.indices), _is_free(function, number, spatial, ending), ending,
    )  # fmt: skip


def _is_free(function: Any, number: int, spatial: tuple[Any, ...], ending: Ending) -> bool:
    """Tell whether weights may be laid out anew: as constants that what follows does not read too."""
    free = function.attrs.get("layout_free_buffers", ()) if function.attrs else ()
    others = {read for read, _ in ending.reads([axis.var for axis in spatial])}
    return number in [int(one) for one in free] and number not in others


def _place(indices: Sequence[Any], variable: Any) -> int:
    return [at.same_as(variable) for at in indices].index(True)


def _has(indices: Sequence[Any], variable: Any) -> bool:
    return any(at.same_as(variable) for at in indices)

"""What follows a layer's sums, element by element, up to its output."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from veltair.compiler.recipes.expressions import equal, evaluate, is_single, loads_of

# From the number of a parameter and indices to the value there.
Read = Callable[[int, Sequence[Any]], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Ending:
    """The blocks of a function after the one that computes its sums."""

    function: Any
    sums: Any
    following: tuple[Any, ...]

    def reads(self, span: Sequence[Any]) -> list[Any]:
        """Return what is read of parameters, as (number, index); `span` is the index of the sums."""
        found = []
        for block in self.following:
            axes = {axis.var: one for axis, one in zip(block.iter_vars, span, strict=True)}
            for load in loads_of(block.body.value):
                if load.source in self.parameters:
                    index = [axes.get(at, at) for at in load.indices]
                    found.append((self.parameters.index(load.source), index))
        return found

    @property
    def parameters(self) -> list[Any]:
        """The function's parameters; the last one is its output."""
        return list(self.function.params)

    def value(self, sums: Any, index: Sequence[Any], read: Read, keep: Callable[[Any], Any]) -> Any:
        """Return the layer's output at an index, of the sums there.

        The last of `index` may be a vector; `read` reads a parameter of the function by its number. `keep`
        gives a value that is used more than once a name.
        """
        known = {self.sums: sums}

        def load(buffer: Any, at: Sequence[Any]) -> Any:
            return known[buffer] if buffer in known else read(self.parameters.index(buffer), at)

        for block in self.following:
            axes = {axis.var: one for axis, one in zip(block.iter_vars, index, strict=True)}
            known[block.body.buffer] = keep(evaluate(block.body.value, axes, load))
        return known[self.parameters[-1]]


def read_ending(function: Any, main: Any, following: Sequence[Any]) -> Ending | None:
    """Return what follows a block of sums; None if it is more than operations on single elements of float32.

    It is if the function has more than one output, or one of another shape than the sums.
    """
    parameters = list(function.params)
    shape = list(map(int, main.body.buffer.ty.shape))
    known = {main.body.buffer}
    for block in following:
        axes = [axis.var for axis in block.iter_vars]
        store = block.body
        if not isinstance(store, tirx.BufferStore) or not equal(store.indices, axes):
            return None
        is_alike = list(map(int, store.buffer.ty.shape)) == shape
        if not is_alike or not is_single(store.value, axes, known, parameters):
            return None
        known.add(store.buffer)
    written = [one for one in parameters if one in known]
    if len(written) != 1 or not written[0].same_as(parameters[-1]):
        return None
    return Ending(function, main.body.buffer, tuple(following))

"""The kernel of a softmax's plan, as TIR: each row is read once from memory, and stays in the L1."""

from collections.abc import Callable
from functools import reduce
from math import ceil
from typing import Any

from tvm import tirx
from tvm.ir import IRModule
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T  # noqa: N812 - as TVM's own scripts call it

from veltair.compiler.recipes.softmax import Softmax
from veltair.compiler.recipes.softmax_plan import SoftmaxPlan
from veltair.compiler.recipes.statements import arguments_of

# Vectors of a row that are handled at once: each maximum and sum waits for the one before it.
MOST_VECTORS = 4


def make_kernel(softmax: Softmax, plan: SoftmaxPlan) -> IRModule:
    """Return a module whose "main" computes a layer by a plan. Raises RecipeError if it does not fit."""
    plan.check_fits(softmax.rows, softmax.length)
    return _Kernel(softmax, plan).module()


class _Kernel:
    """Builds one kernel."""

    def __init__(self, softmax: Softmax, plan: SoftmaxPlan) -> None:
        self._softmax, self._lanes = softmax, plan.lanes
        self._block = min(plan.block, softmax.rows)
        vectors = softmax.length // plan.lanes
        self._vectors = max(count for count in range(1, MOST_VECTORS + 1) if vectors % count == 0)
        self._steps = vectors // self._vectors

    def module(self) -> IRModule:
        rows = self._softmax.rows
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"tirx.noalias": True})
            self._data, self._output = arguments_of(self._softmax.function)
            shares = T.parallel(ceil(rows / self._block))
            with T.sblock("root"), shares as share, T.serial(self._block) as step:
                # The last share may reach past the last row: it computes that one again.
                self._row(tirx.min(share * self._block + step, rows - 1))
        return IRModule({"main": builder.get().with_attr("global_symbol", "main")})

    def _row(self, row: Any) -> None:
        whole = self._index(row, slice(0, self._softmax.length))
        with T.sblock("row"):
            T.reads(self._data[whole])
            T.writes(self._output[whole])
            at = T.bind(row)
            least = tirx.Broadcast(tirx.min_value("float32"), self._lanes)
            most = self._reduced(tirx.max, least, lambda lanes: self._data[self._index(at, lanes)])
            power = self._power(at, most)
            total = self._reduced(
                lambda a, b: a + b, tirx.Broadcast(tirx.FloatImm("float32", 0.0), self._lanes), power
            )
            scale = T.bind(tirx.Broadcast(tirx.FloatImm("float32", 1.0) / total, self._lanes))
            with T.serial(self._steps * self._vectors) as vector:
                index = self._index(at, tirx.Ramp(vector * self._lanes, 1, self._lanes))
                T.buffer_store(self._output, self._output[index] * scale, list(index))

    def _power(self, row: Any, most: Any) -> Callable[[Any], Any]:
        """Return what computes, writes and returns the powers at some lanes of a row."""
        wide = T.bind(tirx.Broadcast(most, self._lanes))

        def power(lanes: Any) -> Any:
            index = self._index(row, lanes)
            value = T.bind(tirx.exp(self._data[index] - wide))
            T.buffer_store(self._output, value, list(index))
            return value

        return power

    def _reduced(self, combine: Callable[[Any, Any], Any], first: Any, value: Callable[[Any], Any]) -> Any:
        """Return a row's values, combined into one."""
        whole = tirx.Ramp(0, 1, self._lanes)
        found = [T.alloc_buffer([self._lanes], "float32") for _ in range(self._vectors)]
        for one in found:
            T.buffer_store(one, first, [whole])
        with T.serial(self._steps) as step:
            for number, one in enumerate(found):
                start = (step * self._vectors + number) * self._lanes
                T.buffer_store(one, combine(one[whole], value(tirx.Ramp(start, 1, self._lanes))), [whole])
        together = T.alloc_buffer([self._lanes], "float32")
        T.buffer_store(together, reduce(combine, (one[whole] for one in found)), [whole])
        return T.bind(reduce(combine, (together[lane] for lane in range(self._lanes))))

    def _index(self, row: Any, last: Any) -> tuple[Any, ...]:
        """Return the index of a part of a row; rows are counted over all axes but the last."""
        *outer, _ = map(int, self._softmax.function.params[0].ty.shape)
        found: list[Any] = []
        for extent in reversed(outer):
            found.insert(0, row % extent if extent > 1 else 0)
            row = row // extent
        return (*found, last)

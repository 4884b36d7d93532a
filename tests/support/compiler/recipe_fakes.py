"""A stand-in for the generator of recipes: a matrix product whose weights are doubled beforehand.

As in the kernels of recipes, a block computes the weights' new form.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from tvm.ir import IRModule
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T  # noqa: N812 -- TVM's own name

from veltair.compiler.recipes.recipe import RecipeError
from veltair.compiler.search import search as search_module


def doubled(tile: int, **keys: Any) -> dict[str, Any]:
    """Return a recipe: so many columns are computed at once, one parallel iteration each."""
    return {"winograd": {"tile": tile, "keys": "sorted or not", **keys}}


def parse_doubled(trace: Any) -> None:
    """Refuse what `plan.parse` would refuse, were this a recipe of its."""
    keys = trace["winograd"]
    if unknown := set(keys) - {"tile", "keys"}:
        raise RecipeError(f"unknown keys {sorted(unknown)}")


def generate_doubled(function: Any, trace: Any, factor: float = 2.0) -> Any:
    """Do what `recipes.generated` does, for x[rows, depth] w[depth, columns] -> y[rows, columns]."""
    parse_doubled(trace)
    tile = int(trace["winograd"]["tile"])
    (rows, depth), (_, columns), *_ = ([int(n) for n in one.ty.shape] for one in function.params)
    if columns % tile:
        raise RecipeError(f"{columns} columns are no tiles of {tile}")
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True, "layout_free_buffers": [1]})
        x = T.arg("x", T.buffer((rows, depth), "float32"))
        w = T.arg("w", T.buffer((depth, columns), "float32"))
        y = T.arg("y", T.buffer((rows, columns), "float32"))
        with T.sblock("root"):
            u = T.sblock_alloc_buffer((columns // tile, depth, tile), "float32")
            with T.grid(columns // tile, depth, tile) as loops, T.sblock("transform"):
                b, k, c = (T.axis.spatial(n, loop) for n, loop in zip(u.shape, loops, strict=True))
                T.reads(w[k, b * tile + c])
                T.writes(u[b, k, c])
                T.sblock_attr({"meta_schedule.layout_rewrite_preproc": True})
                T.buffer_store(u, w[k, b * tile + c] * T.float32(factor), [b, k, c])
            with T.parallel(0, columns // tile) as p, T.sblock("product"):
                b = T.axis.spatial(columns // tile, p)
                T.reads(x[0:rows, 0:depth], u[b, 0:depth, 0:tile])
                T.writes(y[0:rows, b * tile : b * tile + tile])
                with T.grid(rows, tile) as (i, c):
                    T.buffer_store(y, T.float32(0), [i, b * tile + c])
                    with T.serial(0, depth) as k:
                        total = y[i, b * tile + c] + x[i, k] * u[b, k, c] * T.float32(1 / factor)
                        T.buffer_store(y, total, [i, b * tile + c])
    return IRModule({"main": builder.get()})


def install(monkeypatch: pytest.MonkeyPatch, *listed: dict[str, Any]) -> None:
    """Let the search know these recipes, and this generator."""

    def recipes(function: Any, target: Any) -> Sequence[dict[str, Any]]:
        return list(listed)

    monkeypatch.setattr(search_module, "recipes", recipes)
    monkeypatch.setattr(search_module, "generated", generate_doubled)

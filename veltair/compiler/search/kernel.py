"""One candidate as a kernel that can be called, timed as the search times it: alone, with cold caches."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm.s_tir.meta_schedule.arg_info import ArgInfo

from veltair.compiler.recipes.recipe import is_recipe
from veltair.compiler.search.prepacked import measured_kernel
from veltair.compiler.search.runner import Arguments, build_candidate
from veltair.compiler.search.search import replay

# What TVM runs before a measured call: it evicts all arguments but the first, the layer's input.
FLUSH = "cache_flush_cpu_non_first_arg"


def cold_kernel(function: Any, trace: Any, target: Any) -> Callable[[], float]:
    """Return what runs a candidate once, on random arguments, and returns the seconds.

    Its weights count as packed already, as in the search. It runs on the calling thread's cores.
    """
    scheduled = replay(function, trace)
    kernel, arguments = measured_kernel(scheduled) if is_recipe(trace) else (scheduled, _arguments(scheduled))
    module = build_candidate(kernel, target)
    random = np.random.default_rng(0)
    tensors = [_tensor(dtype, shape, random) for dtype, shape in arguments]
    timed = module.time_evaluator("main", tvm.cpu(), number=1, repeat=1, f_preproc=FLUSH)
    return lambda: float(timed(*tensors).results[0])


def _arguments(scheduled: Any) -> Arguments:
    infos = ArgInfo.from_entry_func(scheduled, remove_preproc=True)
    return [(str(info.dtype), tuple(int(extent) for extent in info.shape)) for info in infos]


def _tensor(dtype: str, shape: tuple[int, ...], random: np.random.Generator) -> Any:
    if dtype.startswith("float"):
        return tvm.runtime.tensor(random.standard_normal(shape).astype(dtype))
    return tvm.runtime.tensor(np.zeros(shape, dtype))  # an index that is always valid

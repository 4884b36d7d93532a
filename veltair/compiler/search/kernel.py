"""One candidate as a kernel that can be called, timed as the search times it: alone, with cold caches."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm.s_tir.meta_schedule.arg_info import ArgInfo

from veltair.compiler.search.runner import build_candidate
from veltair.compiler.search.search import replay

# What TVM runs before a measured call: it evicts all arguments but the first, the layer's input.
FLUSH = "cache_flush_cpu_non_first_arg"


def cold_kernel(function: Any, trace: Any, target: Any) -> Callable[[], float]:
    """Return what runs a candidate once, on random arguments, and returns the seconds.

    Its weights count as packed already, as in the search. It runs on the calling thread's cores.
    """
    scheduled = replay(function, trace)
    module = build_candidate(scheduled, target)
    random = np.random.default_rng(0)
    arguments = [_argument(info, random) for info in ArgInfo.from_entry_func(scheduled, remove_preproc=True)]
    timed = module.time_evaluator("main", tvm.cpu(), number=1, repeat=1, f_preproc=FLUSH)
    return lambda: float(timed(*arguments).results[0])


def _argument(info: Any, random: np.random.Generator) -> Any:
    shape = tuple(int(extent) for extent in info.shape)
    if str(info.dtype).startswith("float"):
        return tvm.runtime.tensor(random.standard_normal(shape).astype(str(info.dtype)))
    return tvm.runtime.tensor(np.zeros(shape, str(info.dtype)))  # an index that is always valid

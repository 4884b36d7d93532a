"""Run an imported network without schedules, as it was imported: to tell faults of the import from others."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import s_tir
from tvm.ir import IRModule
from tvm.target import Target

from veltair.compiler.frontend.importer import ImportedModel, Source
from veltair.compiler.frontend.quiet import quietly
from veltair.compiler.frontend.samples import Samples
from veltair.compiler.search.intrinsics import vectorise_math

# Layers of more multiply-accumulates get loops that vectorise; compiling those takes longer than others run.
MANY_MACS = 20_000_000
LANES = 16
Tell = Callable[[str], None]


def run_unscheduled(
    imported: ImportedModel, samples: Samples, target: Any, tell: Tell | None = None
) -> list[NDArray[Any]]:
    """Return the outputs of a network whose kernels are compiled as they were imported, without a search.

    `tell` is called with the progress, once it takes longer than 3 seconds.
    """
    macs = {layer.structure: layer.macs for layer in imported.model.layers}
    progress = _Progress(tell)
    kernels: dict[str, Any] = {}
    vectorise_math()
    for structure, function in imported.functions().items():
        progress.say(f"compiling layer structure {len(kernels) + 1} of {len(macs)}")
        kernels[structure] = _compile(function, macs[structure], target)
    values: dict[tuple[int, int], Any] = {
        (-1, number): tvm.runtime.tensor(sample) for number, sample in enumerate(samples)
    }
    last = _last_reads(imported)
    constants: dict[int, Any] = {}
    for number, (layer, call) in enumerate(zip(imported.model.layers, imported.calls, strict=True)):
        progress.say(f"running layer {number + 1} of {len(imported.calls)}")
        outputs = [
            tvm.runtime.tensor(np.empty(shape, dtype))
            for shape, dtype in zip(call.outputs, call.dtypes, strict=True)
        ]
        given = [_argument(one, values, constants) for one in call.inputs]
        kernels[layer.structure](*given, *outputs)
        values.update({(number, place): output for place, output in enumerate(outputs)})
        for key in [key for key, reader in last.items() if reader == number]:
            values.pop(key, None)
    return [values[source.layer, source.output].numpy() for source in imported.outputs]


def _last_reads(imported: ImportedModel) -> dict[tuple[int, int], int]:
    """Return the layer after which nobody reads a value any more; outputs are kept."""
    last: dict[tuple[int, int], int] = {}
    for number, call in enumerate(imported.calls):
        for one in call.inputs:
            if isinstance(one, Source):
                last[one.layer, one.output] = number
    for source in imported.outputs:
        last.pop((source.layer, source.output), None)
    return last


def _argument(
    one: Source | NDArray[Any], values: dict[tuple[int, int], Any], constants: dict[int, Any]
) -> Any:
    if isinstance(one, Source):
        return values[one.layer, one.output]
    return constants.setdefault(id(one), tvm.runtime.tensor(np.ascontiguousarray(one).reshape(one.shape)))


def _compile(function: Any, macs: int, target: Any) -> Any:
    module = IRModule({"main": function.with_attr("global_symbol", "main")})
    if macs > MANY_MACS:
        module = _vectorised(module)
    else:
        # What runs once and is short is compiled longer than it runs.
        target = Target({**target.export(), "opt-level": 1})
    with quietly():
        return tvm.compile(module, target=target)["main"]


def _vectorised(module: Any) -> Any:
    """Let the innermost loop of each large sum run over outputs; as it is where that fails."""
    try:
        schedule = s_tir.Schedule(module, debug_mask="none")
        for block in schedule.get_child_blocks(schedule.get_sblock("root")):
            kinds = [int(one.iter_type) for one in schedule.get(block).iter_vars]
            loops = schedule.get_loops(block)
            if 2 not in kinds or len(kinds) != len(loops):
                continue
            spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == 0]
            sums = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == 2]
            *outer, inner = spatial
            blocks, lanes = schedule.split(inner, [None, LANES])
            schedule.reorder(*outer, blocks, *sums, lanes)
            schedule.vectorize(lanes)
            schedule.parallel(schedule.fuse(*outer))
            schedule.decompose_reduction(block, sums[0])
        return schedule.mod
    except (s_tir.schedule.ScheduleError, tvm.error.InternalError, ValueError, IndexError):
        return module


class _Progress:
    """Tells how far something is, at most every 3 seconds and not in the first."""

    EVERY_S = 3.0

    def __init__(self, tell: Tell | None) -> None:
        self._tell, self._told_s = tell, time.perf_counter()

    def say(self, text: str) -> None:
        """Tell it, if it is time."""
        now_s = time.perf_counter()
        if self._tell is not None and now_s - self._told_s >= self.EVERY_S:
            self._told_s = now_s
            self._tell(text)

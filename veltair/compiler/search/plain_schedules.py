"""Schedules that any layer has: its loops as they are, in parallel and in vectors where that is allowed.

They serve layers for which nobody wrote a schedule or a recipe when there is no time for a search.
"""

from typing import Any

from tvm import s_tir

from veltair.compiler.search.evolution import REFUSED, module_of

LANES = 16
# A loop of more iterations than this is split into as many shares, so that cores can be given to them.
SHARES = 64


def plain_schedules(function: Any, target: Any) -> list[Any]:
    """Return one schedule of a layer that runs its blocks in parallel, or one that changes nothing."""
    for apply in (_in_parallel, lambda schedule: schedule):
        try:
            return [apply(s_tir.Schedule(module_of(function), debug_mask="none", seed=1))]
        except REFUSED:
            continue
    return []


def _in_parallel(schedule: Any) -> Any:
    """Inline what is only element by element, and run each other block in parallel over its outer loops."""
    root = schedule.get_sblock("root")
    for block in schedule.get_child_blocks(root):
        if not _reduces(schedule, block) and schedule.get_consumers(block):
            _try_to_inline(schedule, block)
    for block in schedule.get_child_blocks(root):
        loops = schedule.get_loops(block)
        kinds = [int(one.iter_type) for one in schedule.get(block).iter_vars]
        outer = []
        for loop, kind in zip(loops, kinds, strict=True):
            if kind != 0:
                break
            outer.append(loop)
        reduces = len(outer) < len(loops)
        if not outer:
            continue
        inner = None if reduces or len(outer) < 2 else outer.pop()
        shares = schedule.fuse(*outer)
        if int(schedule.get(shares).extent) > SHARES and int(schedule.get(shares).extent) % SHARES == 0:
            shares, _ = schedule.split(shares, [SHARES, None])
        schedule.parallel(shares)
        if inner is not None and int(schedule.get(inner).extent) % LANES == 0:
            schedule.vectorize(schedule.split(inner, [None, LANES])[1])
    return schedule


def _reduces(schedule: Any, block: Any) -> bool:
    return any(int(one.iter_type) == 2 for one in schedule.get(block).iter_vars)


def _try_to_inline(schedule: Any, block: Any) -> None:
    try:
        schedule.compute_inline(block)
    except REFUSED:
        return

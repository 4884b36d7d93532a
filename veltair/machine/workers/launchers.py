"""The gangs by the names that a configuration has for them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from veltair.machine.workers.native_pool import NativePool
from veltair.machine.workers.pool import Launch, WorkerPool
from veltair.machine.workers.tvm_pool import TvmPool

LAUNCHERS = ("gang", "tvm")


def launcher(name: str, build_dir: Path, *, malleable: bool = False, notes: Path | None = None) -> Launch:
    """Return what starts a gang on some cores: our own workers ("gang"), or TVM's pools ("tvm").

    `build_dir` is where C sources are compiled to. `notes` is where our workers write what they are at,
    should the process crash; TVM's cannot. Raises ValueError for another name, and for malleable blocks of
    TVM's pools, which cannot take in a core while a layer runs.
    """
    if name not in LAUNCHERS:
        raise ValueError(f"engine.launcher is {name!r}; choose from {', '.join(LAUNCHERS)}")
    if name == "gang":
        return partial(_native, build_dir, malleable, notes)
    if malleable:
        raise ValueError("engine.malleable needs `engine.launcher: pool`; set that, or malleable to false")
    return TvmPool


def _native(build_dir: Path, malleable: bool, notes: Path | None, core_ids: Sequence[int]) -> WorkerPool:
    return NativePool(core_ids, build_dir, malleable=malleable, notes=notes)
